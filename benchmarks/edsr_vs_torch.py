"""EDSR-baseline x2 against PyTorch on the same CPU cores.

  pip install '.[bench]'
  python -m benchmarks.edsr_vs_torch

Train step: batch 16, LR 48x48, L1, Adam; ours includes making the LR images
on the device. Inference: one LR image of 512x512. The two run in turn, so
that a busy machine slows both; the medians and their ratio are printed.
"""

import statistics
import time

import jax
import numpy as np
import torch

from configs import edsr
from sr_jax import methods, train_loop
from sr_jax.ops.compilation import jit

_ROUNDS = 11


class ResBlock(torch.nn.Module):
  """conv - ReLU - conv, plus identity."""

  def __init__(self, features):
    super().__init__()
    self.conv1 = torch.nn.Conv2d(features, features, 3, padding=1)
    self.conv2 = torch.nn.Conv2d(features, features, 3, padding=1)

  def forward(self, x):
    """Maps `[B, F, H, W]` to the same shape."""
    return x + self.conv2(torch.relu(self.conv1(x)))


class Edsr(torch.nn.Module):
  """EDSR-baseline x2 without its two constant mean shifts."""

  def __init__(self, features=64, blocks=16):
    super().__init__()
    self.head = torch.nn.Conv2d(3, features, 3, padding=1)
    layers = [ResBlock(features) for _ in range(blocks)]
    end = torch.nn.Conv2d(features, features, 3, padding=1)
    self.body = torch.nn.Sequential(*layers, end)
    self.tail = torch.nn.Sequential(
      torch.nn.Conv2d(features, 4 * features, 3, padding=1),
      torch.nn.PixelShuffle(2),
      torch.nn.Conv2d(features, 3, 3, padding=1),
    )

  def forward(self, lr):
    """Maps `[B, 3, H, W]` to `[B, 3, 2H, 2W]`."""
    x = self.head(lr)
    return self.tail(x + self.body(x))


def _torch_step(model):
  optimizer = torch.optim.Adam(model.parameters(), 1e-4)
  lr, hr = torch.rand(16, 3, 48, 48), torch.rand(16, 3, 96, 96)

  def step():
    optimizer.zero_grad()
    loss = torch.nn.functional.l1_loss(model(lr), hr)
    loss.backward()
    optimizer.step()

  return step


def _torch_inference(model):
  lr = torch.rand(1, 3, 512, 512)

  def infer():
    with torch.inference_mode():
      model(lr)

  return infer


def _jax_functions():
  config = train_loop.to_plain(edsr.get_config())
  method = methods.module(config).make(config)
  rng = np.random.default_rng(0)
  batch = {'hr': rng.integers(0, 256, (16, 96, 96, 3), np.uint8)}
  init = jit(method.init, static_argnames='scale')
  state = init(jax.random.key(0), batch, {}, scale=2)
  train_step = jit(method.train_step, static_argnames='scale', donate_argnums=0)
  lr = rng.random((1, 512, 512, 3), np.float32)
  predict = jit(method.predict)

  def step():
    nonlocal state
    state, metrics = train_step(state, batch, scale=2)
    jax.block_until_ready(metrics)

  def infer():
    jax.block_until_ready(predict(state.params, lr))

  return step, infer


def compare(name, ours, theirs):
  """Prints the medians of two functions that run in turn, and their ratio."""
  for function in (ours, theirs):
    function()
    function()
  seconds = ([], [])
  for _ in range(_ROUNDS):
    for times, function in zip(seconds, (ours, theirs), strict=True):
      began = time.perf_counter()
      function()
      times.append(time.perf_counter() - began)
  a, b = (statistics.median(times) for times in seconds)
  print(f'| {name} | {a:.2f} s | {b:.2f} s | {a / b:.2f} |', flush=True)


def main():
  """Prints one row of a Markdown table for each comparison."""
  model = Edsr()
  step, infer = _jax_functions()
  print(
    f'jax {jax.__version__}, torch {torch.__version__}, '
    f'{torch.get_num_threads()} threads'
  )
  print('| EDSR-baseline x2 | sr_jax | PyTorch | ratio |')
  print('|---|---|---|---|')
  compare('train step', step, _torch_step(model))
  compare('inference 512x512', infer, _torch_inference(model))


if __name__ == '__main__':
  main()
