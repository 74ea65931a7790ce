"""Meta-SR: one network for every scale (Hu et al., CVPR 2019).

Each SR pixel is computed by its own filter from the features of LR. A small
network, Meta-Upscale, predicts the filter from the scale and from the position
of the SR pixel within its LR pixel. The features come from one of two bodies,
as in the released code: RDN (Zhang et al., CVPR 2018) or EDSR. Inside, images
have the range 0..255, and DIV2K's mean colour is subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.errors import UserError
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import (
  Among,
  AnyScale,
  Channels,
  Count,
  CountOrNone,
  Width,
  WidthOrNone,
)
from sr_jax.ops.relu import relu
from sr_jax.ops.scales import enlarged_size, rational

# The released code trains at the scales 1.1, 1.2, ..., 4.0.
_SCALES = tuple(tenths / 10 for tenths in range(11, 41))
_RDN = {'body': 'rdn', 'features': 64}
# EDSR's blocks have no dense layers.
_EDSR = {'body': 'edsr', 'layers': 0, 'growth': 0}
VARIANTS = {
  # RDN's two published sizes; Meta-SR's paper uses B.
  'rdn': common.Variant(
    {**_RDN, 'blocks': 16, 'layers': 8, 'growth': 64},
    dict.fromkeys((2, 3, 4), 22_419_096),
  ),
  'rdn-a': common.Variant(
    {**_RDN, 'blocks': 20, 'layers': 6, 'growth': 32},
    dict.fromkeys((2, 3, 4), 5_912_216),
  ),
  'edsr': common.Variant(
    {**_EDSR, 'blocks': 16, 'features': 64},
    dict.fromkeys((2, 3, 4), 1_665_560),
  ),
  # Our own size, which trains in minutes on two CPU cores.
  'edsr-small': common.Variant(
    {**_EDSR, 'blocks': 4, 'features': 32},
    dict.fromkeys((2, 3, 4), 307_224),
  ),
}
TINY = {'blocks': 2, 'features': 8, 'layers': 2, 'growth': 4}
_MEAN_SHIFTS = {'sub_mean': 'sub_mean', 'add_mean': 'add_mean'}
_UPSCALE = {
  'P2W.meta_block.0': 'upscale/hidden',
  'P2W.meta_block.2': 'upscale/filters',
}
TORCH_NAMES = {
  'Meta-RDN': {
    **_MEAN_SHIFTS,
    'SFENet1': 'head',
    'SFENet2': 'head2',
    'RDBs.{i}.convs.{j}.conv.0': 'body_{i}/conv_{j}',
    'RDBs.{i}.LFF': 'body_{i}/fuse',
    'GFF.0': 'fuse',
    'GFF.1': 'body_end',
    **_UPSCALE,
  },
  'Meta-EDSR': {
    **_MEAN_SHIFTS,
    'head.0': 'head',
    'body.{i}.body.0': 'body_{i}/conv1',
    'body.{i}.body.2': 'body_{i}/conv2',
    'body.{i}': 'body_end',
    **_UPSCALE,
  },
}
CONSTANTS = ('sub_mean', 'add_mean')
# The section `method` of imported weights, with the scales they can be used at.
METHOD = {'name': 'supervised', 'scales': _SCALES}


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from shapes; the scale does not."""
  channels, features = shapes['head/kernel'][2:]
  bodies = {p.split('/')[0] for p in shapes if p.startswith('body_')}
  dense = 'fuse/kernel' in shapes
  first = [p for p in shapes if p.startswith('body_0/conv_')]
  return {
    'channels': channels,
    'features': features,
    'body': 'rdn' if dense else 'edsr',
    'blocks': len(bodies - {'body_end'}),
    'layers': sum(p.endswith('/kernel') for p in first),
    'growth': shapes['body_0/conv_0/kernel'][3] if dense else 0,
  }


def positions(count: int, ratio: Fraction) -> tuple[np.ndarray, np.ndarray]:
  """Returns the positions in LR of the first `count` SR pixels of an axis.

  SR pixel i belongs to LR pixel floor(i / ratio). This is computed in whole
  numbers, because in float32 floor(69 / 2.3) is 29 instead of 30.

  Returns:
    The index of the LR pixel, and the offset within it in [0, 1), each
    `[count]`.
  """
  steps = np.arange(count) * ratio.denominator
  return steps // ratio.numerator, steps % ratio.numerator / ratio.numerator


class _Axis:
  """One axis of Meta-Upscale, divided into groups with equal offsets.

  At scale p / q every q LR pixels become p SR pixels, whose offsets are the
  same in each such group. An LR pixel has a fixed number of slots, one for each
  SR pixel that may belong to it. Some slots stay empty.

  Attributes:
    group: Number of LR pixels of a group; `group * count` is `size` or more.
    count: Number of groups.
    offsets: Offset of each slot, `[group, slots]` float32.
    slots: Index of the slot of each SR pixel of a group, in flattened
      `offsets`.
    enlarged: Number of SR pixels of the axis.
  """

  def __init__(self, size: int, scale: float):
    ratio = rational(scale)
    self.group = min(ratio.denominator, size)
    self.count = -(-size // self.group)
    self.enlarged = enlarged_size(size, scale)
    made = -(-self.group * ratio.numerator // ratio.denominator)
    source, offset = positions(made, ratio)
    slot = np.arange(made) - np.searchsorted(source, source)
    width = -(-ratio.numerator // ratio.denominator)
    self.offsets = np.zeros((self.group, width), np.float32)
    self.offsets[source, slot] = offset
    self.slots = source * width + slot


class _Affine(nn.Module):
  """Parameters of a dense layer that the caller applies.

  Attributes:
    features: Number of outputs.
  """

  features: int

  @nn.compact
  def __call__(self, inputs: int) -> tuple[jax.Array, jax.Array]:
    """Returns the kernel `[inputs, features]` and the bias `[features]`."""
    init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
    kernel = self.param('kernel', init, (inputs, self.features))
    bias = self.param('bias', common.uniform_bias(inputs), (self.features,))
    return kernel, bias


class MetaUpscale(nn.Module):
  """Enlarges features by filters that a small network predicts.

  To save memory, each distinct pair of offsets gets one filter, and the filters
  of one row are predicted and applied at a time. Neither filters nor features
  are ever held at the size of SR.

  Attributes:
    scale: Enlargement, whole or not.
    channels: Number of image channels.
    hidden: Width of the predicting network.
    kernel_size: Side of the filters.
  """

  scale: float
  channels: int
  hidden: int = 256
  kernel_size: int = 3

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps features `[B, H, W, F]` to `[B, ceil(sH), ceil(sW), channels]`."""
    features, size = x.shape[-1], self.kernel_size
    hidden = _Affine(self.hidden, name='hidden')(3)
    filters = _Affine(features * size**2 * self.channels, name='filters')(
      self.hidden
    )
    rows, columns = (_Axis(n, self.scale) for n in x.shape[1:3])
    x = _grouped(x.astype(jnp.float32), rows, columns, size)

    def one_row(row: tuple[jax.Array, jax.Array]) -> jax.Array:
      index, offsets = row
      inputs = _inputs(offsets, columns.offsets, self.scale)
      taps = _predict(inputs, hidden, filters)
      taps = taps.reshape(*taps.shape[:3], features, size, size, self.channels)
      return _filter(x, taps, index, rows, columns)

    indices = jnp.arange(rows.group)
    # [row of the group, B, groups, slots, SR width, C]
    sr = jax.lax.map(one_row, (indices, jnp.asarray(rows.offsets)))
    sr = jnp.moveaxis(sr, 0, 2)
    batch, count, _, _, width, _ = sr.shape
    sr = sr.reshape(batch, count, -1, width, self.channels)[:, :, rows.slots]
    sr = sr.reshape(batch, -1, width, self.channels)
    return sr[:, : rows.enlarged, : columns.enlarged]


def _grouped(x: jax.Array, rows: _Axis, columns: _Axis, size: int) -> jax.Array:
  """Divides the rows of `[B, H, W, F]` into groups, padded with zeros.

  Returns:
    `[B, groups + more, group, W', F]`. There are as many further groups as a
    filter reaches into, and W' is the width of whole groups of columns plus the
    reach of the filter.
  """
  more = -(-(size - 1) // rows.group)
  height = (rows.count + more) * rows.group
  width = columns.count * columns.group + size - 1
  reach = size // 2
  down, right = height - x.shape[1] - reach, width - x.shape[2] - reach
  x = jnp.pad(x, ((0, 0), (reach, down), (reach, right), (0, 0)))
  return x.reshape(x.shape[0], -1, rows.group, *x.shape[2:])


def _inputs(row: jax.Array, columns: np.ndarray, scale: float) -> jax.Array:
  """Returns the inputs of the predicting network for the slots of one LR row.

  Args:
    row: Vertical offsets of the slots of the row, `[slots]`.
    columns: Horizontal offsets of the columns of a group, `[group, slots]`.
    scale: Enlargement.

  Returns:
    `[slots, group, slots, 3]`: 1 / scale, and the vertical and the horizontal
    offset.
  """
  shape = (row.shape[0], *columns.shape)
  parts = (1 / scale, row[:, None, None], jnp.asarray(columns)[None])
  return jnp.stack([jnp.broadcast_to(part, shape) for part in parts], -1)


def _predict(
  inputs: jax.Array,
  hidden: tuple[jax.Array, jax.Array],
  filters: tuple[jax.Array, jax.Array],
) -> jax.Array:
  """Applies the predicting network to `[..., 3]`, in full float32 precision."""
  x = inputs
  for i, (kernel, bias) in enumerate((hidden, filters)):
    x = relu(x) if i else x
    bias = bias.reshape((1,) * (x.ndim - 1) + (-1,))
    x = jnp.dot(x, kernel, precision='highest') + bias
  return x


def _filter(
  x: jax.Array, taps: jax.Array, index: jax.Array, rows: _Axis, columns: _Axis
) -> jax.Array:
  """Computes the SR pixels of one LR row in every group.

  Args:
    x: The result of `_grouped`.
    taps: The filters by row slot, column and column slot,
      `[slots, group, slots, F, K, K, C]`.
    index: Position of the row within its group.
    rows: The vertical axis.
    columns: The horizontal axis.

  Returns:
    `[B, groups, slots, SR width, C]`.
  """
  batch, width = x.shape[0], columns.count * columns.group
  size = taps.shape[4]

  def add(total: jax.Array, tap: tuple[jax.Array, ...]) -> tuple[Any, None]:
    i, j, filters = tap
    block, row = (index + i) // rows.group, (index + i) % rows.group
    seen = jax.lax.dynamic_slice(
      x,
      (0, block, row, j, 0),
      (batch, rows.count, 1, width, x.shape[-1]),
    ).reshape(batch, rows.count, columns.count, columns.group, -1)
    return total + jnp.einsum('byxvf,svtfc->byxsvtc', seen, filters), None

  # One tap after the other, as otherwise nine shifted copies of the features
  # would exist at once.
  slots, group, _, _, _, _, channels = taps.shape
  shape = (batch, rows.count, columns.count, slots, group, slots, channels)
  i, j = jnp.divmod(jnp.arange(size**2), size)
  by_tap = jnp.moveaxis(taps, (4, 5), (0, 1))
  by_tap = by_tap.reshape(-1, *by_tap.shape[2:])
  total, _ = jax.lax.scan(add, jnp.zeros(shape), (i, j, by_tap))
  total = total.transpose(0, 1, 3, 2, 4, 5, 6)
  flat = total.reshape(*total.shape[:4], -1, total.shape[-1])
  sr = flat[:, :, :, :, columns.slots]
  return sr.reshape(*sr.shape[:3], -1, sr.shape[-1])


class DenseBlock(nn.Module):
  """RDN's residual dense block: a layer sees the results of all earlier ones.

  Attributes:
    features: Number of channels of input and output.
    layers: Number of convolutions.
    growth: Number of channels that each convolution adds.
    dtype: Computation type.
  """

  features: int
  layers: int
  growth: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, features]` to the same shape."""
    seen = x
    for i in range(self.layers):
      new = common.Conv(self.growth, dtype=self.dtype, name=f'conv_{i}')(seen)
      seen = jnp.concatenate([seen, relu(new)], -1)
    return x + common.Conv(self.features, 1, dtype=self.dtype, name='fuse')(
      seen
    )


class MetaSR(base.Network):
  """The network of every variant.

  Attributes:
    scale: Enlargement, whole or not.
    body: 'rdn' or 'edsr'.
    blocks: Number of dense or residual blocks.
    features: Width of the body.
    layers: Number of convolutions of a dense block.
    growth: Number of channels that each of these convolutions adds.
    channels: Number of image channels. If it is 3, the mean colour of DIV2K is
      subtracted, otherwise mid-grey.
    dtype: Computation type of the body; parameters stay float32.
  """

  scale: AnyScale
  body: Annotated[str, Among(('rdn', 'edsr'))]
  blocks: Count
  features: Width
  layers: CountOrNone
  growth: WidthOrNone
  channels: Channels = 3
  dtype: Any = jnp.float32

  def check(self) -> None:
    """Refuses dense blocks without layers.

    Raises:
      UserError: The body has dense blocks, and `layers` or `growth` is 0.
    """
    if self.body == 'rdn' and not (self.layers and self.growth):
      raise UserError(
        f'config.model.layers={self.layers} and growth={self.growth}: dense'
        ' blocks need 1 or more of both'
      )

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1]; unclipped.

    Returns:
      SR `[B, ceil(sH), ceil(sW), C]`, and an empty dict. The released code
      rounds the size down.
    """
    del train
    mean = common.default_mean(self.channels)
    x = common.MeanShift(mean, -1, name='sub_mean')(255 * lr)
    x = self._rdn(x) if self.body == 'rdn' else self._edsr(x)
    # The last layer computes in float32: bfloat16 would merge grey levels.
    x = MetaUpscale(self.scale, self.channels, name='upscale')(x)
    return common.MeanShift(mean, 1, name='add_mean')(x) / 255, {}

  def _edsr(self, x: jax.Array) -> jax.Array:
    width, dtype = self.features, self.dtype
    x = skip = common.Conv(width, dtype=dtype, name='head')(x)
    for i in range(self.blocks):
      x = common.ResBlock(width, dtype=dtype, name=f'body_{i}')(x)
    return skip + common.Conv(width, dtype=dtype, name='body_end')(x)

  def _rdn(self, x: jax.Array) -> jax.Array:
    width, dtype = self.features, self.dtype
    skip = common.Conv(width, dtype=dtype, name='head')(x)
    x = common.Conv(width, dtype=dtype, name='head2')(skip)
    block = DenseBlock(
      width, self.layers, self.growth, dtype=dtype, name='body_*'
    )
    found = common.chain_outputs(block, self.blocks, x)
    found = jnp.moveaxis(found, 0, 3).reshape(*x.shape[:3], -1)
    x = common.Conv(width, 1, dtype=dtype, name='fuse')(found)
    return skip + common.Conv(width, dtype=dtype, name='body_end')(x)

  @property
  def halo(self) -> int | None:
    """Receptive radius in LR pixels; None if the scale is not whole."""
    if self.scale != int(self.scale):
      return None
    layers, ends = (self.layers, 2) if self.body == 'rdn' else (2, 1)
    return ends + self.blocks * layers + 2


def Model(*, scale: float, variant: str = 'rdn', **overrides: Any) -> MetaSR:
  """Creates Meta-SR in one variant; overrides replace single options."""
  return MetaSR(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )
