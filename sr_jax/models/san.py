"""SAN: second-order attention network (Dai et al., CVPR 2019).

The layout is that of the released code. EDSR's head is followed by a non-local
block, residual groups, the same non-local block again, and EDSR's tail. In each
group an attention weights the channels by their covariance. Covariances are
taken over the whole image, so the result of a tile differs from the same part
of the result of the whole image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import UserError, whole
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Channels, Count, SubPixelScale, Width
from sr_jax.models.parts.sizes import smaller
from sr_jax.ops.relu import relu

VARIANTS = {
  # Released files have 38,044 more parameters, see TORCH_IGNORED.
  'san': common.Variant(
    {'groups': 20, 'blocks': 10, 'features': 64, 'reduction': 16},
    {2: 15_674_756, 3: 15_859_396, 4: 15_822_468, 8: 15_970_180},
  ),
}
TINY = {'groups': 1, 'blocks': 1, 'features': 16, 'reduction': 4}


# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  'SAN': {
    'sub_mean': 'sub_mean',
    'add_mean': 'add_mean',
    'gamma': 'gamma',
    'head.0': 'head',
    'non_local.non_local.theta': 'non_local/theta',
    'non_local.non_local.phi.0': 'non_local/phi',
    'non_local.non_local.g.0': 'non_local/g',
    'non_local.non_local.W': 'non_local/out',
    'RG.{g}.rcab.{b}.conv_first.0': 'group_{g}/body_{b}/conv1',
    'RG.{g}.rcab.{b}.conv_first.2': 'group_{g}/body_{b}/conv2',
    'RG.{g}.soca.conv_du.0': 'group_{g}/attention/squeeze',
    'RG.{g}.soca.conv_du.2': 'group_{g}/attention/expand',
    'RG.{g}.conv_last': 'group_{g}/end',
    'tail.0.0': 'upsample/conv_0',
    'tail.0.2': 'upsample/conv_1',
    'tail.0.4': 'upsample/conv_2',
    'tail.1': 'tail',
  },
}
# Tensors of released files that have no effect, and what they are.
TORCH_IGNORED = {
  'conv_last': 'a layer that the released network never calls',
  'non_local.soca.conv_du.{i}': (
    'an attention that the released network never calls'
  ),
  'RG.{g}.gamma': 'a factor that the released groups never use',
}

# Largest side in pixels of the middle of the image, from which covariances are
# computed.
_STATISTICS_SIDE = 1000
# Smallest side of an image that attention divides into halves.
_HALVED = 4
# Added so that root and gradient stay finite where features are constant.
_EPSILON = 1e-6
# Number of similarities that attention holds at once: 4 MB on CPU, else 256 MB.
_CPU_SIMILARITIES = 1_000_000
_SIMILARITIES = 64_000_000


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters."""
  channels, features = shapes['head/kernel'][2:]
  groups = sum(path.endswith('/end/kernel') for path in shapes)
  blocks = sum(path.endswith('/conv1/kernel') for path in shapes)
  squeezed = shapes['group_0/attention/squeeze/kernel'][3]
  return {
    'scale': common.upsampling_scale(shapes),
    'channels': channels,
    'features': features,
    'groups': groups,
    'blocks': blocks // groups,
    'reduction': features // squeezed,
  }


def covariance(x: jax.Array) -> jax.Array:
  """Returns the covariance of the channels over all positions.

  Args:
    x: `[B, H, W, C]`.

  Returns:
    `[B, C, C]` float32, divided by H * W.
  """
  batch, height, width, channels = x.shape
  x = x.astype(jnp.float32).reshape(batch, height * width, channels)
  x = x - x.mean(1, keepdims=True)
  products = jnp.einsum('bmc,bmd->bcd', x, x, precision='highest')
  return products / (height * width)


def matrix_sqrt(matrix: jax.Array, iterations: int = 5) -> jax.Array:
  """Returns the square root of covariances `[B, C, C]` by Newton-Schulz steps.

  SAN was trained with five iterations, which do not converge.
  """
  trace = jnp.trace(matrix, axis1=1, axis2=2)[:, None, None] + _EPSILON
  three = 3 * jnp.eye(matrix.shape[1], dtype=matrix.dtype)[None]

  def product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision='highest')

  # y converges to the root of the normalised matrix, z to the inverse root.
  y = matrix / trace
  z = 0.5 * (three - y)
  y = product(y, z)
  for _ in range(iterations - 2):
    step = 0.5 * (three - product(z, y))
    y, z = product(y, step), product(step, z)
  return 0.5 * product(y, three - product(z, y)) * jnp.sqrt(trace)


def _middle(x: jax.Array) -> jax.Array:
  """Cuts the middle out of `[B, H, W, C]`, at most 1000 x 1000 pixels."""
  for axis in (1, 2):
    size = smaller(x.shape[axis], _STATISTICS_SIDE)
    start = (x.shape[axis] - size) // 2
    x = jax.lax.slice_in_dim(x, start, start + size, axis=axis)
  return x


class SecondOrderAttention(nn.Module):
  """Weights the channels by the root of their covariance (SOCA).

  Attributes:
    reduction: Factor by which the hidden layer is narrower than the input.
    dtype: Computation type; covariances are computed in float32.
  """

  reduction: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to the same shape."""
    width, dtype = x.shape[-1], self.dtype
    weights = matrix_sqrt(covariance(_middle(x))).mean(1)[:, None, None]
    weights = common.Conv(
      width // self.reduction, 1, dtype=dtype, name='squeeze'
    )(weights)
    weights = common.Conv(width, 1, dtype=dtype, name='expand')(relu(weights))
    return x * nn.sigmoid(weights)


def _parts(size: int) -> list[slice]:
  """Divides an axis into halves, unless it is short.

  The second half is the larger one if the number of pixels is odd.
  """
  if size < _HALVED:
    return [slice(0, size)]
  return [slice(0, size // 2), slice(size // 2, size)]


def _pool(x: jax.Array) -> jax.Array:
  """Maximum of each 2x2 block of `[B, H, W, C]`; an odd last row is dropped."""
  batch, height, width, channels = x.shape
  rows, columns = (2 if n >= 2 else 1 for n in (height, width))
  height, width = height // rows, width // columns
  x = x[:, : height * rows, : width * columns]
  return x.reshape(batch, height, rows, width, columns, channels).max((2, 4))


def _attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Dot-product attention between positions, unscaled, in float32.

  Args:
    query: `[B, H, W, C]`.
    key: `[B, H', W', C]`.
    value: `[B, H', W', C]`.

  Returns:
    `[B, H, W, C]`: means of `value`, weighted by softmax(query . key).
  """
  batch, height, width, channels = query.shape
  key, value = (
    x.astype(jnp.float32).reshape(batch, -1, channels) for x in (key, value)
  )

  # The axis of keys comes before that of queries. Sums over keys then add rows
  # of memory, and in jaxlib 0.12 the gradient of the other order is slow.
  def attend(query: jax.Array) -> jax.Array:
    similarity = jnp.einsum('bkc,bqc->bkq', key, query, precision='highest')
    # Subtracting the maximum keeps exp finite. It cancels out, also in the
    # gradient.
    largest = jax.lax.stop_gradient(similarity.max(1, keepdims=True))
    weights = jnp.exp(similarity - largest)
    # The division comes after the sum, where the arrays are small.
    sums = jnp.einsum('bkq,bkc->bqc', weights, value, precision='highest')
    return sums / weights.sum(1)[..., None]

  query = query.astype(jnp.float32)
  at_once = _rows_at_once(batch * width * key.shape[1])
  # If one row is processed at a time, the height may be symbolic, which cannot
  # be compared.
  if at_once > 1 and height <= at_once:
    # This takes half the time of a loop of one iteration, which would copy the
    # similarities.
    return attend(query.reshape(batch, -1, channels)).reshape(query.shape)
  rows = query.swapaxes(0, 1)
  return jax.lax.map(attend, rows, batch_size=at_once).swapaxes(0, 1)


def _rows_at_once(similarities: int) -> int:
  """Returns the number of rows of queries that are processed at once.

  The number is small, so that large images fit the memory, and on CPU the
  caches. It is 1 in programs of symbolic size.

  Args:
    similarities: Number of similarities per row.
  """
  if not isinstance(similarities, int):
    return 1
  # The backend decides only how much is held at once; the result is the same.
  limit = _CPU_SIMILARITIES if jax.default_backend() == 'cpu' else _SIMILARITIES
  return max(1, limit // similarities)


class RegionNonLocal(nn.Module):
  """Non-local attention within each quarter of the image, added to the input.

  Attributes:
    dtype: Computation type; attention is computed in float32.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to the same shape."""
    width = x.shape[-1]
    query, key, value = (
      common.Conv(width // 8, 1, dtype=self.dtype, name=name)(x)
      for name in ('theta', 'phi', 'g')
    )
    y = jnp.concatenate(
      [
        jnp.concatenate(
          [
            _attend(
              query[:, rows, columns],
              _pool(key[:, rows, columns]),
              _pool(value[:, rows, columns]),
            )
            for columns in _parts(x.shape[2])
          ],
          axis=2,
        )
        for rows in _parts(x.shape[1])
      ],
      axis=1,
    )
    zeros = nn.initializers.zeros
    out = common.Conv(
      width, 1, kernel_init=zeros, bias_init=zeros, dtype=self.dtype, name='out'
    )
    return x + out(y)


class Group(nn.Module):
  """Residual blocks, second-order attention and a convolution.

  The result is added to the input.

  Attributes:
    blocks: Number of residual blocks.
    reduction: Factor by which the attention narrows its hidden layer.
    dtype: Computation type.
  """

  blocks: int
  reduction: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to the same shape."""
    width, dtype = x.shape[-1], self.dtype
    block = common.ResBlock(width, dtype=dtype, name='body_*')
    y = common.chain(block, self.blocks, x)
    y = SecondOrderAttention(self.reduction, dtype, name='attention')(y)
    return x + common.Conv(width, dtype=dtype, name='end')(y)


class SAN(base.Network):
  """The network of every variant.

  Attributes:
    scale: Enlargement: 2, 3, 4 or 8.
    groups: Number of residual groups.
    blocks: Number of residual blocks of each group.
    features: Width of every layer, 8 or more.
    reduction: Factor by which the channel attention narrows its hidden layer.
    channels: Number of image channels. If it is 3, the mean colour of DIV2K is
      subtracted, otherwise mid-grey.
    dtype: Computation type; parameters stay float32.
  """

  scale: SubPixelScale
  groups: Count
  blocks: Count
  features: Annotated[int, whole(8, 4096)]
  reduction: Width
  channels: Channels = 3
  dtype: Any = jnp.float32
  # Smallest side of images of a program for all sizes.
  least_side = _HALVED

  def check(self) -> None:
    """Refuses a reduction that leaves no channels in the attention.

    Raises:
      UserError: The reduction exceeds the width.
    """
    if self.reduction > self.features:
      raise UserError(
        f'config.model.reduction={self.reduction}: give at most'
        f' features={self.features}'
      )

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1] to `[B, sH, sW, C]`, unclipped."""
    del train
    width, dtype = self.features, self.dtype
    mean = common.default_mean(self.channels)
    # The released code trains the shift.
    x = common.MeanShift(mean, -1, trainable=True, name='sub_mean')(255 * lr)
    head = common.Conv(width, dtype=dtype, name='head')(x)
    non_local = RegionNonLocal(dtype, name='non_local')
    source = x = non_local(head)
    gamma = self.param('gamma', nn.initializers.zeros, (1,))
    gamma = gamma.astype(dtype).reshape(1, 1, 1, 1)
    for i in range(self.groups):
      group = Group(self.blocks, self.reduction, dtype, name=f'group_{i}')
      x = group(x) + gamma * source
    x = head + non_local(x)
    x = common.Upsampler(self.scale, width, dtype=dtype, name='upsample')(x)
    # The last layer computes in float32: bfloat16 would merge grey levels.
    x = common.Conv(self.channels, name='tail')(x)
    return common.MeanShift(mean, 1, trainable=True, name='add_mean')(
      x
    ) / 255, {}

  @property
  def halo(self) -> None:
    """None, because covariances and attention depend on the whole image."""
    return None


def Model(*, scale: int, variant: str = 'san', **overrides: Any) -> SAN:
  """Creates SAN in one variant; overrides replace single options."""
  return SAN(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )
