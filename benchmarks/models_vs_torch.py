"""Speed of networks, compared with PyTorch modules of the same layers.

  pip install '.[bench]'
  python -m benchmarks.models_vs_torch [edsr rcan-small carn-m san-small drn-s]

For each network the script times a train step and the inference of one LR
image. The train step has the loss L1, for DRN also the loss of its dual
networks, and Adam. That of this package includes making the LR images on the
device. PyTorch's modules lack the constant mean shifts.

This package and PyTorch run by turns, so that other work on the machine slows
both. The medians and their ratio are printed. Each has its own process, as in
real use. In one process PyTorch would have half as many page faults, because it
reuses memory that XLA returned to malloc.

To add a model, write its PyTorch module and add it to `_MODELS`.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch import nn

from benchmarks import torch_drn, torch_san
from benchmarks.torch_layers import Attention, Residual, block, conv
from configs import common, drn
from sr_jax import experiment, methods
from sr_jax.ops.compilation import jit

_ROUNDS = 11


class Case(NamedTuple):
  """One line of the table.

  Attributes:
    model: The config's `model` section.
    peer: Function that makes the PyTorch module.
    batch: Number of images of a train step.
    patch: Side of these images in LR pixels.
    side: Side of the LR image for inference.
    scale: Scale of the model.
    experiment: Function that makes the config, in which `model` is replaced.
    loss: `(module, lr, hr) -> value` of the PyTorch module.
  """

  model: dict[str, Any]
  peer: Callable[[], nn.Module]
  batch: int
  patch: int
  side: int
  scale: int = 2
  experiment: Callable[[], Any] = common.base
  loss: Callable[..., torch.Tensor] = lambda module, lr, hr: (
    nn.functional.l1_loss(module(lr), hr)
  )


def _around(features, *body):
  """Makes a network of head, body with a skip, and x2 tail, as EDSR."""
  return nn.Sequential(
    conv(3, features),
    Residual(*body, conv(features, features)),
    conv(features, 4 * features),
    nn.PixelShuffle(2),
    conv(features, 3),
  )


def _edsr(features=64, blocks=16):
  return _around(features, *(block(features) for _ in range(blocks)))


def _rcan(groups, blocks, features=64, reduction=16):
  def group():
    rows = (
      block(features, Attention(features, reduction)) for _ in range(blocks)
    )
    return Residual(*rows, conv(features, features))

  return _around(features, *(group() for _ in range(groups)))


class Cascade(nn.Module):
  """Parts in a cascade: a 1x1 convolution merges the results of all so far."""

  def __init__(self, features, parts):
    super().__init__()
    self.parts = nn.ModuleList(parts)
    self.merges = nn.ModuleList(
      nn.Conv2d(i * features, features, 1) for i in range(2, len(parts) + 2)
    )

  def forward(self, x):
    """Maps `[B, F, H, W]` to the same shape."""
    known = x
    for part, merge in zip(self.parts, self.merges, strict=True):
      known = torch.cat([known, part(x)], 1)
      x = torch.relu(merge(known))
    return x


def _carn_m(features=64, groups=4):
  grouped = functools.partial(conv, features, groups=groups)

  def cascade():
    unit = nn.Sequential(
      Residual(
        *(grouped(features), nn.ReLU(), grouped(features), nn.ReLU()),
        nn.Conv2d(features, features, 1),
      ),
      nn.ReLU(),
    )
    return Cascade(features, [unit] * 3)

  return nn.Sequential(
    conv(3, features),
    Cascade(features, [cascade() for _ in range(3)]),
    *(grouped(4 * features), nn.ReLU(), nn.PixelShuffle(2)),
    conv(features, 3),
  )


_MODELS = {
  'edsr': Case({'name': 'edsr', 'variant': 'baseline'}, _edsr, 16, 48, 512),
  'rcan-small': Case(
    {'name': 'rcan', 'variant': 'rcan', 'groups': 2, 'blocks': 4},
    lambda: _rcan(groups=2, blocks=4),
    *(4, 48, 128),
  ),
  'carn-m': Case(
    {'name': 'carn', 'variant': 'carn-m-single'}, _carn_m, 4, 64, 128
  ),
  'san-small': Case(
    {'name': 'san', 'variant': 'san', 'groups': 2, 'blocks': 4},
    lambda: torch_san.San(groups=2, blocks=4),
    *(8, 48, 128),
  ),
  'drn-s': Case(
    {'name': 'drn', 'variant': 's'},
    torch_drn.Drn,
    *(2, 24, 64),
    scale=4,
    experiment=drn.get_config,
    loss=torch_drn.loss,
  ),
}


def _torch_functions(case):
  model = case.peer()
  optimizer = torch.optim.Adam(model.parameters(), 1e-4)
  lr = torch.rand(case.batch, 3, case.patch, case.patch)
  hr = torch.rand(case.batch, 3, *(2 * [case.scale * case.patch]))
  image = torch.rand(1, 3, case.side, case.side)

  def step():
    optimizer.zero_grad()
    case.loss(model, lr, hr).backward()
    optimizer.step()

  def infer():
    with torch.inference_mode():
      model(image)

  return step, infer


def _jax_functions(case):
  config = experiment.to_plain(case.experiment())
  config['model'] = {'scale': case.scale, **case.model}
  method = methods.make(config)
  rng = np.random.default_rng(0)
  margin = round(method.margin(case.scale))  # LR is cut from a wider LR
  side = case.scale * (case.patch + 2 * margin)
  shape = (case.batch, side, side, 3)
  batch = {'hr': rng.integers(0, 256, shape, np.uint8)}
  init = jit(method.init, static_argnames='scale')
  state = init(jax.random.key(0), batch, {}, scale=case.scale)
  train_step = jit(method.train_step, static_argnames='scale', donate_argnums=0)
  lr = rng.random((1, case.side, case.side, 3), np.float32)
  predict = jit(methods.inference(config).predict)

  def step():
    nonlocal state
    state, metrics = train_step(state, batch, scale=case.scale)
    jax.block_until_ready(metrics)

  def infer():
    jax.block_until_ready(predict(state.params, lr))

  return step, infer


@functools.cache
def _made(functions, name):
  return functions(_MODELS[name])


def _time(functions, name, which):
  function = _made(functions, name)[which]
  began = time.perf_counter()
  function()
  return time.perf_counter() - began


def _seconds(process, *args):
  return process.submit(_time, *args).result()


def _compare(title, ours, theirs):
  """Prints a row; `ours` and `theirs` run a step and return its seconds."""
  for seconds in (ours, theirs):
    seconds()
    seconds()
  a, b = map(
    statistics.median,
    zip(*((ours(), theirs()) for _ in range(_ROUNDS)), strict=True),
  )
  print(f'| {title} | {a:.3f} s | {b:.3f} s | {a / b:.2f} |', flush=True)


def _measure(name):
  case, sides = _MODELS[name], (_jax_functions, _torch_functions)
  step = f'{name}, train step {case.batch}x{case.patch}x{case.patch}'
  infer = f'{name}, inference {case.side}x{case.side}'
  spawn = multiprocessing.get_context('spawn')
  with contextlib.ExitStack() as stack:
    processes = [
      stack.enter_context(concurrent.futures.ProcessPoolExecutor(1, spawn))
      for _ in sides
    ]
    for which, title in enumerate((step, infer)):
      calls = (
        functools.partial(_seconds, process, functions, name, which)
        for process, functions in zip(processes, sides, strict=True)
      )
      _compare(title, *calls)


def main():
  """Prints two rows of a Markdown table for each model."""
  names = sys.argv[1:] or list(_MODELS)
  if unknown := set(names) - set(_MODELS):
    raise SystemExit(
      f'no model {min(unknown)!r}; there are {", ".join(_MODELS)}'
    )
  print(
    f'jax {jax.__version__}, torch {torch.__version__}, '
    f'{torch.get_num_threads()} threads'
  )
  print('| | sr_jax | PyTorch | ratio |')
  print('|---|---|---|---|', flush=True)
  for name in names:
    _measure(name)


if __name__ == '__main__':
  main()
