"""`python -m sr_jax.cli`, the same as `sr-jax`."""

import sys

from sr_jax.cli.main import main

if __name__ == '__main__':
  sys.exit(main())
