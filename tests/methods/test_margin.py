"""Training LR equals the photograph's LR, even at the border of a crop.

The LR of a crop alone has mirrored borders: 31 % of a 24-pixel x4 patch is
touched by them. Released data sets cut their LR crops from the LR of the whole
image.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from sr_jax import experiment
from sr_jax.data import batches, sources
from sr_jax.data.degradation import Degradation, covering_margin
from sr_jax.methods import dual_regression, meta_transfer, supervised
from sr_jax.ops.degrade import degrade
from sr_jax.ops.resize import imresize

PHOTO = np.random.default_rng(0).integers(0, 256, (120, 120, 3), np.uint8)
WHOLE = PHOTO[None] / np.float32(255)
DEGRADATIONS = (
  Degradation(),
  Degradation('direct', 'gaussian:4.0,1.0,-0.5'),
  Degradation('blur-bicubic', 'gaussian:2.0'),
)


def _crop(top, left, size, margin):
  """The crop of the photograph, with its margin."""
  beside = ((margin, margin), (margin, margin), (0, 0))
  padded = np.pad(PHOTO, beside, mode='symmetric')
  return padded[None, top : top + size + 2 * margin][
    :, :, left : left + size + 2 * margin
  ]


@pytest.mark.parametrize('degradation', DEGRADATIONS, ids=str)
@pytest.mark.parametrize(
  ('scale', 'corner'), [(2, (40, 20)), (3, (0, 99)), (4, (104, 0)), (2.5, None)]
)
def test_lr_of_a_crop_is_that_of_the_photograph(degradation, scale, corner):
  if scale == 2.5 and degradation.degradation == 'direct':
    scale, corner = 2, (0, 0)  # other scales sample unevenly over the image
  top, left = corner or (40, 20)
  degrader, patch = supervised.Degrader(degradation, wide=True), 6
  size = int(patch * scale)
  margin = round(degrader.margin(scale) * scale)
  lr, hr = degrader.pair(
    None, {'hr': jnp.asarray(_crop(top, left, size, margin))}, scale
  )
  at = [int(n / scale) for n in (top, left)]
  photo = degradation.on_device(None, jnp.asarray(WHOLE), scale)
  np.testing.assert_allclose(
    lr,
    photo[:, at[0] : at[0] + patch, at[1] : at[1] + patch],
    atol=1.001 / 255,
  )
  assert np.mean(np.abs(lr - photo[:, at[0] :, at[1] :][:, :6, :6]) < 1e-6) > (
    0.98
  )
  np.testing.assert_allclose(
    hr, WHOLE[:, top : top + size, left : left + size], atol=1e-6
  )
  alone = supervised.Degrader(degradation, wide=False).pair(
    None, {'hr': jnp.asarray(_crop(top, left, size, 0))}, scale
  )[0]
  assert np.abs(alone - lr).max() > 4 / 255  # what the margin spares


def test_batches_hold_the_margins_of_crops():
  """Inside the photograph its own pixels, beyond its border its mirror image.

  The crops are those of a batch without margins.
  """
  source = sources.ImageSource(('a',), (lambda: PHOTO,))
  spec = {'batch_size': 4, 'patch': 56, 'scales': (2,), 'seed': 3}
  plain, _ = batches.sample(source, batches.BatchSpec(**spec), 5)
  wide, _ = batches.sample(source, batches.BatchSpec(margins=(4,), **spec), 5)
  assert wide['hr'].shape == (4, 128, 128, 3)
  np.testing.assert_array_equal(wide['hr'][:, 8:-8, 8:-8], plain['hr'])
  # A crop of 112 in 120 pixels reaches over the border with either margin.
  mirrored = np.pad(PHOTO, ((8, 8), (8, 8), (0, 0)), mode='symmetric')
  every = [
    mirrored[y : y + 128, x : x + 128] for y in range(9) for x in range(9)
  ]
  for crop in wide['hr']:
    turns = [np.rot90(t, k) for t in (crop, crop[:, ::-1]) for k in range(4)]
    assert any(np.array_equal(t, e) for t in turns for e in every)


def test_all_levels_of_dual_regression_are_those_of_the_photograph():
  wide = jnp.asarray(_crop(40, 20, 32, 16), jnp.float32) / 255
  levels = dual_regression._targets(
    *(jnp.zeros((1, 8, 8, 3)), wide, 2, 16), np.uint8
  )
  half = degrade(None, WHOLE, scale=2)[:, 20:36, 10:26]
  np.testing.assert_allclose(levels[1], half, atol=0.51 / 255)
  np.testing.assert_allclose(levels[2], WHOLE[:, 40:72, 20:52], atol=1e-6)


def test_images_of_several_scales_are_enlarged_as_the_photograph_is():
  """VDSR's batches: every image at another scale, enlarged by bicubic."""
  degrader = supervised.Degrader(Degradation(), wide=True)
  pairs = supervised._MixedScales(degrader, (2, 3, 4))
  margin = pairs.margin(1)
  assert margin == 24
  crop = jnp.asarray(np.concatenate([_crop(48, 24, 24, margin)] * 3))
  lr, hr = pairs.images(jax.random.key(0), {'hr': crop}, 1)
  for i, scale in enumerate(pairs.scales):
    small = Degradation().on_device(None, jnp.asarray(WHOLE), scale)
    photo = imresize(small, scale=scale)[0, 48:72, 24:48]
    assert np.mean(np.abs(lr[i] - photo) < 1e-5) > 0.9
    np.testing.assert_allclose(lr[i], photo, atol=2 / 255)
    np.testing.assert_allclose(hr[i], WHOLE[0, 48:72, 24:48], atol=1e-6)


def test_meta_tasks_are_cut_from_wider_images():
  """A task's input is the enlarged LR of the photograph, at any scale."""
  tasks = meta_transfer.Tasks(
    *(1, 1, 0, (2.0, 4.0), 15, 0.2, 2.5, 'direct', 0.0, True)
  )
  margin = tasks.margin(2) * 2
  assert margin % 4 == 0
  wide = jnp.asarray(_crop(40, 20, 16, margin), jnp.float32) / 255
  key = jax.random.key(0)
  part = supervised.cut(meta_transfer.draw_task(key, wide, tasks), margin)
  photo = meta_transfer.draw_task(key, jnp.asarray(WHOLE), tasks)
  np.testing.assert_allclose(part, photo[:, 40:56, 20:36], atol=1e-5)


def test_margins_are_as_narrow_as_blur_and_resize_allow():
  assert [Degradation().margin(s) for s in (2, 3, 4, 2.5)] == [2, 2, 2, 2]
  kernel = 'gaussian:2.0'
  half = Degradation('direct', kernel).taps.shape[0] // 2
  assert Degradation('direct', kernel).margin(2) == -(-half // 2)
  assert Degradation('direct', kernel).margin(4) == -(-half // 4)
  assert Degradation('blur-bicubic', kernel).margin(2) == -(-half // 2) + 2
  assert Degradation(jpeg_quality=80).margin(2) == 8  # whole blocks
  assert covering_margin(8, 2.3) == 10  # 23 HR pixels
  assert covering_margin(8, 2.71828) == 0  # no whole number of pixels nearby


def test_margin_is_on_by_default():
  config = experiment.to_plain(common.base())
  assert supervised.degrader(config).margin(2) == 2
  config['data']['margin'] = False
  assert supervised.degrader(config).margin(2) == 0
