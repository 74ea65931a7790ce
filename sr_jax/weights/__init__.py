"""Files turned into parameters, and parameters into files."""
