"""LapSRN: deep Laplacian pyramid networks for SR (Lai et al., CVPR 2017).

Every level doubles the resolution. A branch of convolutions and a transposed
convolution computes a correction, which is added to the image that another
transposed convolution enlarges. The losses compare the images of all levels. As
in the released model files, a level is named by the number of levels that
remain, itself included: `level1` is the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.errors import UserError
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Among, Count, Scale, Width
from sr_jax.ops.conv import conv2d
from sr_jax.ops.pixel_shuffle import pixel_shuffle

VARIANTS = {
  # The size of the released models. The paper's text has 4x4 for `deconv_size`.
  'official': common.Variant(
    {'features': 64, 'deconv_size': 3, 'use_bias': True},
    {2: 407_441, 4: 814_242, 8: 667_123},
  ),
  'port': common.Variant(
    {'features': 64, 'deconv_size': 4, 'use_bias': False}, {4: 870_112}
  ),
}
TINY = {'depth': 2, 'features': 8}


def _port_names() -> dict[str, str]:
  names = {'conv_input': 'head'}
  for i in (1, 2):
    level, block = f'level{3 - i}', f'convt_F{i}.0.cov_block'
    names |= {f'convt_I{i}': f'{level}_image', f'convt_R{i}': f'{level}_rest'}
    names |= {f'{block}.{2 * d}': f'{level}_conv{d + 1}' for d in range(10)}
    names[f'{block}.20'] = f'{level}_deconv'
  return names


TORCH_NAMES = {'pytorch-LapSRN': _port_names()}
MAT_NAMES = {
  'LapSRN': {
    'input_conv': 'head',
    'level{s}_conv{d}': 'level{s}_conv{d}',
    'level{s}_upconv': 'level{s}_deconv',
    'level{s}_residual_conv': 'level{s}_rest',
    'level{s}_img_up': 'level{s}_image',
  },
}

# Variance 2 / fan-out, as in the released code and the PyTorch port.
_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# Only a quarter of the taps reaches any one output pixel. The kernel is
# [K, K, out, in].
_DECONV_INIT = nn.initializers.variance_scaling(
  8.0, 'fan_in', 'normal', in_axis=-1, out_axis=-2
)


def _bilinear(
  key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32
) -> jax.Array:
  """Returns a kernel `[4, 4, 1, 1]` that doubles an image bilinearly."""
  del key
  taps = jnp.asarray([0.25, 0.75, 0.75, 0.25], dtype)
  return jnp.outer(taps, taps).reshape(shape)


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters."""
  return {
    'scale': 2 ** sum(path.endswith('_image/kernel') for path in shapes),
    'features': shapes['head/kernel'][3],
    'depth': sum(
      path.startswith('level1_conv') and path.endswith('/kernel')
      for path in shapes
    ),
    'deconv_size': shapes['level1_deconv/kernel'][0],
    'use_bias': 'head/bias' in shapes,
  }


class _Deconv(nn.Module):
  """Transposed convolution of stride 2, which doubles height and width.

  Input pixel i contributes to output pixels 2i - 1 to 2i + 2 if the kernel is
  4x4, and to 2i to 2i + 2 if it is 3x3.

  Attributes:
    features: Output channels.
    kernel_size: Side of the square kernel, 3 or 4.
    use_bias: Whether a bias is added.
    kernel_init: Initialiser of the kernel `[K, K, features, C]`.
    dtype: Computation type; parameters stay float32.
  """

  features: int
  kernel_size: int
  use_bias: bool = False
  kernel_init: Callable[..., jax.Array] = _DECONV_INIT
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, 2H, 2W, features]`."""
    size = self.kernel_size
    shape = (size, size, self.features, x.shape[-1])
    kernel = self.param('kernel', self.kernel_init, shape)
    bias = None
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      bias = bias.repeat(4).astype(self.dtype)
    # Computed as a convolution to the four phases of the output, because the
    # gradients of a transposed convolution are nine times slower on CPU.
    y = conv2d(x.astype(self.dtype), _phases(kernel).astype(self.dtype), bias)
    return pixel_shuffle(y, 2)


def _phases(kernel: jax.Array) -> jax.Array:
  """Returns the kernel `[3, 3, in, 4 out]` that computes the four phases.

  A pixel shuffle puts the phases in place. Tap a of the transposed convolution
  `[K, K, out, in]` takes input pixel i to output pixel 2i + a - crop.
  """
  size = kernel.shape[0]
  crop = size - 3
  phase, shift = np.mgrid[:2, -1:2]
  taps = phase + crop - 2 * shift
  # Number `size` stands for a tap that the kernel lacks.
  taps = np.where((taps >= 0) & (taps < size), taps, size)
  padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
  picked = padded[taps][:, :, taps]  # [2, 3, 2, 3, out, in]
  picked = picked.transpose(1, 3, 5, 4, 0, 2)
  return picked.reshape(3, 3, kernel.shape[3], 4 * kernel.shape[2])


class LapSRN(base.Network):
  """The network of every variant.

  Attributes:
    scale: Enlargement: 2, 4 or 8.
    depth: Number of convolutions of a level.
    features: Width of every layer.
    deconv_size: Side of the kernels that enlarge features, 3 or 4.
    use_bias: Whether layers have biases, except those that enlarge the image.
    dtype: Computation type; parameters stay float32.
  """

  scale: Scale
  depth: Count
  features: Width
  deconv_size: Annotated[int, Among((3, 4))]
  use_bias: bool
  dtype: Any = jnp.float32
  channels = 1
  luma = True

  def check(self) -> None:
    """Refuses scales that are not powers of two.

    Raises:
      UserError: The scale is refused.
    """
    self._levels()

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Enlarges luma `lr` `[B, H, W, 1]` to `[B, sH, sW, 1]`, unclipped.

    Returns:
      The largest image, and a dict whose `outputs` holds the images of all
      levels, the largest last.
    """
    del train

    def conv(name: str, features: int, dtype: Any) -> common.Conv:
      return common.Conv(
        features,
        use_bias=self.use_bias,
        kernel_init=_INIT,
        bias_init=nn.initializers.zeros,
        dtype=dtype,
        name=name,
      )

    width, dtype = self.features, self.dtype
    x, image, images = _leaky(conv('head', width, dtype)(lr)), lr, []
    for level in self._levels():
      for i in range(1, self.depth + 1):
        x = _leaky(conv(f'level{level}_conv{i}', width, dtype)(x))
      x = _leaky(
        _Deconv(
          width,
          self.deconv_size,
          self.use_bias,
          dtype=dtype,
          name=f'level{level}_deconv',
        )(x)
      )
      enlarge = _Deconv(1, 4, kernel_init=_bilinear, name=f'level{level}_image')
      # The last layer computes in float32: bfloat16 would merge grey levels.
      rest = conv(f'level{level}_rest', 1, jnp.float32)
      image = enlarge(image) + rest(x)
      images.append(image)
    return images[-1], {'outputs': tuple(images)}

  def _levels(self) -> list[int]:
    """Names of the levels, from the first to the last."""
    levels = self.scale.bit_length() - 1
    if self.scale != 2**levels or levels < 1:
      raise UserError(
        f'scale {self.scale} is not supported; choose 2, 4 or 8, and reduce'
        ' the result for others'
      )
    return list(range(levels, 0, -1))

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    # The first and the last pixel that depend on LR pixel 0, at one level after
    # the other.
    first = last = 0
    first, last = first - 1, last + 1
    for _ in self._levels():
      first, last = first - self.depth, last + self.depth
      first, last = 2 * first - (self.deconv_size - 3), 2 * last + 2
    first, last = first - 1, last + 1
    return max(-(first // self.scale), last // self.scale)


def _leaky(x: jax.Array) -> jax.Array:
  return nn.leaky_relu(x, 0.2)


def Model(*, scale: int, variant: str = 'official', **overrides: Any) -> LapSRN:
  """Creates LapSRN in one variant; overrides replace single options.

  A level has 10 convolutions, but only 5 at x8.
  """
  options: dict[str, Any] = {
    'depth': 5 if scale == 8 else 10,
    **common.select_variant(VARIANTS, variant),
  }
  return LapSRN(scale=scale, **{**options, **overrides})
