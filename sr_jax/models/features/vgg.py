"""VGG (Simonyan and Zisserman, ICLR 2015): the features of perceptual losses.

VGG19 and VGG16 as torchvision trained them on ImageNet, without their
classifier. Layers go by block and number: `conv5_4` before its activation,
`relu5_4` after it (SRGAN's VGG54; ESRGAN compares before).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import flax.linen as nn
import jax

from sr_jax.models.parts import common
from sr_jax.ops.relu import relu

# Convolutions of each of the five blocks.
VARIANTS = {'vgg19': (2, 2, 4, 4, 4), 'vgg16': (2, 2, 3, 3, 3)}
# Output channels of the blocks.
_WIDTHS = (64, 128, 256, 512, 512)
# torchvision's files end in the first digits of their SHA-256.
RELEASED = {'vgg19': 'vgg19-dcbb9e9d.pth', 'vgg16': 'vgg16-397923af.pth'}


def convolutions(variant: str) -> dict[str, tuple[int, int, int, int]]:
  """Kernel shapes of all convolutions by name, from the image on."""
  shapes, channels = {}, 3
  for block, width in enumerate(_WIDTHS, 1):
    for number in range(1, VARIANTS[variant][block - 1] + 1):
      shapes[f'conv{block}_{number}'] = (3, 3, channels, width)
      channels = width
  return shapes


def _positions(variant: str, prefix: str) -> dict[str, str]:
  """Names of torchvision, which counts activations and poolings as well."""
  names, position = {}, 0
  for block, depth in enumerate(VARIANTS[variant], 1):
    for number in range(1, depth + 1):
      names[f'{prefix}{position}'] = f'conv{block}_{number}'
      position += 2
    position += 1
  return names


# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  **{f'torchvision {v}': _positions(v, 'features.') for v in VARIANTS},
  **{f'features of {v}': _positions(v, '') for v in VARIANTS},
  'SRNTT_Pytorch': {'conv{b}_{n}': 'conv{b}_{n}'},
}
TORCH_IGNORED = {'classifier.{i}': 'the classifier'}


class VGG(nn.Module):
  """Features of an image at some layers.

  Attributes:
    layers: Their names, such as conv5_4.
    variant: vgg19 or vgg16.
  """

  layers: Sequence[str]
  variant: str = 'vgg19'

  @nn.compact
  def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
    """Features `[B, h, w, C]` by layer, of `image` `[B, H, W, 3]` in [0, 1]."""
    found, x = {}, common.imagenet_normalised(image)
    shapes = convolutions(self.variant)
    for name in common.up_to(self.layers, shapes):
      if re.fullmatch(r'conv[2-5]_1', name):
        x = nn.max_pool(x, (2, 2), (2, 2))
      x = common.Conv(shapes[name][-1], name=name)(x)
      found[name] = x
      x = relu(x)
      found[f'relu{name[4:]}'] = x
    return {layer: found[layer] for layer in self.layers}


def Model(*, layers: Sequence[str], variant: str = 'vgg19') -> VGG:
  """The network of one variant, no deeper than its layers."""
  return VGG(layers=tuple(layers), variant=variant)
