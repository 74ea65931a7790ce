"""Function to function: wrappers that know no model and no config."""
