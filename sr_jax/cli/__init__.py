"""The `sr-jax` command: one file per command, imported when it runs."""
