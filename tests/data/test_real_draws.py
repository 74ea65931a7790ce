"""The draws of realistic degradations against the tables of the papers."""

import functools
import json

import jax
import numpy as np
import pytest
from scipy import stats

from configs import common
from sr_jax import experiment
from sr_jax.data import real_draws, real_presets
from sr_jax.data.degradation import Degradation
from sr_jax.errors import UserError
from sr_jax.ops import noise, per_image
from sr_jax.ops.kernel_families import FAMILIES
from sr_jax.ops.realistic import SHUFFLED

COUNT, SCALE = 20_000, 4


@functools.cache
def _drawn(preset):
  full, half = (
    real_presets.ranges(preset, {}, scale) for scale in (SCALE, SCALE / 2)
  )
  draw = jax.jit(
    lambda key: real_draws.draw(key, COUNT, SCALE, full, half),
  )
  return jax.tree.map(np.asarray, draw(jax.random.key(7)))


def _uniform(values, least, most):
  """The values are uniform between the two."""
  assert len(values) > 100
  spread = stats.uniform(least, most - least)
  assert stats.kstest(values, spread.cdf).pvalue > 1e-4


def _whole(values, least, most, step=1):
  """Every value of a range of whole numbers is drawn equally often."""
  expected = np.arange(least, most + 1, step)
  found, counts = np.unique(values, return_counts=True)
  np.testing.assert_array_equal(found, expected)
  assert stats.chisquare(counts).pvalue > 1e-4


def _share(chosen, expected):
  assert chosen.mean() == pytest.approx(expected, abs=0.015)


def _shares(indices, names, expected):
  for i, name in enumerate(names):
    _share(indices == i, expected.get(name, 0))


MIXED = {
  **{'isotropic': 0.45, 'anisotropic': 0.25},
  **{'generalised_isotropic': 0.12, 'generalised_anisotropic': 0.03},
  **{'plateau_isotropic': 0.12, 'plateau_anisotropic': 0.03},
}


@pytest.mark.parametrize(
  ('number', 'share', 'sigma', 'resizes', 'gaussian', 'poisson'),
  [
    (0, 1, 3, ((0.2, 1, 1.5), (0.7, 0.15, 1)), (1, 30), (0.05, 3)),
    (1, 0.8, 1.5, ((0.3, 1, 1.2), (0.4, 0.3, 1)), (1, 25), (0.05, 2.5)),
  ],
)
def test_rounds_of_realesrgan(number, share, sigma, resizes, gaussian, poisson):
  drawn = _drawn('realesrgan')
  blur, resize, noises = (drawn.first, drawn.second)[number]
  families = {k: 0.9 * v * share for k, v in MIXED.items()}
  families |= {'sinc': 0.1 * share, 'none': 1 - share}
  _shares(blur.family, FAMILIES, families)
  _whole(blur.taps, 7, 21, 2)
  anisotropic = blur.family == FAMILIES.index('anisotropic')
  for axis in (blur.sigma_x, blur.sigma_y):
    _uniform(axis[anisotropic], 0.2, sigma)
  isotropic = blur.family == FAMILIES.index('isotropic')
  np.testing.assert_array_equal(
    blur.sigma_x[isotropic], blur.sigma_y[isotropic]
  )
  _uniform(blur.angle, -np.pi, np.pi)
  assert set(blur.beta[isotropic | anisotropic]) == {1.0}
  generalised = np.isin(blur.family, [2, 3])
  _uniform(blur.beta[generalised], 0.5, 4)
  _uniform(blur.beta[np.isin(blur.family, [4, 5])], 1, 2)
  small = blur.taps < 13
  _uniform(blur.cutoff[small], 1 / 3, 1)
  _uniform(blur.cutoff[~small], 1 / 5, 1)

  (up, _, most), (down, least, _) = resizes
  _share(resize.factor > 1, up)
  _share(resize.factor < 1, down)
  _uniform(resize.factor[resize.factor > 1], 1, most)
  _uniform(resize.factor[resize.factor < 1], least, 1)
  even = dict.fromkeys(('area', 'linear', 'cubic'), 1 / 3)
  _shares(resize.method, per_image.METHODS, even)

  _shares(noises.kind, noise.KINDS, {'gaussian': 0.5, 'poisson': 0.5})
  _uniform(noises.level[noises.kind == noise.GAUSSIAN], *gaussian)
  _uniform(noises.level[noises.kind == noise.POISSON], *poisson)
  _shares(noises.colour, noise.COLOURS, {'channels': 0.6, 'grey': 0.4})


def test_last_operations_of_realesrgan():
  drawn = _drawn('realesrgan')
  assert drawn.ranks is None
  assert not drawn.halved.any()
  _whole(drawn.quality, 30, 95)
  _whole(drawn.last.quality, 30, 95)
  _share(drawn.last.jpeg_last, 0.5)
  sinc = drawn.last.sinc
  _shares(sinc.family, FAMILIES, {'sinc': 0.8, 'none': 0.2})
  _uniform(sinc.cutoff, 1 / 3, 1)
  _whole(sinc.taps, 7, 21, 2)


def test_bsrgan():
  """The ranges of a quarter of the images at x4, halved first, are of x2."""
  drawn = _drawn('bsrgan')
  _share(drawn.halved, 0.25)
  halving = dict.fromkeys(('area', 'linear', 'cubic'), 1 / 6)
  _shares(drawn.halving, per_image.METHODS, halving | {'antialiased': 1 / 2})
  for halved, scale in ((False, 4), (True, 2)):
    chosen = drawn.halved == halved
    for each in (drawn.first, drawn.second):
      blur = jax.tree.map(lambda v, c=chosen: v[c], each.blur)
      _shares(blur.family, FAMILIES, {'isotropic': 0.5, 'anisotropic': 0.5})
      _whole(blur.taps, 7, 25, 2)
      anisotropic = blur.family == FAMILIES.index('anisotropic')
      _uniform(blur.sigma_x[anisotropic] ** 2, 0, 4 + scale)
      _uniform(blur.sigma_y[anisotropic] ** 2, 0, 4 + scale)
      _uniform(blur.sigma_x[~anisotropic], 0, 2 + 0.2 * scale)
    resize = jax.tree.map(lambda v, c=chosen: v[c], drawn.first.resize)
    sampled = resize.method == per_image.GAUSSIAN
    _share(sampled, 0.25)
    np.testing.assert_allclose(resize.factor[sampled], 1 / scale)
    _uniform(resize.sigma[sampled], 0.1, 0.6 * scale)
    _uniform(1 / resize.factor[~sampled], 1, 2 * scale)
  noises = drawn.first.noise
  assert (noises.kind == noise.GAUSSIAN).all()
  _whole(noises.level, 2, 25)
  colours = {'channels': 0.4, 'grey': 0.4, 'covariance': 0.2}
  _shares(noises.colour, noise.COLOURS, colours)
  assert (drawn.second.noise.kind == noise.NONE).all()
  _share(drawn.quality > 0, 0.9)
  _whole(drawn.quality[drawn.quality > 0], 30, 95)
  _whole(drawn.last.quality, 30, 95)


def test_every_order_of_bsrgan_is_drawn_equally_often():
  """The last resize follows the first: half of the 720 orders are left."""
  ranks = _drawn('bsrgan').ranks
  first, last = SHUFFLED.index('resize'), SHUFFLED.index('last_resize')
  assert (ranks[:, first] < ranks[:, last]).all()
  orders, counts = np.unique(ranks, axis=0, return_counts=True)
  assert len(orders) == 360
  assert stats.chisquare(counts).pvalue > 1e-4


def test_covariances_are_those_of_rotated_axes():
  mixing = _drawn('bsrgan').first.noise.mixing
  covariance = mixing @ np.swapaxes(mixing, 1, 2)
  values = np.linalg.eigvalsh(covariance)
  assert values.min() > -1e-5
  assert values.max() < 1 + 1e-5
  np.testing.assert_allclose(covariance.mean(0), np.eye(3) / 2, atol=0.02)
  _uniform(np.random.default_rng(0).permuted(values, axis=1)[:, 0], 0, 1)


def test_camera_mild_is_mild():
  drawn = _drawn('camera-mild')
  assert (drawn.second.resize.factor == 1).all()
  assert (drawn.second.blur.family == FAMILIES.index('none')).all()
  noises = drawn.first.noise
  assert noises.level[noises.kind == noise.GAUSSIAN].max() <= 5
  assert drawn.last.quality[drawn.last.quality > 0].min() >= 75
  assert drawn.first.resize.factor.min() >= 0.8
  _share(drawn.last.quality == 0, 0.3)


@pytest.mark.parametrize('preset', real_presets.PRESETS)
def test_limits_bound_what_is_drawn(preset):
  """A compiled program has room for every draw, and for no more methods."""
  drawn = _drawn(preset)
  limits = real_presets.limits(real_presets.ranges(preset, {}, SCALE))
  rounds = (drawn.first, drawn.second)
  for each, taps, most in zip(
    rounds, limits.taps[:2], limits.factors, strict=True
  ):
    assert each.blur.taps.max() <= taps
    assert each.resize.factor.max() <= most
  assert drawn.last.sinc.taps.max() <= limits.taps[2]
  assert bool(limits.methods[0]) == drawn.halved.any()
  methods = (drawn.halving, *(r.resize.method for r in rounds))
  for indices, used in zip(
    (*methods, drawn.last.method), limits.methods, strict=True
  ):
    assert not used or set(indices) == set(used)


def _complete(**real):
  config = common.base()
  config.degradation.name = 'real'
  config.degradation.real.preset = real.pop('preset', 'realesrgan')
  plain = experiment.to_plain(config)
  for path, value in real.items():
    section = plain['degradation']['real']
    *parents, key = path.split('/')
    for parent in parents:
      section = section[parent]
    section[key] = value
  return experiment.complete(plain)['degradation']


def test_every_range_is_a_config_value():
  """A value of the config replaces the preset's; the others remain."""
  section = _complete(
    **{'first/gaussian': (1.0, 3, 3), 'first/poisson': (0, 1, 1)}
  )
  made = Degradation.from_config(section)
  draw = jax.jit(functools.partial(made._draw, count=50, scale=2))
  first = jax.tree.map(np.asarray, draw(jax.random.key(0))).first
  assert set(first.noise.level) == {3.0}
  assert len(set(first.blur.sigma_x)) == 50
  defaults = Degradation.from_config(_complete())._ranges(2)
  assert defaults == real_presets.ranges('realesrgan', {}, 2)
  # Every key of the ranges is a key of the config, and the other way round.
  real = _complete()['real']
  assert real.keys() - {'preset'} == defaults.keys()
  for name in ('first', 'second', 'last'):
    assert real[name].keys() == defaults[name].keys()


@pytest.mark.parametrize(
  ('real', 'words'),
  [
    ({'preset': 'esrgan'}, "preset='esrgan': unknown preset; did you mean"),
    ({'preset': 'x'}, 'choose from'),
    ({'first/sigma': (3, 0.2)}, 'first.sigma=.*the least first'),
    ({'first/gaussian': (1, -2, 25)}, 'first.gaussian=.*from 0 to 255'),
    ({'second/poisson': (1.5, 0, 1)}, 'second.poisson=.*share from 0 to 1'),
    ({'first/jpeg': (1, 0, 95)}, 'first.jpeg=.*from 1 to 100'),
    ({'last/jpeg': (1, 30, 101)}, 'last.jpeg=.*from 1 to 100'),
    ({'first/taps': (8, 21)}, 'first.taps=.*odd'),
    ({'first/families': (1, 1, 0, 0, 0, 0, 0)}, 'sum is 1 or less'),
    ({'first/methods': (1, 1, 1)}, 'area, linear, cubic, antialiased'),
    ({'first/up': (0.9, 1, 2)}, 'up, down, .* sum to more than 1'),
    ({'first/gaussan': (1, 2, 3)}, "no key 'gaussan': did you mean gaussian"),
    ({'order': 'any'}, "order='any'"),
    ({'order': 'shuffled'}, 'second.up.*no such operation'),
    ({'first/sigma': (float('nan'), 1)}, 'first.sigma'),
    ({'last': 3}, 'real.last=3'),
  ],
)
def test_bad_ranges_are_refused_in_one_line(real, words):
  with pytest.raises(UserError, match=words) as caught:
    Degradation.from_config(_complete(**real))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'others', [{'noise_sigma': 1.0}, {'jpeg_quality': 50}, {'kernel': 'bd'}]
)
def test_real_is_not_combined_with_fixed_noise(others):
  with pytest.raises(UserError, match="'real' draws"):
    Degradation('real', **others)


def test_operations_of_a_file_depend_on_seed_and_name():
  made = Degradation('real', real={'preset': 'bsrgan'}, seed=3)
  one = made.operations_of_file('a.png', 4)
  assert one == made.operations_of_file('a.png', 4)
  assert one != made.operations_of_file('b.png', 4)
  other = Degradation('real', real={'preset': 'bsrgan'}, seed=4)
  assert one != other.operations_of_file('a.png', 4)
  assert sorted(one['order']) == sorted([*SHUFFLED, 'last_jpeg'])
  assert json.loads(json.dumps(one)) == one
