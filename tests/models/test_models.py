"""Every architecture in the package, found by walking it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.models import zssr
from sr_jax.ops.resize import imresize, resize_matrix

CASES = [
  (name, variant, scale, count)
  for name in models.names()
  for variant, entry in models.module(name).VARIANTS.items()
  for scale, count in entry.parameters.items()
]
# Overrides that make any architecture small enough for a test.
TINY = {
  'carn': {'features': 8, 'groups': 2, 'efficient': True, 'multi_scale': False},
  'crossnet': {'features': 4},
  'drcn': {'features': 8, 'recursions': 2},
  'drn': {'blocks': 1, 'features': 8},
  'drrn': {'features': 8, 'units': 2},
  'edsr': {'blocks': 2, 'features': 8},
  'lapsrn': {'depth': 2, 'features': 8},
  'lrfnet': {'blocks': 2, 'features': 8, 'kernel_size': 5},
  'metasr': {'blocks': 2, 'features': 8, 'layers': 2, 'growth': 4},
  'msrresnet': {'blocks': 1, 'features': 8},
  'mzsr': {'depth': 3, 'features': 8},
  'ranksrgan': {'blocks': 1, 'features': 8},
  'rcan': {'groups': 2, 'blocks': 1, 'features': 8, 'reduction': 1},
  'rrdbnet': {'blocks': 1, 'features': 8, 'growth': 4},
  'san': {'groups': 1, 'blocks': 1, 'features': 16, 'reduction': 4},
  'srcnn': {'features': (8, 4)},
  'spsr': {'blocks': 1, 'features': 4, 'growth': 2, 'look_every': 1},
  'srfbn': {'groups': 2, 'steps': 2, 'features': 4},
  'srnet': {'blocks': 1, 'features': 32, 'reduction': 4},
  'srntt': {'blocks': 1, 'transfer_blocks': (1, 1, 1), 'features': 8},
  'srresnet': {'blocks': 1, 'features': 8},
  'vdsr': {'depth': 4, 'features': 8},
  'zssr': {'depth': 3, 'features': 8},
}
# Scales of any variant.
SCALES = sorted({(name, scale) for name, _, scale, _ in CASES})
# Luma alone; the others take RGB and, by an option, other channels.
LUMA = ('drcn', 'drrn', 'lapsrn', 'srcnn', 'vdsr')
COLOUR = [name for name in models.names() if name not in LUMA]
# These enlarge by any factor; the factor is no part of their weights.
ANY_SCALE = ('lrfnet', 'mzsr', 'zssr')
# These enlarge by 4 alone.
FOUR = ('srntt',)
# These see the whole image, wherever they look.
GLOBAL = ('crossnet', 'drn', 'rcan', 'san', 'srnet')
# What reaches farthest is too faint for float32; see its own tests.
FAINT = ('spsr',)
# Their mean shifts are trained, as in the releases.
TRAINED_MEAN = ('drn', 'rcan', 'san')


def _tiny(name, scale, **overrides):
  return models.module(name).Model(scale=scale, **TINY[name], **overrides)


def _least(name):
  """The scale at which tests look at an architecture: 2, if it has it."""
  return 4 if name in FOUR else 2


def _channels(name):
  return 1 if name in LUMA else 3


@pytest.mark.parametrize(('name', 'variant', 'scale', 'count'), CASES)
def test_parameter_count_is_the_published(name, variant, scale, count):
  model = models.module(name).Model(scale=scale, variant=variant)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 16, 16, _channels(name)))
  )
  leaves = jax.tree.leaves(shapes['params'])
  total = sum(math.prod(leaf.shape) for leaf in leaves)
  assert total == count


@pytest.mark.parametrize(('name', 'scale'), SCALES)
def test_shapes_at_odd_sizes_and_batches(name, scale):
  model, channels = _tiny(name, scale), _channels(name)
  for batch, height, width in ((1, 1, 1), (2, 7, 5)):
    lr = jnp.zeros((batch, height, width, channels))
    (sr, _), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), lr)
    assert sr.shape == (batch, scale * height, scale * width, channels)


@pytest.mark.parametrize('name', models.names())
def test_finite_gradients_jit_equals_eager_and_types(name):
  model = _tiny(name, _least(name))
  lr = jax.random.uniform(jax.random.key(1), (1, 8, 9, _channels(name)))
  variables = model.init(jax.random.key(0), lr)
  # Layers that start at zero would keep the gradient from what is before them.
  variables = jax.tree.map(
    lambda x: x + 0.05 * (x == 0).all().astype(x.dtype), variables
  )
  eager, aux = model.apply(variables, lr)
  if 'outputs' in aux:
    np.testing.assert_array_equal(aux['outputs'][-1], eager)
  compiled, _ = jax.jit(model.apply)(variables, lr)
  np.testing.assert_allclose(eager, compiled, atol=1e-5)
  assert compiled.dtype == jnp.float32

  def all_outputs(variables):
    return sum(
      (y**2).sum() for y in jax.tree.leaves(model.apply(variables, lr))
    )

  grads = jax.jit(jax.grad(all_outputs))(variables)
  leaves = jax.tree_util.tree_leaves_with_path(grads['params'])
  for path, leaf in leaves:
    keys = jax.tree_util.keystr(path)
    assert jnp.isfinite(leaf).all(), keys
    constant = '_mean' in keys and name not in TRAINED_MEAN
    if "['phi']['bias']" not in keys:  # cancels in SAN's softmax
      assert jnp.any(leaf != 0) != constant, keys


@pytest.mark.parametrize('name', models.names())
def test_bfloat16_computes_low_but_keeps_float32_parameters(name):
  lr = jax.random.uniform(jax.random.key(1), (1, 6, 5, _channels(name)))
  full, half = (
    _tiny(name, _least(name)),
    _tiny(name, _least(name), dtype='bfloat16'),
  )
  variables = half.init(jax.random.key(0), lr)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
    jnp.dtype('float32')
  }
  difference = jnp.abs(
    half.apply(variables, lr)[0] - full.apply(variables, lr)[0]
  )
  assert 0 < difference.max() < 0.02


@pytest.mark.parametrize('name', GLOBAL)
def test_no_halo_where_a_corner_reaches_the_other(name):
  model = _tiny(name, _least(name))
  assert getattr(model, 'halo', None) is None
  lr = jax.random.uniform(jax.random.key(1), (1, 80, 80, 3))
  variables = model.init(jax.random.key(0), lr)
  (before, _), (after, _) = (
    model.apply(variables, x) for x in (lr, lr.at[:, 0, 0].add(100))
  )
  # Of one colour at least: the influence may be as faint as the rounding.
  assert (before[:, -1, -1] != after[:, -1, -1]).any()


# At scale 1 pixels in the middle of RRDBNet's cells reach less than others.
@pytest.mark.parametrize(
  ('name', 'scale'),
  [case for case in SCALES if case[0] not in (*GLOBAL, *FAINT) and case[1] > 1],
)
def test_halo_is_the_receptive_radius(name, scale):
  """The centre's outputs depend on pixels within `halo`, and no farther.

  Told by gradients, in which the faintest dependence shows. Noise on the
  weights, for those that start as the identity.
  """
  model = _tiny(name, scale)
  halo = getattr(model, 'halo', None)
  side = 21 if halo is None else 2 * halo + 3
  centre = side // 2
  lr = jax.random.uniform(jax.random.key(1), (4, side, 7, _channels(name)))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32),
    model.init(jax.random.key(0), lr),
  )

  def middle(lr):
    sr, _ = model.apply(variables, lr)
    return sr[:, scale * centre : scale * (centre + 1)].sum()

  seen = np.asarray(jax.jit(jax.grad(middle))(lr) != 0).any((0, 2, 3))
  rows = np.flatnonzero(seen)
  assert max(centre - rows[0], rows[-1] - centre) == model.halo


@pytest.mark.parametrize('offset', [None, 0.0, -3.5, 7.0])
@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_halo_of_enlarging_networks_of_any_depth(scale, offset):
  """Which rows one LR pixel reaches: its column of the resize, widened."""
  pixels, centre = 61, 30
  matrix = resize_matrix(pixels, scale * pixels, scale, offset=offset)
  enlarged = np.abs(matrix[:, centre]) > 1e-9
  for depth in (1, 2, 5, 8, 20):
    rows = np.flatnonzero(np.convolve(enlarged, np.ones(2 * depth + 1), 'same'))
    reach = max(centre - rows[0] // scale, rows[-1] // scale - centre)
    assert zssr.enlarged_halo(scale, depth, offset) == reach


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('name', COLOUR)
def test_other_channel_counts(name, channels):
  model = _tiny(name, _least(name), channels=channels)
  lr = jnp.full((1, 4, 4, channels), 0.5)
  (sr, _), _ = model.init_with_output(jax.random.key(0), lr)
  assert sr.shape == (1, 4 * _least(name), 4 * _least(name), channels)


@pytest.mark.parametrize('name', ANY_SCALE)
def test_scales_that_are_not_whole(name):
  model = _tiny(name, 2.5)
  assert model.halo is None
  lr = jax.random.uniform(jax.random.key(1), (2, 5, 4, 3))
  (sr, _), variables = model.init_with_output(jax.random.key(0), lr)
  assert sr.shape == (2, 13, 10, 3)
  # The weights are a correction of the cubic enlargement, at every scale.
  nothing = jax.tree.map(jnp.zeros_like, variables)
  for scale in (1.7, 2, 3):
    sr, _ = _tiny(name, scale).apply(nothing, lr)
    np.testing.assert_array_equal(sr, imresize(lr, scale=scale))


@pytest.mark.parametrize('name', ANY_SCALE)
def test_refine_is_what_follows_the_enlargement(name):
  model = _tiny(name, _least(name))
  lr = jax.random.uniform(jax.random.key(1), (1, 5, 4, 3))
  variables = model.init(jax.random.key(0), lr)
  enlarged = imresize(lr, scale=2)
  refined = model.apply(variables, enlarged, method='refine')
  np.testing.assert_array_equal(refined, model.apply(variables, lr)[0])
  assert (refined != enlarged).any()


@pytest.mark.parametrize(
  ('name', 'spread', 'largest', 'biases'),
  [
    # The standard deviation times sqrt(fan_in). MZSR: a normal distribution cut
    # at two standard deviations, as in TensorFlow 1, has 0.8796 of one left.
    ('mzsr', 0.8796, 2.0, 8),
    ('zssr', math.sqrt(0.1), math.inf, 0),
  ],
)
def test_initial_weights_of_the_papers(name, spread, largest, biases):
  model = models.create({'name': name, 'scale': 2})
  init = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
  params = init['params']
  for i in range(1, 9):
    kernel = np.asarray(params[f'conv{i}']['kernel'])
    normal = kernel * math.sqrt(math.prod(kernel.shape[:3]))
    assert normal.std() == pytest.approx(
      spread, rel=0.06 if i in (1, 8) else 0.02
    )
    assert abs(normal).max() <= largest * 1.0001
    assert abs(normal).max() > 1.9 * spread
  found = [layer['bias'] for layer in params.values() if 'bias' in layer]
  assert len(found) == biases
  assert not any(bias.any() for bias in found)


def test_unknown_names_and_options_are_told_in_one_line():
  with pytest.raises(UserError, match="did you mean 'edsr'"):
    models.create({'name': 'edsrr', 'scale': 2})
  with pytest.raises(UserError, match='variant'):
    models.create({'name': 'edsr', 'scale': 2, 'variant': 'huge'})
  for name in models.names():
    with pytest.raises(UserError, match='blokcs'):
      models.create({'name': name, 'scale': _least(name), 'blokcs': 3})
  # An architecture with trained upsampling knows some scales only.
  with pytest.raises(UserError, match='scale=5: give 2, 3, 4 or 8'):
    models.create({'name': 'edsr', 'scale': 5})
