"""The blur of an image, estimated from the image itself."""

import numpy as np
import pytest
from skimage import data as photographs

from sr_jax.data.kernel_files import parse_kernel_spec
from sr_jax.data.spectra import defocus_kernel, motion_kernel
from sr_jax.errors import UserError
from sr_jax.inference import blind
from sr_jax.inference.blind import KernelEstimate, estimate_kernel
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.degrade import degrade, quantize

# (larger variance, smaller variance, angle)
KERNELS = {
  'round': (1.0, 1.0, 0.0),
  'wide': (4.0, 4.0, 0.0),
  'oblong': (4.0, 1.0, -0.5),
}


def _lr(kernel, scale=2):
  """A photograph that no training used, blurred, sampled, rounded to 8 bits."""
  hr = photographs.astronaut()[:320, 100:420] / 255
  taps = gaussian_kernel(*kernel, size=25)
  made = degrade(None, hr, scale=scale, degradation='direct', kernel=taps)
  return np.asarray(quantize(made))


def _root(variances, theta):
  """Square root (xx, xy, yy) of the covariance."""
  wide, narrow = np.sqrt(variances)
  c, s = np.cos(theta), np.sin(theta)
  return np.array(
    [
      wide * c * c + narrow * s * s,
      (wide - narrow) * c * s,
      wide * s * s + narrow * c * c,
    ]
  )


@pytest.mark.parametrize('by', ['network', 'spectrum'])
@pytest.mark.parametrize('name', KERNELS)
def test_kernel_of_a_photograph(name, by):
  """Within 0.2 HR pixels of the standard deviation, in every direction."""
  wide, narrow, theta = KERNELS[name]
  found = estimate_kernel(_lr(KERNELS[name]), scale=2, by=by)
  np.testing.assert_allclose(
    _root(found.variances, found.theta),
    _root((wide, narrow), theta),
    atol=0.2 if by == 'network' else 0.3,
  )
  assert (found.expected_error is None) == (by == 'spectrum')
  if by == 'network':
    assert found.blurred
    assert found.gaussian
    assert sum(found.origins.values()) == pytest.approx(1)


def test_clean_images_are_recognised():
  hr = photographs.astronaut()[:320, 100:420] / 255
  lr = quantize(degrade(None, hr, scale=2))
  assert not estimate_kernel(lr, scale=2).blurred
  assert not estimate_kernel(hr, scale=2).blurred


def test_bicubic_and_a_gaussian_of_its_width_are_told_apart():
  """At x4 half of all bicubic reductions were taken for blurred."""
  hr = photographs.astronaut() / 255
  kernel = gaussian_kernel(2.24, size=49)
  blur = degrade(None, hr, scale=4, degradation='direct', kernel=kernel)
  cubic = degrade(None, hr, scale=4)
  assert estimate_kernel(np.asarray(quantize(blur)), scale=4).blurred
  assert not estimate_kernel(np.asarray(quantize(cubic)), scale=4).blurred


@pytest.mark.parametrize(('chance', 'blurred'), [(0.79, False), (0.81, True)])
def test_images_without_a_blur_have_the_benefit_of_the_doubt(chance, blurred):
  origins = {'blurred': chance - 0.1, 'other': 0.1, 'bicubic': 1 - chance}
  estimate = KernelEstimate((2.0, 1.0), 0.0, 2, 0.1, origins)
  assert estimate.blurred == blurred


@pytest.mark.parametrize(
  'kernel', [motion_kernel(10.0, 0.4), defocus_kernel(5.0)]
)
def test_motion_and_defocus_are_no_gaussians(kernel):
  hr = photographs.astronaut()[:320, 100:420] / 255
  made = degrade(None, hr, scale=2, degradation='direct', kernel=kernel)
  found = estimate_kernel(np.asarray(quantize(made)), scale=2)
  assert found.blurred
  assert not found.gaussian


def test_without_weights_the_spectrum_is_fitted(monkeypatch, tmp_path):
  monkeypatch.setattr(blind, '_weights', lambda: tmp_path / 'none')
  found = estimate_kernel(_lr(KERNELS['wide'])[:64, :64], scale=2)
  assert found.origins == {}
  assert found.blurred
  assert found.gaussian


def test_estimates_of_a_scale_have_one_size():
  """So that all images share one compiled program."""
  kernels = [
    KernelEstimate((wide, 0.1), 0.3, 2, None, {}).kernel
    for wide in (0.2, 4.0, 9.0)
  ]
  assert {kernel.shape for kernel in kernels} == {(25, 25)}
  for kernel in kernels:
    assert kernel.sum() == pytest.approx(1)


def test_spec_and_taps_are_the_same_kernel():
  found = estimate_kernel(_lr(KERNELS['oblong']), scale=2)
  parsed = parse_kernel_spec(found.spec)
  side = max(len(parsed), len(found.kernel))
  ours, theirs = (
    np.pad(taps, (side - len(taps)) // 2) for taps in (found.kernel, parsed)
  )
  np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_turning_the_image_turns_the_kernel():
  lr = _lr(KERNELS['oblong'])[:128, :128]
  upright = estimate_kernel(lr, scale=2)
  turned = estimate_kernel(lr.swapaxes(0, 1), scale=2)
  np.testing.assert_allclose(
    _root(turned.variances, turned.theta),
    _root(upright.variances, upright.theta)[::-1],
    atol=0.02,
  )


def test_grey_images_and_other_channels():
  lr = _lr(KERNELS['round'])
  grey = estimate_kernel(lr[..., :1], scale=2)
  assert estimate_kernel(lr[..., 0], scale=2) == grey
  five = estimate_kernel(np.repeat(lr[..., :1], 5, axis=2), scale=2)
  assert five.spec == grey.spec


def test_scales_beyond_the_network_are_fitted():
  assert estimate_kernel(_lr(KERNELS['wide']), scale=8).origins == {}


@pytest.mark.parametrize(
  ('image', 'line'),
  [
    (np.zeros((35, 60, 3)), '60x35 pixels are too few to estimate'),
    (np.full((64, 64, 3), 0.4), 'no texture to estimate a blur from'),
    (np.full((64, 64, 3), np.nan), 'holds NaN or infinite values'),
    (np.zeros((2, 64, 64, 3)), 'an image must be .H, W, C. or .H, W.'),
  ],
)
def test_images_without_a_blur_to_see_are_refused(image, line):
  with pytest.raises(UserError, match=line):
    estimate_kernel(image, scale=2)
