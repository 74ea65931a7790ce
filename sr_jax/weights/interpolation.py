"""Network interpolation (Wang et al., ESRGAN, ECCVW 2018; and DNI, CVPR 2019).

Interpolating the weights of a network trained for PSNR and of the same network
after further training as a GAN trades fidelity for texture.
"""

from __future__ import annotations

from typing import Any

import jax

from sr_jax.errors import UserError

PyTree = Any


def interpolate(a: PyTree, b: PyTree, alpha: float) -> PyTree:
  """Computes (1 - alpha) a + alpha b for each parameter.

  Args:
    a: Parameters, returned unchanged for alpha 0.
    b: Parameters of the same structure and shapes, returned for alpha 1.
    alpha: Weight of `b` in [0, 1].

  Raises:
    UserError: alpha is out of range, or the trees differ; the error names the
      first difference.
  """
  if not 0 <= alpha <= 1:
    raise UserError(f'alpha must be in [0, 1], not {alpha:g}')
  shapes = [_shapes(tree) for tree in (a, b)]
  if shapes[0] != shapes[1]:
    path = sorted(
      path
      for path in shapes[0].keys() | shapes[1].keys()
      if shapes[0].get(path) != shapes[1].get(path)
    )[0]
    first, second = (x.get(path, 'missing') for x in shapes)
    raise UserError(
      f'different networks are not interpolated: {path} is {first} in one and '
      f'{second} in the other'
    )
  if alpha in (0, 1):  # 0 * x would be NaN where x is not finite
    return b if alpha else a
  return jax.tree.map(
    lambda x, y: ((1 - alpha) * x + alpha * y).astype(x.dtype), a, b
  )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
