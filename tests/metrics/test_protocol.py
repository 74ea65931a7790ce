"""Evaluation protocols: rules, scores and refusals."""

import json

import numpy as np
import pytest
from skimage import color as skimage_color
from skimage import data
from skimage import metrics as skimage_metrics

from sr_jax.errors import UserError
from sr_jax.metrics.protocol import (
  PROTOCOLS,
  comparable,
  get_protocol,
  measure,
)

HR = data.astronaut()[100:140, 150:201]
SR = np.clip(HR + np.random.default_rng(0).normal(0, 9, HR.shape), 0, 255) / 255


def independent_psnr(sr, hr, name, crop):
  """PSNR by scikit-image alone."""
  views = []
  for image in (np.round(np.clip(sr, 0, 1) * 255).astype(np.uint8), hr):
    view = image[crop:-crop, crop:-crop] if crop else image
    if name != 'rgb':
      view = skimage_color.rgb2ycbcr(view)[..., 0]
    views.append(np.round(view) if name == 'y-uint8' else view.astype(float))
  return skimage_metrics.peak_signal_noise_ratio(*views, data_range=255)


@pytest.mark.parametrize('name', PROTOCOLS)
@pytest.mark.parametrize(
  ('scale', 'crop'), [(2, None), (4, None), (2, 0), (3, 8)]
)
def test_equals_scikit_image(name, scale, crop):
  protocol = get_protocol(name, crop)
  score = measure(SR, HR / 255, protocol=protocol, scale=scale)
  expected = independent_psnr(SR, HR, name, scale if crop is None else crop)
  assert score['psnr'] == pytest.approx(expected, abs=1e-9)
  assert 0.5 < score['ssim'] < 1.0


def test_the_border_is_cropped_before_anything_is_compared():
  sr = HR / 255
  sr[:3] = sr[-3:] = 0.0
  sr[:, :3] = sr[:, -3:] = 0.0
  protocol = get_protocol('y-uint8')
  assert measure(sr, HR / 255, protocol=protocol, scale=3)['psnr'] == np.inf
  assert measure(sr, HR / 255, protocol=protocol, scale=2)['psnr'] < 40
  # A scale that is not whole crops its ceiling.
  assert measure(sr, HR / 255, protocol=protocol, scale=2.5)['psnr'] == np.inf


def test_images_are_rounded_to_8_bit_and_clipped_first():
  hr = HR / 255
  protocol = get_protocol('rgb')
  almost = hr + np.random.default_rng(0).uniform(-0.4, 0.4, hr.shape) / 255
  assert measure(almost, hr, protocol=protocol, scale=2)['psnr'] == np.inf
  bright = np.ones((16, 16, 3))
  score = measure(bright * 1.5, bright, protocol=protocol, scale=2)
  assert score['psnr'] == np.inf
  as_levels = np.round(SR * 255).astype(np.uint8)
  assert measure(as_levels, HR, protocol=protocol, scale=2) == measure(
    SR, hr, protocol=protocol, scale=2
  )


@pytest.mark.parametrize('name', PROTOCOLS)
def test_grey_counts_as_replicated_rgb(name):
  protocol = get_protocol(name)
  grey = measure(SR[..., :1], HR[..., :1] / 255, protocol=protocol, scale=2)
  replicated = measure(
    np.repeat(SR[..., :1], 3, axis=-1),
    np.repeat(HR[..., :1] / 255, 3, axis=-1),
    protocol=protocol,
    scale=2,
  )
  assert grey['psnr'] == pytest.approx(replicated['psnr'], abs=1e-9)
  assert grey['ssim'] == pytest.approx(replicated['ssim'], abs=1e-9)


def test_every_channel_counts_under_rgb():
  hr = np.zeros((16, 16, 6))
  sr = hr.copy()
  sr[..., 5] = 1.0
  score = measure(sr, hr, protocol=get_protocol('rgb'), scale=2)
  assert score['psnr'] == pytest.approx(10 * np.log10(6))


def test_refusals():
  hr = np.zeros((16, 16, 3))
  luma = get_protocol('y-float')
  with pytest.raises(UserError, match='differ in size'):
    measure(hr[:15], hr, protocol=luma, scale=2)
  with pytest.raises(UserError, match='leaves nothing'):
    measure(hr, hr, protocol=luma, scale=8)
  with pytest.raises(UserError, match='10x10'):
    measure(hr, hr, protocol=luma, scale=3)
  with pytest.raises(UserError, match='use protocol rgb'):
    measure(hr[..., :2], hr[..., :2], protocol=luma, scale=2)
  with pytest.raises(UserError, match='y-uint8, y-float, rgb'):
    get_protocol('luma')
  with pytest.raises(UserError, match='crop'):
    get_protocol('rgb', -1)


def test_protocol_goes_through_json():
  for name in PROTOCOLS:
    protocol = get_protocol(name)
    stored = json.loads(json.dumps(protocol.to_dict()))
    assert stored['name'] == name
    assert stored['crop'] == 'scale'
    comparable(protocol, stored)
  assert get_protocol('rgb', 6).to_dict()['crop'] == 6


def test_unlike_protocols_are_not_compared():
  with pytest.raises(UserError, match='round_y True against False'):
    comparable(get_protocol('y-uint8'), get_protocol('y-float'))
  with pytest.raises(UserError, match="crop 'scale' against 4"):
    comparable(get_protocol('rgb'), get_protocol('rgb', 4).to_dict())


def test_the_levels_of_a_type_are_those_of_the_score():
  """W10: uint16 images were clipped to white, so all scored as equal."""
  rng = np.random.default_rng(0)
  sr, hr = rng.integers(0, 256, (2, 24, 24, 3), np.uint8)
  rules = {'protocol': get_protocol('rgb'), 'scale': 2}
  expected = measure(sr, hr, **rules)
  assert np.isfinite(expected['psnr'])
  wide = [x.astype(np.uint16) * 257 for x in (sr, hr)]
  assert measure(*wide, **rules) == expected
  assert measure(sr, wide[1], **rules) == expected
  for dtype in ('int32', 'int64', 'uint32', 'bool'):
    with pytest.raises(UserError, match=f'HR is of type {dtype}'):
      measure(sr, hr.astype(dtype), **rules)
  with pytest.raises(UserError, match='HR has values up to 255'):
    measure(sr, hr.astype(np.float32), **rules)
