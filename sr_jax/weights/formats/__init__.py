"""Readers of other programs' weight files; none of them runs code of a file."""
