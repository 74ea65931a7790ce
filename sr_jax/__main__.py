"""Runs `sr-jax` as `python -m sr_jax`.

Python requires the name of this file; no module imports it.
"""

import sys

from sr_jax.cli.main import main

if __name__ == '__main__':
  sys.exit(main())
