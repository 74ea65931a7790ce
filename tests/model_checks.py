"""Checks that every architecture of `sr_jax.models` must pass.

`test_models` runs these checks on each file of the package, and the test of
CONTRIBUTING.md on the file that its recipe shows. What a check needs to know of
an architecture stands in its own file: `VARIANTS`, `TINY`, its network's
attributes. Networks are tiny, and their variables are made of noise by NumPy:
compiling an initialisation costs more than the check itself.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re

import flax.linen as nn
import jax
import numpy as np

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.models.parts import common
from sr_jax.models.parts.parameters import expected_shapes, shapes_of

# Height of the images that show whether one end reaches the other.
_FAR = 80


def tiny(name, scale=None, **options):
  """A network small enough for tests; its default is the smallest scale."""
  return models.create(
    {
      'name': name,
      'scale': least_scale(name) if scale is None else scale,
      **models.module(name).TINY,
      **options,
    }
  )


@functools.cache
def least_scale(name):
  """The smallest scale of the architecture, from 2 on if possible."""
  for scale in (2, 3, 4, 8):
    try:
      models.create({'name': name, 'scale': scale})
    except UserError:
      continue
    return scale
  raise AssertionError(f'{name} takes none of the scales 2, 3, 4 and 8')


def image(network, height, width, batch=1, seed=0):
  """Noise in [0, 1] with the network's channels."""
  rng = np.random.default_rng(seed)
  shape = (batch, height, width, network.channels)
  return rng.random(shape, np.float32)


def noise(network, spread=0.2, seed=0, bounded=True):
  """Variables of the network, made of noise: nothing is zero or one exactly.

  `bounded` keeps wide layers from saturating the sigmoids behind them.
  """
  side = network.example_side
  shapes = jax.eval_shape(
    network.init, jax.random.key(0), image(network, side, side)
  )
  rng = np.random.default_rng(seed)

  def leaf(path, like):
    # A variance, and what a normalisation multiplies by, are near one.
    near_one = path[-1].key in ('var', 'scale')
    fan_in = math.prod(like.shape[-4:-1]) if len(like.shape) > 1 else 1
    size = min(spread, math.sqrt(2 / fan_in)) if bounded else spread
    values = size * rng.normal(size=like.shape) + near_one
    return (np.abs(values) if near_one else values).astype(like.dtype)

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def check_count(name, variant, scale):
  """The variant has as many parameters as `VARIANTS` states."""
  network = models.create({'name': name, 'variant': variant, 'scale': scale})
  total = sum(map(math.prod, expected_shapes(network).values()))
  stated = models.module(name).VARIANTS[variant].parameters[scale]
  assert total == stated, (
    f'{name} {variant} x{scale} has {total:,} parameters, VARIANTS states'
    f' {stated:,}'
  )


def check_shapes(name, scale):
  """SR has `scale` times the sides, for images of odd sides and one pixel."""
  network = tiny(name, scale)
  for batch, height, width in ((1, 1, 1), (2, 7, 5)):
    lr = image(network, height, width, batch)
    result = jax.eval_shape(network.init_with_output, jax.random.key(0), lr)
    sr, _ = result[0]
    assert sr.shape == (batch, scale * height, scale * width, network.channels)


def check_channels(name, channels=4):
  """It takes other channels than RGB, or declares that it sees luma alone."""
  network = tiny(name)
  fields = {field.name for field in dataclasses.fields(network)}
  if network.luma:
    assert network.channels == 1
    return
  assert 'channels' in fields, (
    f'{name}: declare `channels: Channels = 3` in {type(network).__name__}, for'
    ' images that are not RGB'
  )
  network = tiny(name, channels=channels)
  lr = image(network, 4, 4)
  (sr, _), _ = jax.eval_shape(network.init_with_output, jax.random.key(0), lr)
  side = 4 * network.scale
  assert sr.shape == (1, side, side, channels)


def check_low_precision(name):
  """With dtype=bfloat16 layers compute in it; parameters and SR do not."""
  network = tiny(name, dtype='bfloat16')
  lr = image(network, 6, 5)
  variables = jax.eval_shape(network.init, jax.random.key(0), lr)
  types = {str(leaf.dtype) for leaf in jax.tree.leaves(variables)}
  assert types == {'float32'}, f'{name}: parameters must stay float32'
  program, (sr, _) = jax.make_jaxpr(network.apply, return_shape=True)(
    variables, lr
  )
  assert re.search(r':bf16\[[\d,]+\] = \w*conv\w*\[', str(program)), (
    f'{name}: no convolution computes in bfloat16; pass dtype=self.dtype to'
    ' its layers'
  )
  assert sr.dtype == np.float32, (
    f'{name}: SR must be float32; leave dtype out of the last layer'
  )


def check_gradients_and_reach(name, scale):
  """Finite gradients reach every parameter; `halo` is the receptive radius.

  One program serves both: the gradient of a sum of squares with respect to
  variables and image, of all outputs or of the middle rows of SR alone. Their
  gradient shows even the faintest dependence on a row of the image.
  """
  network = tiny(name, scale)
  halo = network.halo
  side = _FAR if halo is None else 2 * halo + 3
  lr = image(network, side, 7, batch=2)
  # Several: a narrow layer may lie behind rectifiers that are all off.
  draws = [noise(network, seed=seed) for seed in range(6)]
  draws.append(noise(network, bounded=False))  # shows what is far away

  def energy(variables, lr, rows, others):
    sr, aux = network.apply(variables, lr)
    extra = sum((y**2).sum() for y in jax.tree.leaves(aux))
    return (rows * sr**2).sum() + others * extra, (sr, aux)

  program = jax.jit(jax.value_and_grad(energy, (0, 1), has_aux=True))
  rows = np.ones((1, scale * side, 1, 1), np.float32)
  found = [program(variables, lr, rows, 1.0) for variables in draws]
  (_, (sr, aux)), _ = found[0]
  assert sr.dtype == np.float32
  if 'outputs' in aux:
    np.testing.assert_array_equal(
      aux['outputs'][-1], sr, "SR must be the last of aux['outputs']"
    )
  reached = [grads['params'] for _, (grads, _) in found]
  _check_gradients(name, reached, _constants(network))

  first = side - 1 if halo is None else side // 2
  rows = rows * 0
  rows[:, scale * first : scale * (first + 1)] = 1
  seen = [program(variables, lr, rows, 0.0)[1][1] for variables in draws]
  reached = np.flatnonzero(np.any(np.asarray(seen) != 0, axis=(0, 1, 3, 4)))
  if halo is None:
    assert reached[0] == 0, (
      f'{name}: the last row of SR does not depend on the first of LR: give'
      f' `halo`, the receptive radius in LR pixels'
    )
  else:
    reach = max(first - reached[0], reached[-1] - first)
    assert reach == halo, f'{name}: halo is {halo}, but pixels reach {reach}'


def _constants(network):
  """Paths of mean shifts that are not trained."""
  paths = set()

  def look(call, args, kwargs, context):
    module = context.module
    if isinstance(module, common.MeanShift) and not module.trainable:
      paths.add('/'.join(module.path))
    return call(*args, **kwargs)

  with nn.intercept_methods(look):
    expected_shapes(network)
  return paths


def _check_gradients(name, draws, constants):
  leaves = [jax.tree.leaves(grads) for grads in draws]
  for path, drawn in zip(
    shapes_of(draws[0]), zip(*leaves, strict=True), strict=True
  ):
    assert np.isfinite(drawn).all(), f'{name}: gradient of {path} is not finite'
    constant = path.rpartition('/')[0] in constants
    assert np.any(np.asarray(drawn)) != constant, (
      f'{name}: {"a" if constant else "no"} gradient reaches {path}'
    )
