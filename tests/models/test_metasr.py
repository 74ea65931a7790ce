"""Meta-SR: against the released code, an oracle in NumPy, and by memory.

The golden arrays are weights, inputs and outputs of Meta-SR-Pytorch 8aec6e1
under PyTorch 2.13, and the positions that its float32 code computes beside the
exact ones.
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from sr_jax import checkpoints, models
from sr_jax.errors import UserError
from sr_jax.inference import loading, memory
from sr_jax.inference.automatic import upscale
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler
from sr_jax.models import metasr
from sr_jax.ops.scales import rational
from sr_jax.weights.published import import_weights
from sr_jax.weights.stablehlo import export_stablehlo
from tests import golden_files, model_checks
from tests.nightly import first_by_default, nightly
from tests.tiny_models import random_image
from tests.weights import torch_files

GOLDEN = Path(__file__).parents[1] / 'golden'


@pytest.mark.parametrize('system', ['metaedsr', 'metardn'])
def test_options_and_parameter_count(system, tmp_path):
  golden = golden_files.load(f'{system}_small')
  path = tmp_path / 'model.pt'
  path.write_bytes(torch_files.state_dict(golden.state_dict))
  imported = import_weights(path, model='metasr', scale=4)
  assert imported.config['options'] == {
    'channels': 3,
    'features': 8,
    'body': system.removeprefix('meta'),
    'blocks': 2,
    'layers': 3 if system == 'metardn' else 0,
    'growth': 8 if system == 'metardn' else 0,
  }
  count = sum(leaf.size for leaf in jax.tree.leaves(imported.params))
  assert count == golden.meta['n_params']['main']


@pytest.mark.parametrize('scale', [1.5, 2, 2.3, 3.7])
def test_sizes_are_rounded_up(scale):
  """The released code rounds them down."""
  golden = golden_files.load('metardn_small')
  released = golden.outputs[f'y_s{scale:g}'].shape[1:3]
  assert released == tuple(math.floor(scale * n) for n in (10, 13))
  network = metasr.Model(scale=scale, variant='edsr-small')
  lr = jnp.zeros((1, 10, 13, 3))
  (sr, _), _ = jax.eval_shape(network.init_with_output, jax.random.key(0), lr)
  assert sr.shape[1:3] == tuple(math.ceil(scale * n) for n in (10, 13))


@pytest.mark.parametrize('count', [10, 13, 50])
@pytest.mark.parametrize('scale', [1.1, 1.5, 2, 2.3, 2.7, 3, 3.7, 4])
def test_positions_of_every_pixel(scale, count):
  data = np.load(GOLDEN / 'metasr_positions.npz')
  exact, index, offset = (
    data[f'out:{kind}_s{scale:g}_n{count}'] for kind in ('exact', 'int', 'frac')
  )
  source, ours = metasr.positions(len(exact), rational(scale))
  np.testing.assert_array_equal(source, exact)
  # Where the released float32 code is a pixel short, its offset is near one.
  same = index == exact
  assert same.sum() >= len(exact) - 1
  np.testing.assert_allclose(ours[same], offset[same], atol=2e-5)
  np.testing.assert_allclose(ours[~same], 0, atol=1e-12)


def _upscale_by_pixel(x, params, scale):
  """The definition, pixel by pixel in float64: `[H, W, F]` to SR."""
  ratio = Fraction(str(scale))
  height, width, features = x.shape
  hidden, filters = (params[name] for name in ('hidden', 'filters'))
  padded = np.pad(x, ((1, 1), (1, 1), (0, 0))).astype(np.float64)
  sr = np.zeros((math.ceil(ratio * height), math.ceil(ratio * width), 3))
  for i, j in np.ndindex(*sr.shape[:2]):
    row, column = Fraction(i) / ratio, Fraction(j) / ratio
    top, left = math.floor(row), math.floor(column)
    offsets = [1 / ratio, row - top, column - left]
    z = np.array([float(v) for v in offsets]) @ hidden['kernel']
    z = np.maximum(z + hidden['bias'], 0) @ filters['kernel'] + filters['bias']
    # By feature, row and column of the filter, and image channel.
    taps = z.reshape(features, 3, 3, 3)
    seen = padded[top : top + 3, left : left + 3]
    sr[i, j] = np.einsum('yxf,fyxc->c', seen, taps)
  return sr


@pytest.mark.parametrize(
  ('scale', 'size'),
  [
    (1.1, (12, 7)),
    (2, (4, 5)),
    (2.37, (5, 3)),  # fewer pixels than a group of 100
    (2.5, (1, 1)),
    (3.7, (11, 10)),  # one group and the first pixel of the next
    (4, (3, 6)),
  ],
)
def test_upscaling_is_its_definition(scale, size):
  module = metasr.MetaUpscale(scale, 3, hidden=16)
  x = np.random.default_rng(0).normal(size=(2, *size, 4)).astype(np.float32)
  init = jax.jit(module.init)
  params = init(jax.random.key(0), jnp.asarray(x))['params']
  sr = jax.jit(lambda p, x: module.apply({'params': p}, x))(params, x)
  for ours, image in zip(sr, x, strict=True):
    expected = _upscale_by_pixel(image, jax.device_get(params), scale)
    np.testing.assert_allclose(ours, expected, atol=2e-5)


@pytest.mark.parametrize('scale', first_by_default([2.3, 2, 3.1]))
def test_memory_of_upscaling(scale):
  """Temporaries stay below the features at SR size, filters included."""
  module = metasr.MetaUpscale(scale, 3)
  x = jax.ShapeDtypeStruct((1, 130, 130, 64), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  compiled = jax.jit(module.apply).lower(variables, x).compile()
  used = compiled.memory_analysis().temp_size_in_bytes
  assert used < 4 * 64 * (scale * 130) ** 2


@pytest.mark.parametrize('scale', first_by_default([3, 2, 4, 8]))
def test_halo_of_the_dense_body_is_the_receptive_radius(scale):
  network = metasr.Model(
    scale=scale, variant='rdn', blocks=2, layers=2, growth=4, features=4
  )
  side = 2 * network.halo + 3
  centre = side // 2
  lr = jax.random.uniform(jax.random.key(1), (1, side, side, 3))
  variables = model_checks.noise(network)
  apply = jax.jit(lambda lr: network.apply(variables, lr)[0])
  changed = apply(lr) != apply(lr.at[:, centre, centre].add(100.0))
  for axis in (1, 2):
    others = tuple({0, 1, 2, 3} - {axis})
    hit = np.flatnonzero(np.asarray(changed).any(others))
    assert centre - hit[0] // scale == network.halo
    assert hit[-1] // scale - centre == network.halo


def _checkpoint(folder, **sections):
  config = {
    'method': {'name': 'supervised'},
    'model': {
      'name': 'metasr',
      'variant': 'edsr-small',
      'scale': 2,
      'blocks': 1,
      'features': 4,
    },
    **sections,
  }
  network = models.create(config['model'])
  variables = model_checks.noise(network)
  checkpoints.save_params(folder, {'generator': variables['params']}, config)
  return variables


@pytest.mark.parametrize(
  'sections',
  [
    {'data': {'scales': [1.5, 3, 3.5]}},  # as a training run leaves it
    nightly({'method': metasr.METHOD}),  # as imported
  ],
)
def test_a_checkpoint_enlarges_by_any_scale_in_its_range(tmp_path, sections):
  variables = _checkpoint(tmp_path / 'a', **sections)
  lr = random_image(9, 7)
  for scale in (2.37, 3, 3.5):
    model = loading.load(tmp_path / 'a', scale=scale)
    network = models.create({**model.config['model']})
    assert network.scale == model.scale == scale
    assert (model.halo is None) == (scale != 3)
    sr = Upscaler(model, UpscaleOptions(mirror_border=False))(lr)
    assert sr.shape == (math.ceil(scale * 9), math.ceil(scale * 7), 3)
    expected = jax.jit(network.apply)(variables, lr[None])[0][0]
    np.testing.assert_allclose(sr, np.clip(expected, 0, 1), atol=1e-5)
  assert loading.load(tmp_path / 'a').scale == 2
  with pytest.raises(UserError, match=r'not by 4\.5; choose one of these'):
    loading.load(tmp_path / 'a', scale=4.5)


def test_tiles_at_whole_scales_change_nothing(tmp_path):
  _checkpoint(tmp_path / 'a', method=metasr.METHOD)
  model = loading.load(tmp_path / 'a', scale=3)
  lr = random_image(40, 33)
  whole = upscale(model, lr, tile='off')
  tiled = upscale(model, lr, tile=2 * model.halo + 5)
  np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_a_large_image_at_another_scale_is_refused_in_one_line(
  tmp_path, monkeypatch
):
  _checkpoint(tmp_path / 'a', method=metasr.METHOD)
  model = loading.load(tmp_path / 'a', scale=2.5)
  monkeypatch.setattr(memory, 'available_bytes', lambda device: 2**20)
  with pytest.raises(UserError, match=r'scale 2\.5, which cannot be tiled'):
    upscale(model, random_image(140, 130))


def test_export_at_a_whole_scale_takes_any_size(tmp_path):
  network = metasr.Model(scale=3, variant='edsr-small', blocks=1, features=4)
  lr = random_image(5, 7)[None]
  params = model_checks.noise(network)['params']

  @jax.jit
  def apply(params, lr):
    return network.apply({'params': params}, lr)[0]

  export_stablehlo(apply, params, tmp_path / 'a', scale=3)
  program = export.deserialize((tmp_path / 'a').read_bytes())
  np.testing.assert_allclose(program.call(lr), apply(params, lr), atol=1e-6)


def test_bodies_have_the_published_options():
  network = metasr.Model(scale=2.3)
  options = dataclasses.asdict(network)
  assert [options[k] for k in ('body', 'blocks', 'layers', 'growth')] == [
    'rdn',
    16,
    8,
    64,
  ]
  assert metasr.METHOD['scales'][::29] == (1.1, 4.0)
  assert len(metasr.METHOD['scales']) == 30
