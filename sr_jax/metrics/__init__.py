"""Image quality metrics and the protocols that give them meaning."""
