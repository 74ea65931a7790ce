"""SAN of 2 groups of 4 blocks x2 against PyTorch on the same CPU cores.

  pip install '.[bench]'
  python -m benchmarks.san_vs_torch

Train step: batch 8, LR 48x48, L1, Adam; ours includes making the LR images on
the device. Inference: one LR image of 128x128. The PyTorch network has the
same layers, its covariance without the matrix of pixels times pixels that the
released code builds. The two run in turn, so that a busy machine slows both;
the medians and their ratio are printed.
"""

import jax
import numpy as np
import torch
from torch import nn

from benchmarks.edsr_vs_torch import ResBlock, compare
from configs import san
from sr_jax import methods, train_loop
from sr_jax.ops.compilation import jit

_GROUPS, _BLOCKS, _FEATURES = 2, 4, 64


def _root(covariance):
  """Five steps of Newton and Schulz, `[B, C, C]`."""
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
  """Residual blocks, attention, a convolution; plus identity."""

  def __init__(self, features, blocks):
    super().__init__()
    self.body = nn.Sequential(
      *(ResBlock(features) for _ in range(blocks)),
      Attention(features),
      nn.Conv2d(features, features, 3, padding=1),
    )

  def forward(self, x):
    """Maps `[B, C, H, W]` to the same shape."""
    return x + self.body(x)


class San(nn.Module):
  """SAN x2 without its mean shifts."""

  def __init__(self):
    super().__init__()
    width = _FEATURES
    self.head = nn.Conv2d(3, width, 3, padding=1)
    self.non_local = NonLocal(width)
    self.groups = nn.ModuleList(Group(width, _BLOCKS) for _ in range(_GROUPS))
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


def _torch_functions():
  model = San()
  optimizer = torch.optim.Adam(model.parameters(), 1e-4)
  lr, hr = torch.rand(8, 3, 48, 48), torch.rand(8, 3, 96, 96)
  image = torch.rand(1, 3, 128, 128)

  def step():
    optimizer.zero_grad()
    nn.functional.l1_loss(model(lr), hr).backward()
    optimizer.step()

  def infer():
    with torch.inference_mode():
      model(image)

  return step, infer


def _jax_functions():
  config = train_loop.to_plain(san.get_config())
  config['model'] |= {'groups': _GROUPS, 'blocks': _BLOCKS}
  method = methods.module(config).make(config)
  rng = np.random.default_rng(0)
  batch = {'hr': rng.integers(0, 256, (8, 96, 96, 3), np.uint8)}
  init = jit(method.init, static_argnames='scale')
  state = init(jax.random.key(0), batch, {}, scale=2)
  train_step = jit(method.train_step, static_argnames='scale', donate_argnums=0)
  lr = rng.random((1, 128, 128, 3), np.float32)
  predict = jit(method.predict)

  def step():
    nonlocal state
    state, metrics = train_step(state, batch, scale=2)
    jax.block_until_ready(metrics)

  def infer():
    jax.block_until_ready(predict(state.params, lr))

  return step, infer


def main():
  """Prints one row of a Markdown table for each comparison."""
  ours, theirs = _jax_functions(), _torch_functions()
  print(
    f'jax {jax.__version__}, torch {torch.__version__}, '
    f'{torch.get_num_threads()} threads'
  )
  print(f'| SAN {_GROUPS}x{_BLOCKS} x2 | sr_jax | PyTorch | ratio |')
  print('|---|---|---|---|')
  compare('train step', ours[0], theirs[0])
  compare('inference 128x128', ours[1], theirs[1])


if __name__ == '__main__':
  main()
