"""PyTorch modules that several peers of `benchmarks.models_vs_torch` share."""

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
  """Layers, plus identity."""

  def __init__(self, *layers):
    super().__init__()
    self.layers = nn.Sequential(*layers)

  def forward(self, x):
    """Maps `[B, F, H, W]` to the same shape."""
    return x + self.layers(x)


def block(features, *more):
  """Two convolutions and further layers, plus identity."""
  return Residual(
    conv(features, features), nn.ReLU(), conv(features, features), *more
  )
