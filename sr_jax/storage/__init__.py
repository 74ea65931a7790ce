"""Files of arrays: written, checked and kept."""
