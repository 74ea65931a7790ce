"""The ways to name a blur kernel, and suggestions for misspelled names."""

from __future__ import annotations

import difflib
import re

from sr_jax.errors import UserError

# Every way to name one kernel, for errors, help texts and docs/adapt.md.
KERNELS = (
  'bicubic, gaussian:VAR, gaussian:V1,V2,THETA, sigma:S, bd, FILE.npy, FILE.mat'
)
# For models that estimate the kernel of an image.
KERNELS_OR_AUTO = f'{KERNELS}, auto, kernelgan'
# For `sr-jax upscale`, which can try several.
KERNELS_TO_TRY = f'{KERNELS_OR_AUTO}, or several of these between semicolons'
MEANING = (
  'V1 and V2 are variances in HR pixels squared, THETA is in radians, S is a '
  'standard deviation on 21x21 taps, bd is the blur of the BD degradation (x3)'
)

# The beginning of a name, and what follows a colon or a similar character.
_NAME = re.compile(r'\s*([a-z]+)\s*[:=( ]?\s*([^\s)]*)\)?\s*', re.IGNORECASE)
_NUMBERS = re.compile(r'[-+.\deE]+(,[-+.\deE]+,[-+.\deE]+)?')


def unknown_kernel(spec: str, known: str) -> UserError:
  """The error for an unknown kernel name, which suggests a similar name if any.

  Args:
    spec: The name.
    known: The accepted names, one of the lists of this module.
  """
  near = _suggestion(spec, known)
  hint = f'did you mean {near}?' if near else 'give one of these'
  return UserError(f'no kernel {spec!r}; {hint} ({known})')


def _suggestion(spec: str, known: str) -> str | None:
  match = _NAME.fullmatch(spec)
  if match is None:
    return None
  words = ('bicubic', 'bd', 'auto', 'kernelgan')
  names = [word for word in words if word in known]
  word, rest = match[1].lower(), match[2]
  if rest:
    near = difflib.get_close_matches(word, ['gaussian'], n=1)
    return f'gaussian:{rest}' if near and _NUMBERS.fullmatch(rest) else None
  return next(iter(difflib.get_close_matches(word, names, n=1)), None)
