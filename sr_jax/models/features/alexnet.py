"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012): the features of LPIPS.

This is the network that torchvision trained on ImageNet ("one weird trick",
2014), without its classifier. Layers are named `conv1` to `conv5` before the
activation and `relu1` to `relu5` after it.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax

from sr_jax.models.parts import common
from sr_jax.ops.relu import relu

VARIANTS = {'alexnet': 5}
# torchvision's files have names that end in the first digits of their SHA-256.
RELEASED = {'alexnet': 'alexnet-owt-7be5be79.pth'}
_CONVOLUTIONS = {
  'conv1': (11, 11, 3, 64),
  'conv2': (5, 5, 64, 192),
  'conv3': (3, 3, 192, 384),
  'conv4': (3, 3, 384, 256),
  'conv5': (3, 3, 256, 256),
}
_POSITIONS = {'0': 'conv1', '3': 'conv2', '6': 'conv3', '8': 'conv4'}
_POSITIONS |= {'10': 'conv5'}
# Layer names of released state_dicts, and their Flax paths.
TORCH_NAMES = {
  'torchvision': {f'features.{i}': name for i, name in _POSITIONS.items()},
  'features of torchvision': _POSITIONS,
}
TORCH_IGNORED = {'classifier.{i}': 'the classifier'}


def convolutions(variant: str) -> dict[str, tuple[int, int, int, int]]:
  """Returns the kernel shapes of all convolutions by name, in their order."""
  del variant  # there is only one
  return _CONVOLUTIONS


class AlexNet(nn.Module):
  """Computes features of an image at some layers.

  Attributes:
    layers: Names of the layers, such as relu5.
  """

  layers: Sequence[str]

  @nn.compact
  def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
    """Returns features `[B, h, w, C]` by layer, of `[B, H, W, 3]` in [0, 1]."""
    found, x = {}, common.imagenet_normalised(image)
    for name in common.up_to(self.layers, _CONVOLUTIONS):
      if name in ('conv2', 'conv3'):
        x = nn.max_pool(x, (3, 3), (2, 2))
      side, _, _, width = _CONVOLUTIONS[name]
      # Only the first convolution has a stride.
      stride, margin = (4, 2) if name == 'conv1' else (1, side // 2)
      x = nn.Conv(
        width, (side, side), stride, ((margin, margin),) * 2, name=name
      )(x)
      found[name] = x
      x = relu(x)
      found[f'relu{name[4:]}'] = x
    return {layer: found[layer] for layer in self.layers}


def Model(*, layers: Sequence[str], variant: str = 'alexnet') -> AlexNet:
  """Creates the network, which ends at the deepest of the layers."""
  del variant  # there is only one
  return AlexNet(layers=tuple(layers))
