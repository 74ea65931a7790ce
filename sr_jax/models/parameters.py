"""Shapes of a network's parameters, by path such as `head/kernel`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sr_jax.errors import UserError

Shapes = dict[str, tuple[int, ...]]


def shapes_of(tree: Any) -> Shapes:
  """Shape of every leaf of a parameter tree."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def expected_shapes(network: Any, collection: str = 'params') -> Shapes:
  """Shapes that a Linen network initialises; nothing is computed.

  Empty for a `collection` of variables that it does not have.

  Raises:
    UserError: its options make no network.
  """
  # Some take images of certain sides alone.
  side = getattr(network, 'sides', (8,))[0]
  lr = jnp.zeros((1, side, side, getattr(network, 'channels', 3)))
  try:
    variables = jax.eval_shape(network.init, jax.random.key(0), lr)
  except UserError:
    raise
  except (TypeError, ValueError, ArithmeticError) as error:
    reason = ' '.join(str(error).split())[:200]
    raise UserError(f'its options make no network: {reason}') from error
  return shapes_of(variables.get(collection, {}))


def check_parameters(network: Any, slots: Any) -> None:
  """Refuses inference parameters by slot that are not the network's.

  Raises:
    UserError: naming up to three that differ.
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
