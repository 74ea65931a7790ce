"""The only training loop of the project."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import numpy as np

from sr_jax import checkpoints, experiment, sharding
from sr_jax.data import batches
from sr_jax.errors import UserError
from sr_jax.metric_writers import MetricWriter
from sr_jax.ops.compilation import jit
from sr_jax.ops.devices import find_devices
from sr_jax.runs import faults, peers, preparing, stopping, workdirs
from sr_jax.runs.progress import Diverged, Monitor
from sr_jax.state import TrainState

_log = logging.getLogger(__name__)

# Steps that config.profile traces.
_TRACED = 5
_LESS = 'lower config.data.batch_size or config.data.patch'


def train_and_evaluate(
  config: Mapping[str, Any], workdir: str | os.PathLike[str]
) -> TrainState:
  """Trains until `config.steps`, resuming from the newest checkpoint.

  Args:
    config: A config; missing keys get the defaults of `sr_jax.defaults`.
    workdir: Folder of the run, made if missing.

  Returns:
    The final state.

  Raises:
    UserError: anything the user can mend, in one line.
  """
  config, folder = experiment.complete(config), workdirs.locate(workdir)
  before = preparing.config_of(folder)
  if before is not None:
    config = experiment.resumed(before, config, folder)
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(stopping.on_signals())
    stack.enter_context(faults.out_of_memory(_LESS))
    if config['multihost']:
      sharding.start_processes()
    find_devices()
    link = stack.enter_context(peers.linked())
    with sharding.together() as facts:
      run = preparing.prepare(config, folder, stack)
      if before is not None:
        experiment.check_data(before, config, folder, run.digest)
      facts |= experiment.shared(config)
      facts |= {'data': run.digest, 'code': experiment.code_digest()}
    link.begin()
    keeper = stack.enter_context(
      preparing.open_keeper(folder, **config['checkpoint'])
    )
    # Before the keeper closes, which waits for the other processes.
    stack.enter_context(link.guarding())
    stack.enter_context(faults.out_of_memory(_LESS))
    state = preparing.first_state(run, keeper)
    writer = MetricWriter(folder, enabled=jax.process_index() == 0)
    stack.callback(writer.close)
    if jax.process_index() == 0:
      experiment.write(folder, config, run.digest)
    preparing.announce(run, state)
    stop.begin()
    return _train(run, state, keeper, writer, stop)


def _train(
  run: preparing.Run,
  state: TrainState,
  keeper: checkpoints.Keeper,
  writer: MetricWriter,
  stop: stopping.Stop,
) -> TrainState:
  """Step, log, evaluate, save; the order makes a resume exact."""
  config, steps = run.config, run.config['steps']
  monitor = Monitor(run.progress, writer, run.method.advice)
  train_step = _compiled(run)
  done = int(jax.device_get(state.step))
  run.progress.begin(done)

  def save(scores: Mapping[str, float] | None = None) -> None:
    about = {'config': config, 'protocol': run.evaluate.rules}
    keeper.save(state, run.method.averaged(state), about, scores)

  try:
    with contextlib.closing(_stream(run, done)) as stream:
      for step, scale, batch, waited in stream:
        state, metrics = train_step(state, batch, scale)
        monitor.add(metrics)
        run.progress.step(waited)
        done = step + 1
        stopping_now = stop(done)
        last = done == steps or stopping_now
        if last or done % config['log_every'] == 0:
          monitor.report(done)
        scores = None
        due = done == steps or done % config['eval']['every'] == 0
        if due and not stopping_now:  # a preempted run has little time to save
          with run.progress.busy('measuring'):
            scores = run.evaluate(done, run.method.averaged(state), writer)
          run.progress.report(done, scores)
        best = scores is not None and keeper.would_be_best(scores)
        if last or best or done % config['checkpoint']['every'] == 0:
          save(scores)
        if stopping_now:
          break
    keeper.wait()
  except Exception as error:
    if not isinstance(error, Diverged) and not state.step.is_deleted():
      _save_after(error, done, save, keeper)
    raise
  if done < steps:
    _log.warning('stopped by a signal; step %d is saved', done)
  else:
    preparing.announce_end(run)
  return state


def _compiled(run: preparing.Run) -> Callable[..., tuple[TrainState, Any]]:
  """`(state, batch of this process, scale) -> (state, metrics)`."""
  step = jit(
    run.method.train_step,
    static_argnames='scale',
    donate_argnums=0,
    out_shardings=sharding.replicated(run.mesh),
  )
  seen = set()

  def train_step(
    state: TrainState, batch: Mapping[str, np.ndarray], scale: float
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    with contextlib.ExitStack() as stack:
      if scale not in seen:
        seen.add(scale)
        stack.enter_context(run.progress.busy('compiling the training step'))
      stack.enter_context(jax.transfer_guard('disallow'))
      return step(state, sharding.to_global(batch, run.mesh), scale=scale)

  return train_step


def _stream(
  run: preparing.Run, start: int
) -> Generator[tuple[int, float, Any, float]]:
  """(step, scale, batch, seconds it was waited for), from `start` on."""
  data = run.config['data']
  stream = batches.batches(
    *(run.source, run.spec, start, run.config['steps']),
    workers=data['workers'],
    prefetch=data['prefetch'],
  )
  profile = run.config['profile']
  with contextlib.closing(stream), contextlib.ExitStack() as trace:
    while True:
      began = time.perf_counter()
      item = next(stream, None)
      if item is None:
        return
      if item[0] == profile + _TRACED - 1:
        trace.close()
      if profile and item[0] == profile - 1:
        trace.enter_context(jax.profiler.trace(run.folder / 'profile'))
      yield *item, time.perf_counter() - began


def _save_after(
  error: Exception,
  step: int,
  save: Callable[[], None],
  keeper: checkpoints.Keeper,
) -> None:
  """Saves the state, which a fault of data or disks left intact.

  Raises:
    UserError: `error` in one line that says what is saved.
  """
  if jax.process_count() > 1:
    return  # the others do not know of the fault and would not save
  try:
    save()
    keeper.wait()
  except Exception:
    return  # the same disk, most likely
  if isinstance(error, UserError):
    raise UserError(f'{error}; step {step} is saved') from error
  _log.warning('step %d is saved', step)
