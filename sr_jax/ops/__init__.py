"""Pure functions of arrays, on which all other parts of the package build."""
