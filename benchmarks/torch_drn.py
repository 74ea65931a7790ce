"""DRN-S x4 and its dual networks in PyTorch, for `benchmarks.models_vs_torch`.

The layers are those of the released code, without the mean shifts.
"""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.torch_layers import Attention, block, conv


def _halve(width, middle, features):
  return nn.Sequential(
    conv(width, middle, stride=2, bias=False),
    nn.LeakyReLU(0.2),
    conv(middle, features, bias=False),
  )


def _double(width, features, blocks):
  return nn.Sequential(
    *(block(width, Attention(width, 16)) for _ in range(blocks)),
    conv(width, 4 * width),
    nn.PixelShuffle(2),
    nn.Conv2d(width, features, 1),
  )


class Drn(nn.Module):
  """The primal network, with outputs at x1, x2 and x4."""

  def __init__(self, blocks=30, features=16):
    super().__init__()
    f = features
    self.head = conv(3, f)
    self.down = nn.ModuleList(
      [_halve(f, f, 2 * f), _halve(2 * f, 2 * f, 4 * f)]
    )
    self.up = nn.ModuleList(
      [_double(4 * f, 2 * f, blocks), _double(4 * f, f, blocks)]
    )
    self.tail = nn.ModuleList(conv(n * f, 3) for n in (4, 4, 2))
    self.duals = nn.ModuleList(_halve(3, f, 3) for _ in range(2))

  def forward(self, lr):
    """Returns images `[B, 3, H, W]`, `[B, 3, 2H, 2W]` and `[B, 3, 4H, 4W]`."""
    x = functional.interpolate(
      lr, scale_factor=4, mode='bicubic', align_corners=False
    )
    x = self.head(x)
    skips = []
    for down in self.down:
      skips.append(x)
      x = down(x)
    outputs = [self.tail[0](x)]
    for up, tail in zip(self.up, self.tail[1:], strict=True):
      x = torch.cat([up(x), skips.pop()], 1)
      outputs.append(tail(x))
    return outputs


def loss(model, lr, hr):
  """Returns L1 at every level, plus 0.1 times L1 of the dual networks."""
  half = functional.avg_pool2d(hr, 2)
  targets, outputs = [lr, half, hr], model(lr)
  primal = sum(map(functional.l1_loss, outputs, targets))
  made = [dual(y) for dual, y in zip(model.duals, outputs[1:], strict=True)]
  return primal + 0.1 * sum(map(functional.l1_loss, made, targets[:-1]))
