"""Parameters of a network by their paths, such as `head/kernel`.

The parameters of equal blocks in a chain are stacked (`common.chain`):
`body_*/conv1/kernel` is `[blocks, 3, 3, C, C]`. Files of published weights hold
them unstacked, as `body_0/conv1/kernel`, `body_1/conv1/kernel` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.errors import UserError
from sr_jax.typing import Network

Shapes = dict[str, tuple[int, ...]]


def shapes_of(tree: Any) -> Shapes:
  """Returns the shape of every leaf of a parameter tree, by path."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def expected_shapes(network: Network, collection: str = 'params') -> Shapes:
  """Returns the shapes of a network's variables by path, without computing.

  The result is empty if the network has no such `collection` of variables.
  """
  side = network.example_side
  image = jax.ShapeDtypeStruct((1, side, side, network.channels), jnp.float32)
  variables = jax.eval_shape(network.init, jax.random.key(0), image)
  return shapes_of(variables.get(collection, {}))


def unstacked_shapes(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
  """Returns the shapes of unstacked parameters."""
  return {
    name: shape if name == path else shape[1:]
    for path, shape in shapes.items()
    for name in _names(path, shape)
  }


def unstack(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Unstacks the parameters of chains; the results are views."""
  single = {}
  for path, array in arrays.items():
    array = np.asarray(array)
    names = _names(path, array.shape)
    parts = [array] if names == [path] else array
    single |= dict(zip(names, parts, strict=True))
  return single


def stack(
  arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
  """Inverts `unstack` for a network with these shapes."""
  return {
    path: np.stack([arrays[name] for name in _names(path, shape)])
    if '*' in path
    else arrays[path]
    for path, shape in shapes.items()
  }


def _names(path: str, shape: tuple[int, ...]) -> list[str]:
  """Returns the unstacked paths, in the order of the first axis."""
  if '*' not in path:
    return [path]
  return [path.replace('*', str(i)) for i in range(shape[0])]


def check_parameters(network: Network, slots: Any) -> None:
  """Refuses parameters whose paths or shapes are not the network's.

  Args:
    network: The network.
    slots: Parameters and statistics by slot, as a checkpoint holds them.

  Raises:
    UserError: Parameters differ; the error names up to three of them.
  """
  expected = expected_shapes(network) | expected_shapes(network, 'batch_stats')
  given = shapes_of(slots.get('generator'))
  given |= shapes_of(slots.get('batch_stats'))
  unlike = [
    f'{path} is {given.get(path, "missing")}, not {expected.get(path, "there")}'
    for path in sorted({*expected, *given})
    if expected.get(path) != given.get(path)
  ]
  if unlike:
    more = f' and {len(unlike) - 3} more' if len(unlike) > 3 else ''
    raise UserError(
      f'its parameters are not those of its config:'
      f' {"; ".join(unlike[:3])}{more}'
    )
