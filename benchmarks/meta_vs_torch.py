"""Speed of meta-learning and of learning from one image, compared with PyTorch.

  pip install '.[bench]'
  python -m benchmarks.meta_vs_torch [PART ...]

All parts use the network of MZSR or ZSSR, of 8 convolutions, and the loss L1:

- meta: the exact outer gradient of one task. It has five inner SGD steps on 8
  patches of 64x64, and after each the query loss of 8 other patches. Plain JAX
  is measured too.
- memory: the memory of this gradient, by the number of inner steps.
- adapt: ten SGD updates on a 256x256 image, then a forward pass on 512x512.
- zssr: one Adam update on a 128x128 crop.
- tasks: the outer gradient of five tasks, by how they are distributed.
- precision: the outer gradient in float32, TF32 and bfloat16.

The last two parts are for GPUs; `--all` runs them on CPU too. The rows of a
part run by turns, so that other work on the machine slows all of them. If
results should agree, this is checked first. Except in `precision`, both sides
compute in float32.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch

from benchmarks import torch_peer as peer
from sr_jax.losses import pixel
from sr_jax.models import mzsr, zssr
from sr_jax.ops.compilation import jit
from sr_jax.transforms import meta

_CPU_PARTS = ('meta', 'memory', 'adapt', 'zssr')
_GPU_PARTS = ('tasks', 'precision')
_MIB = 2**20


class Row(NamedTuple):
  """A function that is timed.

  Attributes:
    name: Name of the row.
    run: Function that computes a result, waits for it and returns it.
    note: Text of the last column.
  """

  name: str
  run: Callable[[], Any]
  note: str


def main() -> None:
  """Prints a Markdown table for each part."""
  # JAX leaves memory of a GPU to PyTorch. This is read when the backend starts.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  flags, parts = _flags()
  torch.set_num_threads(os.cpu_count() or 1)
  torch.manual_seed(0)
  torch.backends.cudnn.benchmark = True  # XLA chooses by trial as well
  peer.allow_tf32(False)
  if peer.on_gpu():
    jax.config.update('jax_default_matmul_precision', 'highest')
  print(_header(), flush=True)
  for part in parts:
    print(f'\n{part}: {_workload(part, flags)}\n')
    _PARTS[part](flags)


def _flags() -> tuple[argparse.Namespace, Sequence[str]]:
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('parts', nargs='*', metavar='PART', help='default: all')
  add('--all', action='store_true', help='on CPU also the rows for GPUs')
  add('--rounds', type=int, default=7, help='turns of each row (7)')
  add('--size', type=int, default=64, help='side of the patches (64)')
  add('--patches', type=int, default=8, help='support, and query (8)')
  add('--steps', type=int, default=5, help='inner steps (5)')
  add('--tasks', type=int, default=5, help='of the part tasks (5)')
  add('--adapt-size', type=int, default=256, help='half the final side (256)')
  add('--zssr-size', type=int, default=128, help='side of the crop (128)')
  add('--iterations', type=int, default=20, help='of one program, zssr (20)')
  add('--channels-last', action='store_true', help='memory format of PyTorch')
  flags = parser.parse_args()
  every = flags.all or peer.on_gpu()
  parts = flags.parts or _CPU_PARTS + (_GPU_PARTS if every else ())
  if unknown := set(parts) - set(_PARTS):
    parser.error(f'no part {min(unknown)!r}; choose from {", ".join(_PARTS)}')
  if not every and not set(parts) <= set(_CPU_PARTS):
    parser.error(f'{", ".join(_GPU_PARTS)}: for GPUs; on CPU only with --all')
  return flags, parts


def _workload(part: str, flags: argparse.Namespace) -> str:
  """Describes what the rows of a part compute."""
  size, patches = flags.size, flags.patches
  task = f'{flags.steps} inner steps, {patches}+{patches} patches {size}x{size}'
  once, twice = flags.adapt_size, 2 * flags.adapt_size
  return {
    'meta': f'exact outer gradient of one task, {task}',
    'memory': f'temporary memory of that gradient, {patches}+{patches}'
    f' patches {size}x{size}',
    'adapt': f'{len(peer.ADAPT_RATES)} SGD updates on {once}x{once}, then a'
    f' forward pass on {twice}x{twice}',
    'zssr': f'one Adam update on a {flags.zssr_size}x{flags.zssr_size} crop',
    'tasks': f'exact outer gradient of {flags.tasks} tasks, {task} each',
    'precision': f'exact outer gradient of one task, {task}',
  }[part]


def _header() -> str:
  device = jax.devices()[0]
  theirs = peer.device()
  if theirs == 'cuda':
    theirs = torch.cuda.get_device_name()
  return (
    f'jax {jax.__version__} on {device.platform} {device.device_kind};'
    f' torch {torch.__version__} on {theirs}, {torch.get_num_threads()}'
    f' threads; {os.cpu_count()} CPUs: {_cpu_name()}'
  )


def _cpu_name() -> str:
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  return platform.processor() or platform.machine()


# Data, programs and rows.


def _images(rng: np.random.Generator, *shape: int) -> tuple[Any, Any]:
  """Returns a network input and its target, float32."""
  target = rng.random(shape, np.float32)
  noise = rng.standard_normal(shape, np.float32)
  return target + np.float32(0.1) * noise, target


def _network(model: Any, **options: Any) -> tuple[meta.LossFn, Any, Any]:
  """Returns `loss(params, pair)`, `refine(params, image)` and parameters."""
  network = model.Model(scale=2, **options)
  params = network.init(jax.random.key(0), np.zeros((1, 8, 8, 3)))['params']

  def refine(params: Any, image: jax.Array) -> jax.Array:
    return network.apply({'params': params}, image, method='refine')

  def loss(params: Any, pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    return pixel.l1(refine(params, pair[0]), pair[1])

  return loss, refine, params


def _compile(function: Callable[..., Any], *args: Any) -> tuple[Any, str]:
  """Compiles a function; returns the program and a note on the time."""
  began = time.perf_counter()
  program = jit(function).lower(*args).compile()
  return program, f'compiled in {time.perf_counter() - began:.1f} s'


def _ours(name: str, function: Callable[..., Any], *args: Any) -> Row:
  args = jax.device_put(args)
  program, note = _compile(function, *args)
  return Row(name, lambda: jax.block_until_ready(program(*args)), note)


def _theirs(function: Callable[..., Any], *args: Any, note: str = '') -> Row:
  def run() -> Any:
    result = function(*args)
    if peer.device() == 'cuda':
      torch.cuda.synchronize()
    return result

  name = 'PyTorch' if not peer.on_gpu() else f'PyTorch, {peer.device()}'
  return Row(name, run, note)


def _compare(
  rows: Sequence[Row], rounds: int, *, unit: str = 's', factor: float = 1.0
) -> None:
  """Times the rows by turns, after two calls of each.

  Args:
    rows: The rows; ratios refer to the last one.
    rounds: Number of timed calls of each row.
    unit: Unit of the printed figures.
    factor: Factor by which the seconds of a call become a printed figure.
  """
  for row in rows:
    row.run()
    row.run()
  times: list[list[float]] = [[] for _ in rows]
  for _ in range(rounds):
    for row, seen in zip(rows, times, strict=True):
      began = time.perf_counter()
      row.run()
      seen.append(factor * (time.perf_counter() - began))
  base = statistics.median(times[-1])
  print(f'| row | median, {unit} | min, {unit} | ratio | note |')
  print('|---|---|---|---|---|')
  for row, seen in zip(rows, times, strict=True):
    middle = statistics.median(seen)
    figures = f'{middle:.4g} | {min(seen):.4g} | {middle / base:.2f}'
    print(f'| {row.name} | {figures} | {row.note} |', flush=True)


def _agree(name: str, ours: Any, theirs: Any, tolerance: float) -> float:
  """Returns the relative distance of two trees of arrays, after checking it."""
  a, b = (
    np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(t)])
    for t in (ours, theirs)
  )
  distance = float(np.linalg.norm(a - b) / np.linalg.norm(b))
  if not distance <= tolerance:
    raise SystemExit(f'{name}: differs by {distance:.1e}, not <= {tolerance}')
  return distance


# Parts.


def _tasks_data(flags: argparse.Namespace, *count: int) -> Any:
  """Returns (support, query), each of them (network input, target)."""
  rng = np.random.default_rng(0)
  shape = *count, flags.patches, flags.size, flags.size, 3
  return _images(rng, *shape), _images(rng, *shape)


def _meta_gradient(
  loss: meta.LossFn, steps: int, **options: Any
) -> Callable[[Any, Any], Any]:
  """Makes the function from (params, (support, query)) to (loss, gradients)."""
  weights = meta.uniform_weights(steps)

  def outer(params: Any, task: Any) -> jax.Array:
    return meta.meta_loss(
      loss,
      params,
      *task,
      weights,
      learning_rates=peer.META_RATE,
      **options,
    )[0]

  return jax.value_and_grad(outer)


def _plain_meta_gradient(
  loss: meta.LossFn, steps: int
) -> Callable[[Any, Any], Any]:
  """Makes the same function in reverse mode over reverse mode."""

  def outer(params: Any, task: Any) -> jax.Array:
    support, query = task
    total = 0.0
    for _ in range(steps):
      grads = jax.grad(loss)(params, support)
      params = jax.tree.map(lambda p, g: p - peer.META_RATE * g, params, grads)
      total += loss(params, query) / steps
    return total

  return jax.value_and_grad(outer)


def _check_gradients(
  rows: Sequence[Row], weights: peer.Weights
) -> Sequence[Row]:
  """Notes in each row the distance from the result of the last, PyTorch's."""
  *ours, theirs = rows
  right_loss, right_grads = peer.as_flax(theirs.run(), weights)
  checked = []
  for row in ours:
    loss, grads = row.run()
    _agree(f'loss of {row.name}', loss, right_loss, 1e-4)
    found = _agree(
      f'gradient of {row.name}', peer.flat(grads), right_grads, 1e-3
    )
    checked.append(row._replace(note=f'{row.note}; gradient to {found:.0e}'))
  return [*checked, theirs]


def _meta_part(flags: argparse.Namespace) -> None:
  loss, _, params = _network(mzsr)
  task, steps = _tasks_data(flags), flags.steps
  weights = peer.weights_of(params, flags.channels_last)
  functions = {
    'sr_jax, scanned': _meta_gradient(loss, steps),
    'sr_jax, unrolled': _meta_gradient(loss, steps, unroll=True),
    'sr_jax, unrolled, all kept': _meta_gradient(
      loss, steps, unroll=True, policy=None
    ),
    'plain JAX, reverse over reverse': _plain_meta_gradient(loss, steps),
  }
  rows = [_ours(name, f, params, task) for name, f in functions.items()]
  args = weights, peer.images_of(task, flags.channels_last), steps
  rows.append(_theirs(peer.meta_gradient, *args, note='create_graph'))
  _compare(_check_gradients(rows, weights), flags.rounds)


def _memory_part(flags: argparse.Namespace) -> None:
  loss, _, params = _network(mzsr)
  task = _tasks_data(flags)
  print('| inner steps | temporary memory, MiB | growth | note |')
  print('|---|---|---|---|')
  first = None
  for steps in (1, 5, 10):
    program, note = _compile(_meta_gradient(loss, steps), params, task)
    size = program.memory_analysis().temp_size_in_bytes
    first = size if first is None else first
    growth = f'{100 * (size / first - 1):+.1f} %'
    print(f'| {steps} | {size / _MIB:.1f} | {growth} | {note} |', flush=True)


def _adapt_part(flags: argparse.Namespace) -> None:
  loss, refine, params = _network(mzsr)
  rng, size = np.random.default_rng(0), flags.adapt_size
  pair = _images(rng, 1, size, size, 3)
  enlarged, _ = _images(rng, 1, 2 * size, 2 * size, 3)

  def adapt(params: Any, pair: Any, enlarged: jax.Array) -> jax.Array:
    steps = len(peer.ADAPT_RATES)
    fitted = meta.adapt(
      loss, params, pair, steps=steps, learning_rates=peer.ADAPT_RATES
    )
    return refine(fitted.params, enlarged)

  ours = _ours('sr_jax', adapt, params, pair, enlarged)
  theirs = _theirs(
    peer.adapt,
    peer.weights_of(params, flags.channels_last),
    *peer.images_of((pair, enlarged), flags.channels_last),
  )
  right = np.moveaxis(theirs.run().cpu().numpy(), 1, -1)
  corrections = ours.run() - enlarged, right - enlarged
  found = _agree('correction of the adapted network', *corrections, 1e-3)
  note = f'{ours.note}; correction to {found:.0e}'
  _compare([ours._replace(note=note), theirs], flags.rounds)


def _zssr_part(flags: argparse.Namespace) -> None:
  loss, _, params = _network(zssr)
  size, k = flags.zssr_size, flags.iterations
  pair = _images(np.random.default_rng(0), 1, size, size, 3)
  ours = _zssr_row(loss, params, pair, k)
  weights = peer.weights_of(params, flags.channels_last)
  theirs = _theirs(
    peer.zssr,
    weights,
    torch.optim.Adam(weights.values(), 1e-3),
    peer.images_of(pair, flags.channels_last),
    k,
    note='a loop, one optimizer.step() each',
  )
  # Adam's first updates are the signs of gradients, also of those near zero, so
  # the weights soon differ. Only the first losses are compared.
  losses = ours.run()[:10], theirs.run()[:10].cpu().numpy()
  found = _agree('first losses of zssr', *losses, 1e-2)
  note = f'{ours.note}; first losses to {found:.0e}'
  rows = [ours._replace(note=note), theirs]
  _compare(rows, flags.rounds, unit='ms', factor=1000 / k)


def _zssr_row(
  loss: meta.LossFn, params: Any, pair: Any, iterations: int
) -> Row:
  """Makes a row of Adam updates on one crop, `iterations` in one program.

  Each call of `run` continues where the last one ended, and returns the loss
  before each update.
  """
  tx = optax.adam(1e-3)

  def update(pair: Any, state: Any, _: None) -> tuple[Any, jax.Array]:
    params, opt_state = state
    value, grads = jax.value_and_grad(loss)(params, pair)
    updates, opt_state = tx.update(grads, opt_state)
    return (optax.apply_updates(params, updates), opt_state), value

  def iterate(state: Any, pair: Any) -> tuple[Any, jax.Array]:
    step = functools.partial(update, pair)
    return jax.lax.scan(step, state, length=iterations)

  state, pair = jax.device_put(((params, tx.init(params)), pair))
  program, compiled = _compile(iterate, state, pair)

  def run() -> jax.Array:
    nonlocal state
    state, losses = jax.block_until_ready(program(state, pair))
    return losses

  return Row('sr_jax', run, f'{iterations} in one program; {compiled}')


def _tasks_part(flags: argparse.Namespace) -> None:
  loss, _, params = _network(mzsr)
  tasks, steps = _tasks_data(flags, flags.tasks), flags.steps
  weights = peer.weights_of(params, flags.channels_last)
  gradient = _meta_gradient(loss, steps)
  rows = [
    _ours(
      f'sr_jax, {axis}',
      meta.mean_over_tasks(gradient, axis=axis),
      params,
      tasks,
    )
    for axis in ('map', 'vmap', 'unroll')
  ]
  args = weights, peer.images_of(tasks, flags.channels_last), steps
  rows.append(_theirs(peer.mean_gradient, *args, note='a loop over tasks'))
  _compare(_check_gradients(rows, weights), flags.rounds)


def _precision_part(flags: argparse.Namespace) -> None:
  task, steps = _tasks_data(flags), flags.steps
  _, _, params = _network(mzsr)
  weights, images = (
    peer.weights_of(params, flags.channels_last),
    peer.images_of(task, flags.channels_last),
  )
  rows = []
  for name, precision, dtype in (
    ('bfloat16', 'default', 'bfloat16'),
    ('TF32 (default)', 'default', 'float32'),
    ('float32 (highest)', 'highest', 'float32'),
  ):
    loss, _, _ = _network(mzsr, dtype=dtype)
    with jax.default_matmul_precision(precision):
      ours = _ours(f'sr_jax, {name}', _meta_gradient(loss, steps), params, task)
    tf32 = precision == 'default'
    args = weights, images, steps, getattr(torch, dtype), tf32
    theirs = _theirs(peer.meta_gradient, *args, note='create_graph')
    rows += [ours, theirs._replace(name=f'{theirs.name}, {name}')]
  _compare(_with_errors(rows, weights), flags.rounds)


def _with_errors(rows: Sequence[Row], weights: peer.Weights) -> Sequence[Row]:
  """Notes in each row the distance of its gradient from that of the last."""
  found = []
  for row in rows:
    loss, grads = row.run()
    theirs = isinstance(loss, torch.Tensor)
    found.append(
      peer.as_flax((loss, grads), weights)[1] if theirs else peer.flat(grads)
    )
  errors = [
    _agree(row.name, x, found[-1], np.inf)
    for row, x in zip(rows, found, strict=True)
  ]
  return [
    row._replace(note=f'{row.note}; gradient to {error:.0e}')
    for row, error in zip(rows, errors, strict=True)
  ]


_PARTS = {
  'meta': _meta_part,
  'memory': _memory_part,
  'adapt': _adapt_part,
  'zssr': _zssr_part,
  'tasks': _tasks_part,
  'precision': _precision_part,
}


if __name__ == '__main__':
  main()
