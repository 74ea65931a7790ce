"""Image files, image sources and training batches."""
