"""The only training loop of the project."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sr_jax import checkpoints, experiment, methods, sharding
from sr_jax.data import batches, opening
from sr_jax.errors import UserError
from sr_jax.evaluation.crops import Evaluation, make_evaluation
from sr_jax.evaluation.scores import LOWER_IS_BETTER
from sr_jax.metric_writers import MetricWriter, Progress
from sr_jax.ops.compilation import jit
from sr_jax.state import TrainState

_log = logging.getLogger(__name__)

# Factor between the mean losses of two intervals that is worth a warning.
_JUMP = 4.0
# Consecutive non-finite updates after which a run stops.
_PATIENCE = 10


def train_and_evaluate(
  config: Mapping[str, Any], workdir: str | os.PathLike[str]
) -> TrainState:
  """Trains until `config.steps`, resuming from the newest checkpoint.

  Args:
    config: As `configs/common.py` defines it.
    workdir: Folder of the run, made if missing.

  Returns:
    The final state.

  Raises:
    UserError: anything the user can mend, in one line.
  """
  plain = experiment.to_plain(config)
  experiment.check_numbers(plain)
  if plain['multihost']:
    sharding.start_processes()
  folder = pathlib.Path(workdir).absolute()
  method = methods.make(plain)
  mesh = sharding.make_mesh()
  sharding.check_batch_size(plain['data']['batch_size'], mesh)
  spec = opening.batch_spec(
    plain,
    margin=method.margin,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  source = opening.training(plain, method.uses)
  main = jax.process_index() == 0
  with contextlib.ExitStack() as stack:
    keeper = stack.enter_context(_keeper(folder, **plain['checkpoint']))
    if keeper.steps() and (folder / experiment.FILE).exists():
      experiment.check_same(folder, plain)
    first, _ = batches.sample(source, spec, 0)
    state = _start(method, first, plain, keeper, mesh)
    evaluate = make_evaluation(plain, method, folder)
    _check_best(plain['checkpoint']['best_by'], evaluate.names)
    start, steps, data = int(state.step), plain['steps'], plain['data']
    writer = MetricWriter(folder, enabled=main)
    stack.callback(writer.close)
    progress = Progress(start, steps, data['batch_size'], enabled=main)
    stack.callback(progress.close)
    stream = batches.batches(
      *(source, spec, start, steps),
      workers=data['workers'],
      prefetch=data['prefetch'],
    )
    stack.callback(stream.close)
    run = _Run(
      config=plain,
      method=method,
      mesh=mesh,
      train_step=jit(
        method.train_step,
        static_argnames='scale',
        donate_argnums=0,
        out_shardings=sharding.replicated(mesh),
      ),
      keeper=keeper,
      evaluate=evaluate,
      writer=writer,
    )
    if main:
      experiment.write(folder, plain)
    return _run(run, state, stream, progress)


class _Run(NamedTuple):
  """What the steps of one run share."""

  config: dict[str, Any]
  method: methods.Method
  mesh: jax.sharding.Mesh
  train_step: Callable[..., Any]
  keeper: checkpoints.Keeper
  evaluate: Evaluation
  writer: MetricWriter


@contextlib.contextmanager
def _keeper(
  folder: pathlib.Path,
  *,
  keep: int,
  keep_best: int,
  best_by: str,
  **others: Any,
) -> Iterator[checkpoints.Keeper]:
  del others  # when to save and what to start from are the loop's concern
  keeper = checkpoints.Keeper(
    folder,
    keep=keep,
    keep_best=keep_best,
    best_by={name: name in LOWER_IS_BETTER for name in best_by.split(',')},
  )
  try:
    yield keeper
  finally:
    keeper.close()


def _check_best(best_by: str, names: Sequence[str]) -> None:
  """Refuses scores that are not measured."""
  for name in best_by.split(','):
    if name not in names:
      raise UserError(
        f'config.checkpoint.best_by: {name!r} is not measured; choose from'
        f' {", ".join(names)}, with commas between'
      )


def _start(
  method: methods.Method,
  first: Mapping[str, np.ndarray],
  config: Mapping[str, Any],
  keeper: checkpoints.Keeper,
  mesh: jax.sharding.Mesh,
) -> TrainState:
  """The newest checkpoint, else a fresh state, on every device."""
  shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in first.items()}
  scale, everywhere = config['model']['scale'], sharding.replicated(mesh)

  def init(key: jax.Array, frozen: Any, pretrained: Any) -> TrainState:
    return method.init(key, shapes, frozen, scale, pretrained)

  def abstract(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)

  key, frozen = jax.random.key(config['seed']), _frozen(method, keeper)
  like = jax.tree.map(abstract, jax.eval_shape(init, key, frozen, {}))
  state = keeper.restore(like, frozen)
  if state is not None:
    return state
  path = config['checkpoint']['init_from']
  pretrained = checkpoints.load_params(path).params if path else {}
  # Inside jit no two leaves share a buffer, which donation forbids.
  start = jit(init, once=True, out_shardings=everywhere)
  return start(key, frozen, pretrained)


def _frozen(
  method: methods.Method, keeper: checkpoints.Keeper
) -> dict[str, Any]:
  """The networks that no step changes, from where the config says."""
  try:
    return method.frozen()
  except UserError:
    if (stored := keeper.stored_frozen()) is None:
      raise
    return stored


def _run(
  run: _Run, state: TrainState, stream: Iterator[Any], progress: Progress
) -> TrainState:
  """Step, log, evaluate, save; the order makes a resume exact."""
  config, steps = run.config, run.config['steps']
  history: list[dict[str, jax.Array]] = []
  means: dict[str, float] = {}
  told = None
  with _stop() as stop:
    for step, scale, batch, waited in _timed(stream):
      batch = sharding.to_global(batch, run.mesh)
      state, metrics = run.train_step(state, batch, scale=scale)
      # One step ahead at most: waits are then counted where they happen.
      if history:
        jax.block_until_ready(history[-1])
      history.append(metrics)
      progress.step(waited)
      done = step + 1
      stopping = stop(done)
      last = done == steps or stopping
      if last or done % config['log_every'] == 0:
        earlier, means = means, _report(done, history, progress, run.writer)
        history, before = [], told
        told = run.method.advice(means) or _jump(earlier, means)
        if told and not before:  # once, until it is mended
          _log.warning('step %d: %s', done, told)
      scores = None
      due = done == steps or done % config['eval']['every'] == 0
      if due and not stopping:  # a preempted run has little time to save
        scores = run.evaluate(done, run.method.averaged(state), run.writer)
        progress.report(done, scores)
      best = scores is not None and run.keeper.would_be_best(scores)
      if last or best or done % config['checkpoint']['every'] == 0:
        about = {'config': config, 'protocol': run.evaluate.rules}
        run.keeper.save(state, run.method.averaged(state), about, scores)
      if stopping:
        break
    run.keeper.wait()
  if int(state.step) < steps:
    _log.warning('stopped by a signal; step %d is saved', int(state.step))
  return state


def _jump(earlier: Mapping[str, float], now: Mapping[str, float]) -> str | None:
  """What to do about a loss that is many times that of the interval before."""
  if not earlier or not now['loss'] > _JUMP * earlier['loss'] > 0:
    return None
  return (
    f'the loss jumped from {earlier["loss"]:.3g} to {now["loss"]:.3g}; if it'
    ' does not come down, lower config.optimizer.learning_rate or set'
    ' config.optimizer.clip_norm'
  )


def _timed(stream: Iterator[Any]) -> Iterator[Any]:
  """Adds to every batch the seconds it was waited for."""
  while True:
    began = time.perf_counter()
    item = next(stream, None)
    if item is None:
      return
    yield *item, time.perf_counter() - began


def _report(
  step: int,
  history: list[dict[str, jax.Array]],
  progress: Progress,
  writer: MetricWriter,
) -> dict[str, float]:
  """Fetches, averages and writes the metrics since the last call.

  Raises:
    UserError: too many updates in a row were not finite.
  """
  fetched = jax.device_get(history)
  means = {
    name: float(np.mean([metrics[name] for metrics in fetched]))
    for name in fetched[0]
  }
  for name in ('skipped_in_a_row', 'skipped', 'learning_rate'):
    means[name] = float(fetched[-1][name])
  in_a_row = max(int(metrics['skipped_in_a_row']) for metrics in fetched)
  values = means | progress.speed(step)
  writer.scalars(step, values)
  shown = ('loss', 'samples_per_second', 'data_wait', 'eta_seconds')
  progress.report(step, {k: values[k] for k in shown if k in values})
  if in_a_row >= _PATIENCE:
    raise UserError(
      f'{in_a_row} updates in a row were not finite at step {step}; lower'
      ' config.optimizer.learning_rate or set config.optimizer.clip_norm; the'
      ' last checkpoint is kept'
    )
  return means


@contextlib.contextmanager
def _stop() -> Iterator[Any]:
  """`stop(step)` tells whether SIGTERM or Ctrl-C asked to save and end.

  With several processes JAX's own preemption notice makes them agree.
  """
  asked = threading.Event()

  def stop(step: int) -> bool:
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      return multihost_utils.reached_preemption_sync_point(step)
    return asked.is_set()

  in_main = threading.current_thread() is threading.main_thread()
  if not in_main or jax.process_count() > 1:
    yield stop
    return

  def ask(*unused: Any) -> None:
    del unused
    if asked.is_set():
      raise KeyboardInterrupt  # asked twice: do not wait for the step
    asked.set()

  signals = (signal.SIGTERM, signal.SIGINT)
  before = [signal.signal(number, ask) for number in signals]
  try:
    yield stop
  finally:
    for number, handler in zip(signals, before, strict=True):
      signal.signal(number, handler)
