"""SAN in PyTorch, for `benchmarks.models_vs_torch`.

The layers are those of the released code. Only the covariance is computed in
another way, without the released matrix of pixels times pixels.
"""

import torch
from torch import nn

from benchmarks.torch_layers import block


def _root(covariance):
  """Returns the square root of `[B, C, C]` by five Newton-Schulz steps."""
  trace = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + 1e-6
  three = 3 * torch.eye(covariance.shape[1])
  y = covariance / trace
  z = 0.5 * (three - y)
  y = y @ z
  for _ in range(3):
    step = 0.5 * (three - z @ y)
    y, z = y @ step, step @ z
  return 0.5 * y @ (three - z @ y) * trace.sqrt()


class Attention(nn.Module):
  """Second-order channel attention."""

  def __init__(self, features):
    super().__init__()
    self.weigh = nn.Sequential(
      nn.Conv2d(features, features // 16, 1),
      nn.ReLU(),
      nn.Conv2d(features // 16, features, 1),
      nn.Sigmoid(),
    )

  def forward(self, x):
    """Maps `[B, C, H, W]` to the same shape."""
    flat = x.flatten(2)
    flat = flat - flat.mean(2, keepdim=True)
    covariance = flat @ flat.transpose(1, 2) / flat.shape[2]
    return x * self.weigh(_root(covariance).mean(1)[:, :, None, None])


class NonLocal(nn.Module):
  """Non-local attention in each quarter of an image of even sides."""

  def __init__(self, features):
    super().__init__()
    self.theta, self.phi, self.g = (
      nn.Conv2d(features, features // 8, 1) for _ in range(3)
    )
    self.out = nn.Conv2d(features // 8, features, 1)

  def _quarter(self, x):
    query = self.theta(x)
    key, value = (
      nn.functional.max_pool2d(layer(x), 2).flatten(2)
      for layer in (self.phi, self.g)
    )
    weights = (query.flatten(2).transpose(1, 2) @ key).softmax(-1)
    y = (weights @ value.transpose(1, 2)).transpose(1, 2)
    return x + self.out(y.reshape(query.shape))

  def forward(self, x):
    """Maps `[B, C, H, W]` to the same shape."""
    halves = [
      torch.cat([*map(self._quarter, row.chunk(2, 3))], 3)
      for row in x.chunk(2, 2)
    ]
    return torch.cat(halves, 2)


class Group(nn.Module):
  """Residual blocks, attention and a convolution, added to the input."""

  def __init__(self, features, blocks):
    super().__init__()
    self.body = nn.Sequential(
      *(block(features) for _ in range(blocks)),
      Attention(features),
      nn.Conv2d(features, features, 3, padding=1),
    )

  def forward(self, x):
    """Maps `[B, C, H, W]` to the same shape."""
    return x + self.body(x)


class San(nn.Module):
  """SAN x2 without its mean shifts."""

  def __init__(self, groups, blocks, width=64):
    super().__init__()
    self.head = nn.Conv2d(3, width, 3, padding=1)
    self.non_local = NonLocal(width)
    self.groups = nn.ModuleList(Group(width, blocks) for _ in range(groups))
    self.gamma = nn.Parameter(torch.zeros(1))
    self.tail = nn.Sequential(
      nn.Conv2d(width, 4 * width, 3, padding=1),
      nn.PixelShuffle(2),
      nn.Conv2d(width, 3, 3, padding=1),
    )

  def forward(self, lr):
    """Maps `[B, 3, H, W]` to `[B, 3, 2H, 2W]`."""
    head = self.head(lr)
    source = x = self.non_local(head)
    for group in self.groups:
      x = group(x) + self.gamma * source
    return self.tail(head + self.non_local(x))
