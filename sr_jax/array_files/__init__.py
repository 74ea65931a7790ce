"""Readers of array files from untrusted sources.

They run no code of a file, open no other file, and compare the sizes that a
file declares with a limit before they allocate memory.
"""
