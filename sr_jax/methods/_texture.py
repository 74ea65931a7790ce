"""SRNTT's swapped features: features of references, moved to LR's positions.

LR, enlarged by bicubic, is matched with the references reduced and enlarged
again, so that both lack the same frequencies. The swapped features are those of
the sharp references. VGG19 appears here as a function `features` that maps
images `[B, H, W, 3]` in [0, 1] to features by layer. No gradient passes through
VGG19 or the matching. The second half of the file defines how the parameters of
a trained model hold VGG19 and references at inference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sr_jax.errors import UserError
from sr_jax.methods import Referring
from sr_jax.ops import patch_match
from sr_jax.ops.degrade import quantize
from sr_jax.ops.resize import imresize
from sr_jax.weights import features as feature_weights

PyTree = Any

SCALE = 4
# Resolution of each layer relative to that of the first layer, which is the one
# that is matched.
RATIOS = {'relu3_1': 1, 'relu2_1': 2, 'relu1_1': 4}
# Smallest side of a reference in pixels: it has at least one patch.
LEAST_SIDE = SCALE * patch_match.PATCH

# Slots of the frozen network of features, and of the references.
FEATURES = feature_weights.SLOT
REFERENCES = 'references'
VGG = {'model': 'vgg', 'variant': 'vgg19'}

Features = Callable[[jax.Array], Mapping[str, jax.Array]]


class Reference(NamedTuple):
  """Features of a reference `[B, 4 * H, 4 * W, 3]`.

  Attributes:
    blurred: Features `[B, H, W, C]` of the reduced and enlarged reference.
    maps: Features of the sharp reference, by layer.
  """

  blurred: jax.Array
  maps: dict[str, jax.Array]


class Texture(NamedTuple):
  """Swapped features for LR images `[B, h, w, 3]`.

  Attributes:
    maps: Swapped features by layer; the first layer is `[B, h, w, C]`.
    similarity: Cosine similarity of the matches, `[B, h, w]`; 1 is perfect.
  """

  maps: dict[str, jax.Array]
  similarity: jax.Array


def look_at(features: Features, reference: jax.Array) -> Reference:
  """Computes the features of a reference.

  Args:
    features: VGG19 as a function, see the top of this file.
    reference: `[B, H, W, 3]` in [0, 1], both sides `LEAST_SIDE` or more; rows
      and columns beyond a multiple of 4 are cut off.
  """
  height, width = (n // SCALE * SCALE for n in reference.shape[1:3])
  reference = jax.lax.stop_gradient(reference[:, :height, :width])
  maps = features(reference)
  blurred = enlarged(quantize(imresize(reference, scale=1 / SCALE)))
  first = next(iter(RATIOS))
  return Reference(
    features(blurred)[first], {layer: maps[layer] for layer in RATIOS}
  )


def enlarged(lr: jax.Array) -> jax.Array:
  """Enlarges LR for matching: `[B, H, W, C]` to `[B, 4 * H, 4 * W, C]`."""
  return quantize(imresize(lr, scale=SCALE))


def itself(lr: jax.Array) -> jax.Array:
  """Makes a reference of LR itself; mirrors LR if it is too small for one."""
  more = [max(0, LEAST_SIDE - n) for n in lr.shape[1:3]]
  return jnp.pad(lr, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)), 'symmetric')


def swapped(
  features: Features, lr: jax.Array, references: Sequence[Reference]
) -> Texture:
  """Swaps features of references into the positions of LR.

  Args:
    features: VGG19 as a function, see the top of this file.
    lr: LR images, `[B, h, w, 3]` in [0, 1].
    references: Any number of references of any sizes, each for the whole batch.
      Each patch is taken from the reference that matches best.
  """
  height, width = lr.shape[1:3]
  # Small images are mirrored until they have one patch.
  more = [max(0, patch_match.PATCH - n) for n in (height, width)]
  lr = jnp.pad(lr, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)), 'symmetric')
  content = features(enlarged(jax.lax.stop_gradient(lr)))[next(iter(RATIOS))]

  def of_one(sample: tuple[jax.Array, list[Reference]]) -> Texture:
    content, references = sample
    matched = patch_match.match(content, [ref.blurred for ref in references])
    maps = {
      layer: patch_match.swap(
        matched.index, [ref.maps[layer] for ref in references], ratio
      )[: ratio * height, : ratio * width]
      for layer, ratio in RATIOS.items()
    }
    return Texture(maps, matched.similarity[:height, :width])

  texture = jax.vmap(of_one)((content, list(references)))
  return jax.lax.stop_gradient(texture)


def truth(features: Features, hr: jax.Array) -> Texture:
  """Features of HR, as if HR were a reference that matches perfectly."""
  maps = features(hr)
  shape = (hr.shape[0], *(n // SCALE for n in hr.shape[1:3]))
  texture = Texture({k: maps[k] for k in RATIOS}, jnp.ones(shape))
  return jax.lax.stop_gradient(texture)


def vgg_features(layers: Sequence[str], params: PyTree) -> Features:
  """Returns VGG19 as a function of images."""
  network = feature_weights.network(layers=layers, **VGG)
  return functools.partial(network.apply, {'params': params})


def read_features(spec: str) -> PyTree:
  """Reads VGG19's weights up to the deepest layer that is swapped.

  Raises:
    UserError: As for `feature_weights.load`.
  """
  return feature_weights.load(spec, layers=list(RATIOS), **VGG)


def texture_of(params: Mapping[str, Any], lr: jax.Array) -> Texture:
  """Swaps features of the references that the parameters hold."""
  features = _held_features(params)
  references = params.get(REFERENCES)
  if references is None:
    references = [look_at(features, itself(lr))]
  return swapped(features, lr, references)


def look(
  params: Mapping[str, Any], references: Sequence[jax.Array]
) -> dict[str, Any]:
  """Adds references to parameters.

  Args:
    params: Parameters by slot.
    references: References `[B, H, W, 3]` in [0, 1], each for a whole batch.
  """
  features = _held_features(params)
  looked = [look_at(features, image) for image in references]
  return {**params, REFERENCES: looked}


def _held_features(params: Mapping[str, Any]) -> Features:
  """Returns VGG19 as a function, from the weights in a checkpoint.

  Raises:
    UserError: The checkpoint holds no weights of VGG19.
  """
  if FEATURES not in params:
    raise UserError(
      'the checkpoint holds no features of VGG19 to match references by; import'
      ' it again by sr-jax import --features FILE'
    )
  return vgg_features(list(RATIOS), params[FEATURES])


def _itself(params: Mapping[str, Any], lr: jax.Array) -> dict[str, Any]:
  """Adds LR to parameters as its own reference."""
  return look(params, [itself(lr)])


def _similarity(params: Mapping[str, Any], lr: jax.Array) -> jax.Array:
  return texture_of(params, lr).similarity


REFERRING = Referring(
  look=look,
  itself=_itself,
  similarity=_similarity,
  # The features of a cell depend on four pixels to each side, and swapped
  # patches overlap by two cells.
  halo=6,
  least=LEAST_SIDE,
  turned=True,
)
