"""Networks that tell how an image was made, instead of enlarging it."""
