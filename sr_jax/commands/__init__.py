"""What each sr-jax command does; `run(args)` gives the exit status."""
