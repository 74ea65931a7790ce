"""sr-jax upscale: files in, the same kind of files out."""

import dataclasses
import io

import imagecodecs
import numpy as np
import pytest
from conftest import texture, visible
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from sr_jax.data.image_io import Picture, read_image, write_image
from sr_jax.inference import loading
from sr_jax.ops.resize import imresize


def size_of(path):
  with Image.open(path) as image:
    return image.size


def test_tree_is_mirrored_and_finished_files_are_skipped(run, photos, tmp_path):
  out = tmp_path / 'out'
  command = ('upscale', photos, '-o', out, '--model', 'bicubic', '--scale', 3)
  first = run(*command)
  assert first.status == 0
  assert visible(out) == ['one_x3.png', 'sub/two_x3.png']
  assert f'one.png 31x26 -> {out / "one_x3.png"} 93x78 (bicubic, ' in first.out
  assert first.out.endswith('2 enlarged\n')
  (out / 'one_x3.png').unlink()
  stamp = (out / 'sub/two_x3.png').stat().st_mtime_ns
  second = run(*command)
  assert second.out.splitlines()[-1] == (
    f'1 enlarged, 1 already there ({photos / "sub/two.png"})'
  )
  assert (out / 'sub/two_x3.png').stat().st_mtime_ns == stamp
  third = run(*command, '--overwrite')
  assert third.out.endswith('2 enlarged\n')
  assert (out / 'sub/two_x3.png').stat().st_mtime_ns != stamp
  assert visible(out) == ['one_x3.png', 'sub/two_x3.png']


def test_results_beside_their_sources_are_no_input(run, photos):
  command = ('upscale', photos, '-o', photos, '--model', 'bicubic')
  run(*command, '--scale', 2)
  again = run(*command, '--scale', 2)
  assert again.out.startswith('0 enlarged, 2 already there')
  assert len(visible(photos)) == 4


def test_file_met_twice_goes_to_both_places(run, photos, tmp_path):
  out = tmp_path / 'out'
  done = run(
    *('upscale', photos, photos / 'sub' / 'two.png', '-o', out),
    *('--model', 'bicubic', '--scale', 2),
  )
  assert done.status == 0, done
  assert visible(out) == ['one_x2.png', 'sub/two_x2.png', 'two_x2.png']


def test_pixels_are_those_of_the_model(run, photos, checkpoint, tmp_path):
  done = run(
    *('upscale', photos / 'one.png', '-o', tmp_path, '--model', checkpoint)
  )
  assert done.status == 0, done
  model = loading.load(checkpoint)
  lr = read_image(photos / 'one.png').color
  lr = np.pad(lr, ((6, 6), (6, 6), (0, 0)), 'symmetric')
  expected = np.asarray(model.predict(model.params, lr[None], None))[0]
  expected = expected[12:-12, 12:-12]
  written = read_image(tmp_path / 'one_x2.png').color
  np.testing.assert_allclose(written, expected, atol=0.5 / 255 + 1e-5)


def test_options_reach_the_upscaler(run, photos, checkpoint, tmp_path):
  plain = tmp_path / 'plain.png'
  source, model = photos / 'one.png', ('--model', checkpoint)
  run('upscale', source, '-o', plain, *model)
  variants = {
    'tiled': ('--tile', 24),
    'ensemble': ('--self-ensemble',),
    'projected': ('--back-project', 2),
    'blurred': ('--back-project', 2, '--kernel', 'gaussian:2.0'),
  }
  results = {}
  for name, options in variants.items():
    path = tmp_path / f'{name}.png'
    done = run('upscale', source, '-o', path, *model, *options)
    assert done.status == 0
    assert ('tiles of 24, ' in done.out) == (name == 'tiled')
    results[name] = read_image(path).color
  base = read_image(plain).color
  np.testing.assert_allclose(results.pop('tiled'), base, atol=1.01 / 255)
  for name, result in results.items():
    assert np.abs(result - base).max() > 2 / 255, name
  lr = read_image(source).color
  errors = [
    np.abs(imresize(sr, scale=0.5) - lr).mean()
    for sr in (base, results['projected'])
  ]
  assert errors[1] < errors[0] / 2


def test_one_file_to_a_name_of_another_format(run, photos, tmp_path):
  target = tmp_path / 'new' / 'big.webp'
  source = photos / 'one.png'
  options = ('--model', 'bicubic', '--scale', 2)
  assert run('upscale', source, '-o', target, *options).status == 0
  assert size_of(target) == (62, 52)
  assert visible(tmp_path / 'new') == ['big.webp']


def sprite(kind):
  """An image of one colour with a hole, hard and soft edges; and the colour."""
  alpha = np.zeros((20, 22, 1), np.float32)
  alpha[6:14, 5:18] = 1
  alpha[8:10, 8:10] = 0
  alpha[14, 5:18], alpha[15, 5:18] = 0.6, 0.02
  if kind == 'invisible':
    alpha[:] = 0
  color = [0.4] if kind == 'grey' else [60 / 255, 120 / 255, 220 / 255]
  color = np.float32(color)
  picture = np.where(alpha > 0, color, 1 - color).astype(np.float32)
  return Picture(picture, alpha, 16 if kind == 'deep' else 8), color


@pytest.mark.parametrize('kind', ['grey', 'colour', 'deep', 'palette'])
@pytest.mark.parametrize('model', ['bicubic', 'edsr-small-x2'])
def test_one_colour_stays_that_colour(run, tmp_path, kind, model):
  """P1: the edges of a sprite of one colour had colours up to black."""
  picture, color = sprite(kind)
  path = tmp_path / 'a.png'
  write_image(path, picture)
  if kind == 'palette':
    levels = np.uint8(picture.alpha[..., 0] * 255)
    image = Image.fromarray(np.uint8(levels > 0), 'P')
    image.putpalette([255, 0, 255, 60, 120, 220])
    image.save(path, transparency=bytes([0, 255]))
  done = run('upscale', path, '-o', tmp_path, '--model', model, '--scale', 2)
  assert done.status == 0, done
  result = read_image(tmp_path / 'a_x2.png')
  assert result.bit_depth == picture.bit_depth
  assert result.color.shape == (40, 44, color.size)
  for background in (0.0, 0.5, 1.0):
    seen = background + result.alpha * (result.color - background)
    wanted = background + result.alpha * (color - background)
    assert np.abs(seen - wanted).max() * 255 <= 2
  expected = imresize(read_image(path).alpha, scale=2).clip(0, 1)
  np.testing.assert_allclose(result.alpha, expected, atol=0.51 / 255)


def test_a_picture_without_any_visible_pixel(run, tmp_path):
  write_image(tmp_path / 'a.png', sprite('invisible')[0])
  done = run('upscale', tmp_path / 'a.png', '-o', tmp_path)
  assert done.status == 0, done
  assert not read_image(tmp_path / 'a_x2.png').alpha.any()


@pytest.mark.parametrize('model', ['bicubic', 'edsr-small-x2'])
def test_a_cut_out_has_no_rim(run, tmp_path, model):
  """P1: a cut-out equals the same part of the enlarged whole photograph."""
  color, alpha = texture(24, 26), np.ones((24, 26, 1), np.float32)
  alpha[:, :9] = 0
  write_image(tmp_path / 'whole.png', Picture(color))
  hidden = np.where(alpha > 0, color, np.float32([1, 0, 1]))
  write_image(tmp_path / 'cut.png', Picture(np.float32(hidden), alpha))
  run('upscale', tmp_path / 'whole.png', tmp_path / 'cut.png', '-o', tmp_path,
      '--model', model, '--scale', 2)  # fmt: skip
  whole = read_image(tmp_path / 'whole_x2.png').color
  cut = read_image(tmp_path / 'cut_x2.png')
  assert cut.alpha.min() == 0
  difference = np.abs(cut.alpha * (cut.color - whole)).max((0, 2)) * 255
  assert difference.max() < 25  # at the edge, whose other side is not known
  assert difference[28:].max() <= 1.01


def test_format_that_cannot_hold_the_result_becomes_png(run, tmp_path):
  data = io.BytesIO()
  pixels = (texture(8, 9, 4) * 255).astype(np.uint8)
  Image.fromarray(pixels).save(data, 'PNG')
  (tmp_path / 'a.jpg').write_bytes(data.getvalue())  # PNG by content
  wide = Image.fromarray(np.zeros((2, 9000, 3), np.uint8))
  wide.save(tmp_path / 'wide.webp', lossless=True)
  out = tmp_path / 'out'
  command = ('upscale', tmp_path / 'a.jpg', tmp_path / 'wide.webp', '-o', out,
             '--model', 'bicubic', '--scale', 2)  # fmt: skip
  assert run(*command).status == 0
  assert visible(out) == ['a_x2.png', 'wide_x2.png']
  assert size_of(out / 'wide_x2.png') == (18000, 4)
  assert 'already there' in run(*command).out


def test_replaced_format_does_not_overwrite_another_result(run, tmp_path):
  pixels = (texture(8, 9, 4) * 255).astype(np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  (tmp_path / 'a.jpg').write_bytes((tmp_path / 'a.png').read_bytes())
  out = tmp_path / 'out'
  done = run('upscale', tmp_path, '-o', out, '--model', 'bicubic', '--scale', 2)
  assert done.refused('a.jpg', 'holds no transparency')
  assert visible(out) == ['a_x2.png']


def test_profile_is_kept_and_orientation_applied(run, tmp_path):
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  exif = Image.Exif()
  exif[274] = 6  # turn by 90 degrees
  image = Image.fromarray((texture(8, 20) * 255).astype(np.uint8))
  image.save(tmp_path / 'a.jpg', exif=exif, icc_profile=profile)
  run('upscale', tmp_path / 'a.jpg', '-o', tmp_path, '--model', 'bicubic',
      '--scale', 2)  # fmt: skip
  with Image.open(tmp_path / 'a_x2.jpg') as result:
    assert result.size == (16, 40)
    assert result.info['icc_profile'] == profile
    assert 274 not in result.getexif()


def test_array_of_five_channels_keeps_their_ranges(run, tmp_path):
  values = 300 * texture(6, 7, 5) - 100
  np.save(tmp_path / 'a.npy', values)
  run('upscale', tmp_path / 'a.npy', '-o', tmp_path, '--model', 'bicubic',
      '--scale', 2)  # fmt: skip
  result = np.load(tmp_path / 'a_x2.npy')
  low, high = values.min((0, 1)), values.max((0, 1))
  expected = imresize(values, scale=2).clip(low, high)
  assert result.shape == (12, 14, 5)
  np.testing.assert_allclose(result, expected, atol=1e-3)


def test_many_sizes_compile_few_shapes(run, checkpoint, tmp_path, monkeypatch):
  shapes = []  # predict runs in Python once per shape, when it is traced
  load = loading.load

  def watched(name, **options):
    model = load(name, **options)

    def predict(params, lr, mask):
      shapes.append(lr.shape)
      return model.predict(params, lr, mask)

    return dataclasses.replace(model, predict=predict)

  monkeypatch.setattr(loading, 'load', watched)
  folder = tmp_path / 'in'
  for i in range(12):
    write_image(folder / f'{i}.png', Picture(texture(9 + i, 20 - i)))
  out = tmp_path / 'out'
  done = run('upscale', folder, '-o', out, '--model', checkpoint)
  assert done.status == 0, done
  assert len(visible(out)) == 12
  assert 1 <= len(shapes) <= 8
  assert read_image(out / '3_x2.png').color.shape == (24, 34, 3)


@pytest.mark.parametrize('model', ['bicubic', 'checkpoint'])
def test_one_pixel(run, checkpoint, tmp_path, model):
  write_image(tmp_path / 'a.png', Picture(np.full((1, 1, 3), 0.4, np.float32)))
  name = checkpoint if model == 'checkpoint' else model
  done = run('upscale', tmp_path / 'a.png', '-o', tmp_path / 'out', '--model',
             name, '--scale', 2)  # fmt: skip
  assert done.status == 0, done
  assert size_of(tmp_path / 'out/a_x2.png') == (2, 2)


@settings(
  max_examples=30,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
  scale=st.sampled_from([2, 3, 4, 8]),
  dtype=st.sampled_from([np.uint8, np.uint16]),
  channels=st.sampled_from([1, 3, 4]),
)
def test_every_size_scale_depth_and_channel_count(
  run, tmp_path, size, scale, dtype, channels
):
  rng = np.random.default_rng(0)
  top = np.iinfo(dtype).max
  pixels = rng.integers(0, top, (*size, channels), dtype, endpoint=True)
  squeezed = pixels[..., 0] if channels == 1 else pixels
  (tmp_path / 'a.png').write_bytes(imagecodecs.png_encode(squeezed))
  done = run('upscale', tmp_path / 'a.png', '-o', tmp_path, '--model',
             'bicubic', '--scale', scale, '--overwrite')  # fmt: skip
  assert done.status == 0, done
  path = tmp_path / f'a_x{scale}.png'
  result = imagecodecs.png_decode(path.read_bytes())
  assert result.dtype == dtype
  assert result.shape == (size[0] * scale, size[1] * scale, *squeezed.shape[2:])
  if channels != 4:
    unit = pixels.astype(np.float32) / np.float32(top)
    expected = imresize(unit, scale=scale).clip(0, 1) * top
    levels = result.reshape(expected.shape)
    np.testing.assert_allclose(levels, expected, atol=0.51)
