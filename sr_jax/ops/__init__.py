"""Pure functions of arrays that every other room builds on."""
