"""Reads parameters from files, and writes parameters to files."""
