"""KernelGAN's kernel of an image: what it takes, draws and refuses."""

import numpy as np
import pytest

from sr_jax.errors import UserError
from sr_jax.inference import kernelgan
from sr_jax.ops.blur_kernels import centre_of_mass, covariance
from tests.tiny_models import waves

IMAGE = waves(90, 84, 3, seed=0).clip(0, 1)


def estimates(images, scale=2):
  """Kernels of two images, by seeds 0 and 1; always the same program."""
  return kernelgan.estimate_kernels(
    images, scale=scale, seeds=[0, 1], iterations=3
  )


@pytest.fixture(scope='module')
def pair():
  return estimates([IMAGE, IMAGE])


@pytest.mark.nightly
def test_kernels_are_centred_and_sum_to_one(pair):
  for seed, one in enumerate(pair):
    assert one.kernel.shape == (25, 25)
    np.testing.assert_allclose(one.kernel.sum(), 1)
    # After three iterations the kernel is noise, whose tails are cut.
    np.testing.assert_allclose(centre_of_mass(one.kernel), 12, atol=0.1)
    wide, narrow = one.widths
    assert 0 < narrow <= wide
    assert one.spec == f'kernelgan of seed {seed}'


def test_the_seed_decides(pair):
  """One image has another kernel by another seed, and the same by the same."""
  assert np.abs(pair[0].kernel - pair[1].kernel).max() > 1e-3
  again = estimates([IMAGE, waves(90, 90, 3, seed=1)])
  np.testing.assert_allclose(again[0].kernel, pair[0].kernel, atol=1e-5)
  assert np.abs(again[1].kernel - pair[1].kernel).max() > 1e-3


@pytest.mark.nightly
def test_grey_images_and_x4():
  """x4 is the kernel of x2 twice; a grey image is one of equal colours."""
  grey = IMAGE.mean(-1)
  images = [np.repeat(grey[..., None], 3, -1), grey]
  same = estimates([images[0], images[0]])
  found = estimates([grey, grey[..., None]], scale=4)
  for one, twice in zip(same, found, strict=True):
    assert twice.kernel.shape == (49, 49)
    np.testing.assert_allclose(
      covariance(twice.kernel), 5 * covariance(one.kernel), rtol=0.1
    )


def test_a_game_that_diverges_is_an_error(monkeypatch):
  taps = np.full((1, 13, 13), np.nan)
  monkeypatch.setattr(kernelgan, '_games', lambda released: lambda *_: taps)
  with pytest.raises(UserError, match='arrived at no kernel: try another seed'):
    kernelgan.estimate_kernel(IMAGE, scale=2)


@pytest.mark.parametrize(
  ('image', 'scale', 'line'),
  [
    (IMAGE, 3, "of x2 and x4, not of x3: 'auto' knows other scales"),
    (IMAGE, 2.5, 'not of x2.5'),
    (IMAGE[:, :83], 2, '83x90 pixels are too few for KernelGAN: give 84'),
    (np.full((90, 90, 3), 0.5), 2, 'the image has no texture'),
    (IMAGE * np.nan, 2, 'NaN or infinite'),
    (IMAGE[None], 2, r'must be \[H, W, C\] or \[H, W\]'),
  ],
)
def test_what_it_refuses(image, scale, line):
  with pytest.raises(UserError, match=line) as caught:
    kernelgan.estimate_kernel(image, scale=scale)
  assert '\n' not in str(caught.value)
