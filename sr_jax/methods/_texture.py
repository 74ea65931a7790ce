"""References at inference: what a checkpoint of `reference` holds of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from sr_jax.errors import UserError
from sr_jax.methods import Referring
from sr_jax.transforms import texture_transfer
from sr_jax.weights import features as feature_weights

PyTree = Any

# Slots of the frozen network of features, also in checkpoints, and of the
# references.
FEATURES = feature_weights.SLOT
REFERENCES = 'references'
VGG = {'model': 'vgg', 'variant': 'vgg19'}


def vgg_features(
  layers: Sequence[str], params: PyTree
) -> texture_transfer.Features:
  """VGG19 as a function of images."""
  network = feature_weights.network(layers=layers, **VGG)
  return functools.partial(network.apply, {'params': params})


def read_features(
  spec: str, layers: Sequence[str] = tuple(texture_transfer.RATIOS)
) -> PyTree:
  """VGG19's weights up to some layers, by default those that are swapped.

  Raises:
    UserError: as `feature_weights.load`.
  """
  return feature_weights.load(spec, layers=layers, **VGG)


def texture_of(
  params: Mapping[str, Any], lr: jax.Array
) -> texture_transfer.Texture:
  """What LR images get of the references that the parameters hold."""
  features = _held_features(params)
  references = params.get(REFERENCES)
  if references is None:
    references = [
      texture_transfer.look_at(features, texture_transfer.itself(lr))
    ]
  return texture_transfer.swapped(features, lr, references)


def look(
  params: Mapping[str, Any], references: Sequence[jax.Array]
) -> dict[str, Any]:
  """Parameters that hold references as well.

  Args:
    params: By slot.
    references: `[B, H, W, 3]` in [0, 1], each for a whole batch.
  """
  features = _held_features(params)
  looked = [texture_transfer.look_at(features, image) for image in references]
  return {**params, REFERENCES: looked}


def _held_features(params: Mapping[str, Any]) -> texture_transfer.Features:
  """VGG19 as a checkpoint holds it.

  Raises:
    UserError: it does not.
  """
  if FEATURES not in params:
    raise UserError(
      'the checkpoint holds no features of VGG19 to match references by; import'
      ' it with --features FILE'
    )
  return vgg_features(list(texture_transfer.RATIOS), params[FEATURES])


def _itself(params: Mapping[str, Any], lr: jax.Array) -> dict[str, Any]:
  """Parameters that hold LR as its own reference."""
  return look(params, [texture_transfer.itself(lr)])


def _similarity(params: Mapping[str, Any], lr: jax.Array) -> jax.Array:
  return texture_of(params, lr).similarity


REFERRING = Referring(
  look=look,
  itself=_itself,
  similarity=_similarity,
  # Features of a cell see four pixels to each side, and those of two more cells
  # change what is put there.
  halo=6,
  least=texture_transfer.LEAST_SIDE,
  turned=True,
)
