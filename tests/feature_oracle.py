"""VGG, AlexNet and LPIPS in plain NumPy, written independently of sr_jax."""

from __future__ import annotations

import numpy as np

# torchvision's `features`: output channels of 3x3 convolutions, M for poolings.
VGG19 = '64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512'
VGG16 = '64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512'


def convolution(x, weight, bias, stride=1):
  """Convolves `[H, W, C]` with a PyTorch weight `[O, I, K, K]`, zero padded."""
  side = weight.shape[-1]
  margin = 2 if stride > 1 else side // 2
  x = np.pad(x, ((margin, margin), (margin, margin), (0, 0)))
  views = np.lib.stride_tricks.sliding_window_view(x, (side, side), (0, 1))
  views = views[::stride, ::stride]
  flat = views.reshape(-1, weight[0].size).astype(np.float32)
  y = flat @ weight.reshape(len(weight), -1).T + bias
  return y.reshape(*views.shape[:2], -1)


def pool(x, side):
  """Max pooling with stride 2."""
  views = np.lib.stride_tricks.sliding_window_view(x, (side, side), (0, 1))
  return views[::2, ::2].max((-2, -1))


def normalised(image):
  """Normalises `[H, W, 3]` in [0, 1] by LPIPS v0.1's formula for [-1, 1]."""
  shift, scale = [-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]
  return ((2.0 * image - 1) - shift) / scale


def random_vgg(plan, seed, *, last=None):
  """A state_dict under torchvision's names, up to `features.{last}`."""
  rng, tensors, position, channels = np.random.default_rng(seed), {}, 0, 3
  for width in plan.split():
    if last is not None and position > last:
      break
    if width == 'M':
      position += 1
      continue
    shape = (int(width), channels, 3, 3)
    tensors |= _layer(rng, position, shape)
    position, channels = position + 2, int(width)
  return tensors


def _layer(rng, position, shape):
  spread = np.sqrt(2 / np.prod(shape[1:]))
  return {
    f'features.{position}.weight': np.float32(
      spread * rng.standard_normal(shape, np.float32)
    ),
    f'features.{position}.bias': np.float32(0.1)
    * rng.standard_normal(shape[0], np.float32),
  }


def vgg(tensors, plan, image):
  """VGG's features, by torchvision's index of each convolution."""
  found, position, x = {}, 0, normalised(image)
  for width in plan.split():
    if width == 'M':
      x, position = pool(x, 2), position + 1
      continue
    if f'features.{position}.weight' not in tensors:
      break
    x = convolution(
      x,
      tensors[f'features.{position}.weight'],
      tensors[f'features.{position}.bias'],
    )
    found[position], x = x, np.maximum(x, 0)
    found[position + 1] = x
    position += 2
  return found


def random_alexnet(seed):
  """A state_dict under torchvision's names."""
  rng, tensors = np.random.default_rng(seed), {}
  for position, shape in {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
  }.items():
    tensors |= _layer(rng, position, shape)
  return tensors


def alexnet(tensors, image):
  """Features by torchvision's position."""
  found, x = {}, normalised(image)
  for position in (0, 3, 6, 8, 10):
    x = convolution(
      x,
      tensors[f'features.{position}.weight'],
      tensors[f'features.{position}.bias'],
      stride=1 if position else 4,
    )
    x = np.maximum(x, 0)
    found[position + 1] = x
    if position in (0, 3):
      x = pool(x, 3)
  return found


def lpips(a, b, weights):
  """Distance of two images from their features, layer by layer."""
  total = 0.0
  for x, y, weight in zip(a, b, weights, strict=True):
    for i in range(x.shape[0]):
      for j in range(x.shape[1]):
        u = x[i, j] / (np.sqrt(np.sum(x[i, j] ** 2)) + 1e-10)
        v = y[i, j] / (np.sqrt(np.sum(y[i, j] ** 2)) + 1e-10)
        total += np.sum(weight * (u - v) ** 2) / (x.shape[0] * x.shape[1])
  return total
