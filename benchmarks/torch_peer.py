"""MZSR in PyTorch, for `benchmarks.meta_vs_torch`.

The module has MZSR's network, its outer gradient and its adaptation to an
image. Weights are a flat dict by Flax's paths, so that they can be
differentiated through updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import torch

META_RATE = 0.01
ADAPT_RATES = (0.02, 0.01, 0.01, 0.01, *(6 * [0.005]))

Weights = dict[str, torch.Tensor]


def on_gpu() -> bool:
  return jax.default_backend() != 'cpu'


def device() -> str:
  return 'cuda' if on_gpu() and torch.cuda.is_available() else 'cpu'


def allow_tf32(allowed: bool) -> None:
  torch.backends.cudnn.allow_tf32 = allowed
  torch.backends.cuda.matmul.allow_tf32 = allowed


def flat(params: Any) -> dict[str, Any]:
  return flax.traverse_util.flatten_dict(params, sep='/')


def weights_of(params: Any, channels_last: bool) -> Weights:
  """Converts Flax parameters to leaves of PyTorch's graph, HWIO to OIHW."""
  weights = {}
  for name, value in flat(params).items():
    array = np.array(value)
    if array.ndim == 4:
      tensor = _tensor(array.transpose(3, 0, 1, 2), channels_last)
    else:
      tensor = torch.from_numpy(array).to(device())
    weights[name] = tensor.requires_grad_()
  return weights


def _tensor(array: np.ndarray, channels_last: bool) -> torch.Tensor:
  """Converts `[..., H, W, C]` to `[..., C, H, W]`.

  With `channels_last` the layout in memory stays as it is.
  """
  tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device())
  tensor = tensor.movedim(-1, -3)
  return tensor if channels_last else tensor.contiguous()


def images_of(images: Any, channels_last: bool) -> Any:
  return jax.tree.map(lambda x: _tensor(x, channels_last), images)


def _refine(
  weights: Weights, image: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
  """Applies the network, whose hidden layers compute in `dtype`."""
  depth = sum(name.endswith('/kernel') for name in weights)
  x = image
  for i in range(1, depth + 1):
    kernel, bias = weights[f'conv{i}/kernel'], weights.get(f'conv{i}/bias')
    kind = dtype if i < depth else torch.float32
    bias = None if bias is None else bias.to(kind)
    x = torch.nn.functional.conv2d(x.to(kind), kernel.to(kind), bias, padding=1)
    x = torch.relu(x) if i < depth else x
  return image + x


def _loss(
  weights: Weights, pair: Any, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
  return torch.nn.functional.l1_loss(_refine(weights, pair[0], dtype), pair[1])


def meta_gradient(
  start: Weights,
  task: Any,
  steps: int,
  dtype: torch.dtype = torch.float32,
  tf32: bool = False,
) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
  """Returns the outer loss and its gradient, in reverse over reverse mode."""
  allow_tf32(tf32)
  support, query = task
  fitted, total = start, torch.zeros((), device=device())
  for _ in range(steps):
    loss = _loss(fitted, support, dtype)
    grads = torch.autograd.grad(loss, list(fitted.values()), create_graph=True)
    pairs = zip(fitted.items(), grads, strict=True)
    fitted = {name: w - META_RATE * g for (name, w), g in pairs}
    total = total + _loss(fitted, query, dtype) / steps
  grads = torch.autograd.grad(total, list(start.values()))
  allow_tf32(False)
  return total.detach(), grads


def mean_gradient(start: Weights, tasks: Any, steps: int) -> Any:
  """Returns the mean of `meta_gradient` over tasks, one after the other."""
  total, count = None, len(tasks[0][0])
  for i in range(count):
    task = jax.tree.map(lambda x, i=i: x[i], tasks)
    loss, grads = meta_gradient(start, task, steps)
    found = [x / count for x in (loss, *grads)]
    total = found if total is None else torch._foreach_add(total, found)
  return total[0], total[1:]


def adapt(start: Weights, pair: Any, enlarged: torch.Tensor) -> torch.Tensor:
  """Makes SGD updates of a copy of `start`, and a final forward pass."""
  fitted = {k: w.detach().clone().requires_grad_() for k, w in start.items()}
  weights = list(fitted.values())
  for rate in ADAPT_RATES:
    grads = torch.autograd.grad(_loss(fitted, pair), weights)
    with torch.no_grad():
      torch._foreach_add_(weights, grads, alpha=-rate)
  with torch.inference_mode():
    return _refine(fitted, enlarged)


def zssr(
  weights: Weights, optimizer: torch.optim.Optimizer, pair: Any, iterations: int
) -> torch.Tensor:
  """Makes Adam updates in place; returns the loss before each."""
  losses = []
  for _ in range(iterations):
    optimizer.zero_grad()
    loss = _loss(weights, pair)
    loss.backward()
    optimizer.step()
    losses.append(loss.detach())
  return torch.stack(losses)


def as_flax(found: Any, weights: Weights) -> tuple[np.ndarray, Any]:
  """Converts (loss, gradients) of PyTorch to Flax's names and layout."""
  loss, grads = found
  tree = {}
  for name, grad in zip(weights, grads, strict=True):
    array = grad.cpu().numpy()
    tree[name] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
  return loss.cpu().numpy(), tree
