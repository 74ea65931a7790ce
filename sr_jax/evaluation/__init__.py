"""Benchmarks: degrade, predict, measure, write down."""
