"""`python -m sr_jax`, the same as `sr-jax`.

Python asks for this name. It is no room of its own: nothing imports it.
"""

import sys

from sr_jax.cli.main import main

if __name__ == '__main__':
  sys.exit(main())
