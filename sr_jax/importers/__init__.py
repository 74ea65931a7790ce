"""Published weights in, exchange formats out."""
