"""Layers of the PyTorch modules of `benchmarks.models_vs_torch`."""

import functools

from torch import nn

conv = functools.partial(nn.Conv2d, kernel_size=3, padding=1)


class Attention(nn.Module):
  """RCAN's channel attention."""

  def __init__(self, features, reduction):
    super().__init__()
    self.scale = nn.Sequential(
      nn.AdaptiveAvgPool2d(1),
      nn.Conv2d(features, features // reduction, 1),
      nn.ReLU(),
      nn.Conv2d(features // reduction, features, 1),
      nn.Sigmoid(),
    )

  def forward(self, x):
    """Maps `[B, F, H, W]` to the same shape."""
    return x * self.scale(x)


class Residual(nn.Module):
  """Layers, to whose result the input is added."""

  def __init__(self, *layers):
    super().__init__()
    self.layers = nn.Sequential(*layers)

  def forward(self, x):
    """Maps `[B, F, H, W]` to the same shape."""
    return x + self.layers(x)


def block(features, *more):
  """Makes a residual block of two convolutions and further layers."""
  return Residual(
    conv(features, features), nn.ReLU(), conv(features, features), *more
  )
