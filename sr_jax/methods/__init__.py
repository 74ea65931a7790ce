"""Training procedures made of transforms."""
