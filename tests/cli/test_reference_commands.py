"""References on the command line: upscale, evaluate and import."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import texture, visible

import sr_jax
from sr_jax import checkpoints, models
from sr_jax.data.image_io import Picture, read_image, write_image
from sr_jax.errors import UserError
from sr_jax.inference import loading
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler
from sr_jax.methods import _texture
from tests import golden_files
from tests.weights import torch_files

TINY = {
  **{'name': 'srntt', 'variant': 'released', 'scale': 4, 'blocks': 1},
  **{'features': 4, 'transfer_blocks': (1, 1, 1)},
}


@pytest.fixture(scope='module')
def slots():
  """Parameters of a tiny SRNTT whose output depends on its reference."""
  network = models.create(TINY)
  variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: x + rng.normal(0, 0.05, x.shape).astype(np.float32),
    variables['params'],
  )
  return {
    'generator': params,
    'batch_stats': variables['batch_stats'],
    'features': _texture.read_features('random:0'),
  }


def _saved(path, slots):
  config = {'method': {'name': 'reference'}, 'model': TINY}
  checkpoints.save_params(path, slots, config)
  return path


@pytest.fixture(scope='module')
def srntt(tmp_path_factory, slots):
  return _saved(tmp_path_factory.mktemp('srntt') / 'srntt-x4', slots)


@pytest.fixture
def files(tmp_path):
  """A small photograph, and references of several kinds."""
  kinds = {
    'photo': texture(10, 13),
    'other': texture(21, 26, seed=1),  # no multiples of 4
    'grey': texture(16, 16, 1, seed=2),
    'flat': np.full((16, 20, 3), 0.5, np.float32),
    'small': texture(11, 30, seed=3),
  }
  for name, image in kinds.items():
    write_image(tmp_path / f'{name}.png', Picture(image))
  alpha = np.full((16, 16, 1), 0.5, np.float32)
  picture = Picture(texture(16, 16, seed=4), alpha=alpha)
  write_image(tmp_path / 'alpha.png', picture)
  return tmp_path


@pytest.mark.nightly
def test_result_strip_and_similarity(run, srntt, files):
  out = files / 'out'
  command = ('upscale', files / 'photo.png', '--model', srntt, '-o', out)
  done = run(*command, '--reference', files / 'other.png', files / 'grey.png')
  assert done.status == 0, done
  assert 'similarity 0.' in done.out
  names = ('photo_x4', 'photo_x4_similarity', 'photo_x4_strip')
  assert visible(out) == sorted(f'{name}.png' for name in names)
  sr, similarity, strip = (
    read_image(out / f'{name}.png').color for name in names
  )
  assert sr.shape == (40, 52, 3)
  assert similarity.shape == (40, 52, 1)
  assert 0 < similarity.min() <= similarity.max() <= 1
  # Below the labels, which widen their cells: SR and both references, whole.
  shown = strip[-40:]
  others = (read_image(files / f'{n}.png').color for n in ('other', 'grey'))
  for image in (sr, *others):
    height, width = image.shape[:2]
    places = range(shown.shape[1] - width + 1)
    found = [(shown[:height, x : x + width] == image).all() for x in places]
    assert sum(found) == 1
  # Without them the image is its own, and there is nothing to show.
  alone = run(*command[:-1], files / 'alone')
  assert alone.status == 0
  assert visible(files / 'alone') == ['photo_x4.png']
  assert (read_image(files / 'alone/photo_x4.png').color != sr).any()


@pytest.mark.nightly
def test_files_beside_a_result_are_no_input(run, srntt, files):
  folder = files / 'photos'
  write_image(folder / 'photo.png', Picture(texture(10, 13)))
  command = ('upscale', folder, '--model', srntt, '-o', folder)
  options = ('--reference', files / 'flat.png')
  assert run(*command, *options).status == 0
  again = run(*command, *options)
  assert again.status == 0
  assert again.out.endswith(
    f'0 enlarged, 1 already there ({folder / "photo.png"})\n'
  )


@pytest.mark.nightly
@pytest.mark.parametrize('what', ['strip', 'similarity'])
def test_files_with_names_of_side_results_are_kept(run, srntt, files, what):
  own = files / 'out' / f'photo_x4_{what}.png'
  write_image(own, Picture(texture(5, 5)))
  before = own.read_bytes()
  command = ('upscale', files / 'photo.png', '--model', srntt)
  command += ('-o', files / 'out', '--reference', files / 'flat.png')
  assert run(*command).refused(str(own), 'exists already', '--overwrite')
  assert own.read_bytes() == before
  assert [*own.parent.iterdir()] == [own]
  assert run(*command, '--overwrite').status == 0
  assert own.read_bytes() != before


@pytest.mark.nightly
@pytest.mark.parametrize('kind', ['other', 'grey', 'flat', 'alpha'])
def test_any_image_serves(run, srntt, files, kind):
  out = files / f'{kind}_out.png'
  done = run(
    *('upscale', files / 'photo.png', '--model', srntt, '-o', out),
    *('--reference', files / f'{kind}.png'),
  )
  assert done.status == 0, done
  assert np.isfinite(read_image(out).color).all()


@pytest.mark.nightly
def test_bad_references(run, srntt, files, checkpoint, slots):
  command = ('upscale', files / 'photo.png', '-o', files / 'out')
  ours = (*command, '--model', srntt, '--reference')
  assert run(*ours, files / 'small.png').refused(
    'small.png: 30x11 pixels are too few', '12 or more'
  )
  assert run(*ours, files / 'missing.png').refused('missing.png')
  (files / 'text.png').write_text('no image')
  assert run(*ours, files / 'text.png').refused('text.png')
  other = (*command, '--model', checkpoint, '--reference', files / 'grey.png')
  assert run(*other).refused('edsr-tiny takes no references')
  del (without := dict(slots))['features']
  bare = _saved(files / 'bare', without)
  assert run(*command, '--model', bare).refused('--features')
  assert not (files / 'out').exists()


@pytest.mark.nightly
def test_tiles_see_the_whole_reference(srntt):
  model = sr_jax.load(srntt)
  halo = model.halo
  image = texture(2 * halo + 12, 8)
  references = [texture(20, 18, seed=1)]
  whole = Upscaler(model, UpscaleOptions(tile='off'), references=references)
  tiled = Upscaler(
    model, UpscaleOptions(tile=2 * halo + 4), references=references
  )
  np.testing.assert_allclose(tiled(image), whole(image), atol=1e-5)
  similar = [
    upscaler.similarity(image, upscaler.fit([image])[0])
    for upscaler in (whole, tiled)
  ]
  np.testing.assert_allclose(*similar, atol=1e-5)
  assert tiled.tile_for(image) == 2 * halo + 4


@pytest.mark.nightly
def test_the_python_interface(srntt):
  model = sr_jax.load(srntt)
  image, other = texture(9, 8), texture(16, 16, seed=1)
  alone = sr_jax.upscale(model, image)
  both = sr_jax.upscale(model, image, references=[other, other])
  levels = np.round(other * 255).astype(np.uint8)
  once = sr_jax.upscale(model, image, references=[levels / np.float32(255)])
  coded = sr_jax.upscale(model, image, references=[levels])
  assert alone.shape == (36, 32, 3)
  assert (alone != both).any()
  np.testing.assert_allclose(once, coded, atol=1e-6)
  with pytest.raises(UserError, match='a reference of 8x11 pixels'):
    sr_jax.upscale(model, image, references=[texture(11, 8)])
  bicubic = loading.load('bicubic', scale=4)
  with pytest.raises(UserError, match='bicubic takes no references'):
    Upscaler(bicubic, references=[other])


@pytest.mark.nightly
def test_evaluate_by_levels(run, srntt, tmp_path):
  folder = tmp_path / 'cufed5'
  for i in range(3):
    write_image(folder / f'1_{i}.png', Picture(texture(33, 36, seed=i)))
  found = {}
  for level in (0, 1, 2):
    report = tmp_path / f'{level}.json'
    done = run(
      *('evaluate', '--model', srntt, '--hr', folder, '--json', report),
      *('--reference-dir', folder, '--reference-level', level),
    )
    assert done.status == 0, done
    found[level] = json.loads(report.read_text())
    assert [row['name'] for row in found[level]['images']] == ['1_0.png']
    assert found[level]['reference_level'] == level
  assert 'references: ' in done.out
  assert found[1]['mean']['psnr'] != found[2]['mean']['psnr']


@pytest.mark.nightly
def test_evaluate_refuses(run, srntt, checkpoint, tmp_path):
  folder = tmp_path / 'hr'
  for name in ('1_0', '1_1', '2_0'):
    write_image(folder / f'{name}.png', Picture(texture(32, 32)))
  command = ('evaluate', '--hr', folder)
  ours = (*command, '--model', srntt)
  where = ('--reference-dir', folder)
  assert run(*ours, *where).refused('2_0.png: no reference', '2_1', str(folder))
  assert run(*ours, *where, '--reference-level', 5).refused('1_0.png', '1_5')
  assert run(*ours, '--reference-level', 1).refused('give --reference-dir')
  assert run(*ours, '--reference-dir', tmp_path / 'x').refused('no such folder')
  (folder / '2_0.png').unlink()
  assert run(*command, *where, '--model', checkpoint).refused(
    'takes no references'
  )
  write_image(folder / '1_1.png', Picture(texture(8, 32)))
  assert run(*ours, *where).refused('32x8', '12 or more')


@pytest.mark.nightly
def test_import_keeps_the_features(run, tmp_path):
  golden = golden_files.load('srntt_pytorch_x4_gated')
  weights = tmp_path / 'srntt.pth'
  weights.write_bytes(torch_files.state_dict(golden.state_dict))
  command = ('import', weights, '--model', 'srntt', '-o')
  assert run(*command, tmp_path / 'bare').refused('--features')
  assert not (tmp_path / 'bare').exists()
  done = run(*command, tmp_path / 'whole', '--features', 'random:0')
  assert done.status == 0, done
  assert '150,300 parameters' in done.out
  model = sr_jax.load(tmp_path / 'whole')
  assert model.config['method'] == {'name': 'reference'}
  sr = sr_jax.upscale(model, texture(5, 6), references=[texture(16, 16)])
  assert sr.shape == (20, 24, 3)
