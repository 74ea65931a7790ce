"""Enlarging photographs with a trained model."""
