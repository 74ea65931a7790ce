"""Opens and checks everything that a run needs before its first step."""

from __future__ import annotations

import contextlib
import functools
import logging
import pathlib
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sr_jax import checkpoints, experiment, methods, sharding
from sr_jax.data import batches, opening
from sr_jax.errors import UserError, counted
from sr_jax.evaluation.crops import Evaluation, make_evaluation
from sr_jax.metrics.protocol import LOWER_IS_BETTER
from sr_jax.ops.compilation import call_once, jit
from sr_jax.runs import workdirs
from sr_jax.runs.progress import Progress
from sr_jax.state import TrainState

_log = logging.getLogger(__name__)

# Runs of fewer steps count as trials.
_TRIAL = 1000


class Run(NamedTuple):
  """Objects that the steps of one run share."""

  config: dict[str, Any]
  folder: pathlib.Path
  method: methods.Method
  mesh: jax.sharding.Mesh
  source: batches.Source
  spec: batches.BatchSpec
  digest: str
  evaluate: Evaluation
  progress: Progress


def prepare(
  config: dict[str, Any], folder: pathlib.Path, stack: contextlib.ExitStack
) -> Run:
  """Opens everything that a run needs, and locks its folder.

  Raises:
    UserError: A part of the config cannot be used, or another run uses the
      folder.
  """
  main = jax.process_index() == 0
  progress = Progress(
    config['steps'], config['data']['batch_size'], enabled=main
  )
  stack.callback(progress.close)
  method = methods.make(config)
  mesh = sharding.make_mesh()
  sharding.check_batch_size(config['data']['batch_size'], mesh)
  spec = opening.batch_spec(
    config,
    margin=method.margin,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  with progress.busy('opening the data; new images are decoded once'):
    source = opening.training(config, method.uses)
    digest = source.digest()
    evaluate = make_evaluation(config, method, folder)
  _check_best(config['checkpoint']['best_by'], evaluate.names)
  if main:
    stack.enter_context(workdirs.claimed(folder, experiment.FILE))
  return Run(
    *(config, folder, method, mesh, source, spec, digest, evaluate, progress)
  )


def config_of(folder: pathlib.Path) -> dict[str, Any] | None:
  """Returns the config with which the run in a workdir began.

  Returns None if there is no run, or if it has no checkpoint to resume from.

  Raises:
    UserError: `config.json` is damaged.
  """
  if not checkpoints.has_checkpoints(folder):
    return None
  return experiment.stored(folder) or checkpoints.stored_config(folder)


@contextlib.contextmanager
def open_keeper(
  folder: pathlib.Path,
  *,
  keep: int,
  keep_best: int,
  best_by: str,
  **others: Any,
) -> Generator[checkpoints.Keeper]:
  del others  # the training loop uses the other keys of config.checkpoint
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
  """Refuses to choose the best checkpoint by scores that are not measured."""
  for name in best_by.split(','):
    if name not in names:
      raise UserError(
        f'config.checkpoint.best_by: {name!r} is not measured; choose from'
        f' {", ".join(names)}, with commas between'
      )


def first_state(run: Run, keeper: checkpoints.Keeper) -> TrainState:
  """Restores the newest checkpoint, or makes a new state, on every device."""
  config = run.config
  first, _ = batches.sample(run.source, run.spec, 0)
  shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in first.items()}
  scale, everywhere = config['model']['scale'], sharding.replicated(run.mesh)

  def init(key: jax.Array, frozen: Any, pretrained: Any) -> TrainState:
    return run.method.init(key, shapes, frozen, scale, pretrained)

  def abstract(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)

  with run.progress.busy('making the state'):
    key, frozen = jax.random.key(config['seed']), _frozen(run.method, keeper)
    like = jax.tree.map(abstract, jax.eval_shape(init, key, frozen, {}))
    state = keeper.restore(like, frozen)
    if state is not None:
      return state
    path = config['checkpoint']['init_from']
    pretrained = checkpoints.load_params(path).params if path else {}
    state = call_once(init, key, frozen, pretrained)
    # Leaves of the state may share a buffer, which could not be donated.
    copy = jit(
      functools.partial(jax.tree.map, jnp.copy), out_shardings=everywhere
    )
    return copy(state)


def _frozen(
  method: methods.Method, keeper: checkpoints.Keeper
) -> dict[str, Any]:
  """Reads the networks that training does not change, as the config says."""
  try:
    return method.frozen()
  except UserError:
    if (stored := keeper.stored_frozen()) is None:
      raise
    return stored


def announce(run: Run, state: TrainState) -> None:
  """Prints the model, the data, the devices and the workdir of a run."""
  source, steps = run.config['data']['source'], run.config['steps']
  count, size = (
    len(run.source.names),
    sum(leaf.size for leaf in jax.tree.leaves(state.params)),
  )
  devices = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
  run.progress.say(
    f'{counted(count, "image")} of {source},'
    f' {counted(size, "parameter")}, {devices}, workdir {run.folder}'
  )
  if source == 'embedded' and steps > _TRIAL:
    _log.warning(
      'config.data.source is embedded: %d photographs are enough to try things'
      ' out, not to train a useful model; name your own with'
      ' --config.data.source=folder:PATH',
      count,
    )
  start = int(jax.device_get(state.step))
  if start >= steps:
    run.progress.say(f'already at step {start} of {steps}')
  elif start:
    run.progress.say(f'resuming at step {start} of {steps}')


def announce_end(run: Run) -> None:
  """Prints where the weights are and how to use them."""
  how = ''
  if run.method.judges == 'images':
    how = f'; enlarge with: sr-jax upscale PHOTO -o OUT --model {run.folder}'
  run.progress.say(f'done: weights in {run.folder}{how}')
