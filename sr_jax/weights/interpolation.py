"""Network interpolation (Wang et al., ESRGAN, ECCVW 2018; and DNI, CVPR 2019).

Between a network trained for PSNR and the same one trained further as a GAN lie
networks that trade fidelity for texture.
"""

from __future__ import annotations

from typing import Any

import jax

from sr_jax.errors import UserError

PyTree = Any


def interpolate(a: PyTree, b: PyTree, alpha: float) -> PyTree:
  """(1 - alpha) a + alpha b, leaf by leaf; exactly `a` at 0 and `b` at 1.

  Args:
    a: Parameters.
    b: Parameters of the same structure and shapes.
    alpha: In [0, 1].

  Raises:
    UserError: alpha is not, or the trees differ; naming where.
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
      f'unlike networks are not interpolated: {path} is {first} in one and '
      f'{second} in the other'
    )
  if alpha in (0, 1):  # 0 * x is not 0 where x is not finite
    return b if alpha else a
  return jax.tree.map(
    lambda x, y: ((1 - alpha) * x + alpha * y).astype(x.dtype), a, b
  )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
