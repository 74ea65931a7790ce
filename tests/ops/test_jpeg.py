"""The JPEG round trip against Pillow's (libjpeg)."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import data

from sr_jax.errors import UserError
from sr_jax.ops.jpeg import jpeg

PHOTO = data.astronaut()[100:261, 150:297]


def pillow(levels, quality):
  file = io.BytesIO()
  Image.fromarray(levels).save(file, 'JPEG', quality=quality, subsampling=2)
  return np.asarray(Image.open(file)).astype(float)


@pytest.mark.parametrize('quality', [1, 10, 30, 50, 75, 90, 100])
@pytest.mark.parametrize('size', [(161, 147), (64, 64), (17, 33)])
def test_colour_equals_pillow(quality, size):
  photo = PHOTO[: size[0], : size[1]]
  expected = pillow(photo, quality)
  ours = jpeg(photo / 255, quality) * 255
  # libjpeg's integer transform rounds a coefficient here and there otherwise:
  # most pixels are equal, the mean is far below the compression's own error.
  difference = np.abs(ours - expected)
  assert np.median(difference) == 0.0
  assert difference.mean() < 0.25 * np.abs(expected - photo).mean() + 0.2
  if difference.size > 10_000:
    assert difference.mean() < 0.4


@pytest.mark.parametrize('quality', [10, 50, 90])
def test_grey_equals_pillow(quality):
  photo = PHOTO[..., 1]
  ours = jpeg(photo[..., None] / 255, quality)[..., 0] * 255
  assert np.abs(ours - pillow(photo, quality)).mean() < 0.25


def test_one_pixel_and_flat_images_are_exact():
  for level in (0, 100, 255):
    photo = np.full((5, 3, 3), level, np.uint8)
    for shape in ((1, 1), (5, 3)):
      part = photo[: shape[0], : shape[1]]
      np.testing.assert_allclose(
        jpeg(part / 255, 30) * 255, pillow(part, 30), atol=1e-9
      )


@pytest.mark.parametrize('quality', [10, 75])
def test_jax_equals_numpy(quality):
  batch = np.stack([PHOTO[:33, :41], PHOTO[60:93, 60:101]]).astype(np.float32)
  host = jpeg(batch / 255, quality)
  compiled = jax.jit(jpeg, static_argnums=1)
  device = np.asarray(compiled(jnp.asarray(batch / 255), quality))
  assert np.abs(device - host).mean() * 255 < 0.01


def test_refuses_other_channels_and_qualities():
  with pytest.raises(UserError, match='has 4'):
    jpeg(np.zeros((8, 8, 4)), 50)
  with pytest.raises(UserError, match='not 101'):
    jpeg(np.zeros((8, 8, 3)), 101)
