"""Readers of other programs' file formats; none runs code of the file."""
