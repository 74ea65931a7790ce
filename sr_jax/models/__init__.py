"""Architectures: one paper per file, found by module name."""
