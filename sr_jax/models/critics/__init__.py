"""Networks that judge images instead of enlarging them."""
