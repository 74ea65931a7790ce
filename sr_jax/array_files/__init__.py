"""Readers of array files that strangers wrote: bounded, and without trust.

They run no code of a file, open no other file, and compare the sizes that a
file declares with a limit before they take memory.
"""
