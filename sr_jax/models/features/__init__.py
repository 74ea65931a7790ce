"""Networks whose features losses and metrics compare."""
