"""Whole networks in forward mode and to second order.

B12: `jax.jvp` and `jax.hessian` of any network raised on CPU. The reference is
the same network with `jax.lax`'s own convolutions and derivatives.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sr_jax.models import srntt
from sr_jax.ops import conv, conv_forms, scaled_conv
from tests import model_checks

_SLOW = pytest.mark.nightly
NAMES = [
  pytest.param('edsr', marks=_SLOW),
  pytest.param('rcan', marks=_SLOW),
  pytest.param('san', marks=_SLOW),
  pytest.param('drn', marks=_SLOW),
  'mzsr',
  pytest.param('srfbn', marks=_SLOW),
  pytest.param('carn', marks=_SLOW),
  pytest.param('srntt', marks=_SLOW),
]


def _plainly(monkeypatch):
  """Replaces every convolution by JAX's own, with its derivatives."""

  def convolve(parts, kernel, geometry):
    return conv_forms.PLAIN['value']((*parts, kernel), (), geometry)[0]

  def convolve_transposed(y, kernel, shape, geometry):
    return conv_forms.PLAIN['image']((kernel, y), (shape,), geometry)[0]

  def add_bias(x, bias):
    return x if bias is None else x + bias.reshape(1, 1, 1, -1)

  for module in (conv, scaled_conv):
    monkeypatch.setattr(module, 'convolve', convolve)
    monkeypatch.setattr(module, 'add_bias', add_bias)
  monkeypatch.setattr(scaled_conv, 'convolve_transposed', convolve_transposed)


def _in_float64(layer, args, kwargs, context):
  """Calls a layer in float64; last layers have float32 for their type."""
  if hasattr(context.module, 'dtype'):
    object.__setattr__(context.module, 'dtype', jnp.float64)
  return layer(*args, **kwargs)


def _loss(name):
  """`(variables, LR) -> scalar` of a tiny network, its variables and an LR."""
  network = model_checks.tiny(name)
  lr = model_checks.image(network, 8, 6).astype(np.float64)
  variables = jax.tree.map(
    lambda x: x.astype(np.float64), model_checks.noise(network)
  )
  options = {}
  if name == 'srntt':
    rng = np.random.default_rng(1)
    options['maps'] = {
      layer: jnp.asarray(rng.normal(size=x.shape))
      for layer, x in srntt.no_maps(lr.shape).items()
    }

  def loss(variables, lr):
    with nn.intercept_methods(_in_float64):
      outputs = network.apply(variables, lr, **options)
    return sum(jnp.sin(x).sum() for x in jax.tree.leaves(outputs))

  return loss, variables, lr


def _along(function, variables, direction):
  """Derivative of `function(variables)` along a direction, in forward mode."""
  return jax.jvp(function, (variables,), (direction,))[1]


def _ours(loss, variables, lr, direction):
  """First and second derivatives along a direction, in every mode."""

  def slope(variables, lr):
    return _along(lambda v: loss(v, lr), variables, direction)

  def slope_in_reverse(variables, lr):
    return optax.tree.vdot(jax.grad(loss)(variables, lr), direction)

  def second(variables, lr):
    return _along(lambda v: jax.grad(loss)(v, lr), variables, direction)

  return {
    'first': slope(variables, lr),
    'forward over reverse': second(variables, lr),
    'reverse over forward': jax.grad(slope)(variables, lr),
    'reverse over reverse': jax.grad(slope_in_reverse)(variables, lr),
    'of each image': jax.vmap(second, (None, 0))(
      variables, jnp.stack([lr, lr[:, ::-1]])
    ),
  }


def _reference(loss, variables, lr, direction):
  """The same values by JAX's own convolutions; every mode gives the same."""

  def second(lr):
    return _along(lambda v: jax.grad(loss)(v, lr), variables, direction)

  here, flipped = second(lr), second(lr[:, ::-1])
  return {
    'first': _along(lambda v: loss(v, lr), variables, direction),
    **dict.fromkeys(
      (
        'forward over reverse',
        'reverse over forward',
        'reverse over reverse',
      ),
      here,
    ),
    'of each image': jax.tree.map(lambda *x: jnp.stack(x), here, flipped),
  }


def _computed(derivatives, loss, *arguments):
  return jax.jit(lambda *args: derivatives(loss, *args))(*arguments)


@pytest.mark.parametrize('name', NAMES)
def test_second_derivatives_equal_those_of_plain_convolutions(
  name, monkeypatch
):
  # Parts of the networks compute in `jnp.float32`, whatever their type.
  monkeypatch.setattr(jnp, 'float32', jnp.float64)
  with jax.enable_x64(True):
    loss, variables, lr = _loss(name)
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), variables)
    case = (loss, variables, lr, direction)
    ours = _computed(_ours, *case)
    with monkeypatch.context() as patch:
      _plainly(patch)
      theirs = _computed(_reference, *case)
    assert 'f32[' not in str(jax.make_jaxpr(loss)(variables, lr))
    for name_of, values in theirs.items():
      # Some leaves are zero but for rounding: SAN's gates are all but shut.
      scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(values))
      for one, other in zip(
        *map(jax.tree.leaves, (ours[name_of], values)), strict=True
      ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10 * scale)
