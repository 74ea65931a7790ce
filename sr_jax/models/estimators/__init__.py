"""Networks that estimate how an image was degraded."""
