"""VGG (Simonyan and Zisserman, ICLR 2015): the features of perceptual losses.

These are VGG19 and VGG16 as torchvision trained them on ImageNet, without their
classifiers. Layers are named by block and number: `conv5_4` before the
activation, `relu5_4` after it. SRGAN compares features after the activation
(VGG54), ESRGAN before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import flax.linen as nn
import jax

from sr_jax.models.parts import common
from sr_jax.ops.relu import relu

# Numbers of convolutions of the five blocks.
VARIANTS = {'vgg19': (2, 2, 4, 4, 4), 'vgg16': (2, 2, 3, 3, 3)}
# Output channels of the blocks.
_WIDTHS = (64, 128, 256, 512, 512)
# torchvision's files have names that end in the first digits of their SHA-256.
RELEASED = {'vgg19': 'vgg19-dcbb9e9d.pth', 'vgg16': 'vgg16-397923af.pth'}


def convolutions(variant: str) -> dict[str, tuple[int, int, int, int]]:
  """Returns the kernel shapes of all convolutions by name, in their order."""
  shapes, channels = {}, 3
  for block, width in enumerate(_WIDTHS, 1):
    for number in range(1, VARIANTS[variant][block - 1] + 1):
      shapes[f'conv{block}_{number}'] = (3, 3, channels, width)
      channels = width
  return shapes


def _positions(variant: str, prefix: str) -> dict[str, str]:
  """Names of torchvision, which numbers activations and poolings as well."""
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
  """Computes features of an image at some layers.

  Attributes:
    layers: Names of the layers, such as conv5_4.
    variant: vgg19 or vgg16.
  """

  layers: Sequence[str]
  variant: str = 'vgg19'

  @nn.compact
  def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
    """Returns features `[B, h, w, C]` by layer, of `[B, H, W, 3]` in [0, 1]."""
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
  """Creates a variant of the network, which ends at the deepest layer."""
  return VGG(layers=tuple(layers), variant=variant)
