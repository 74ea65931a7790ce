"""Checkpoints: the only file that knows Orbax.

A run keeps `WORKDIR/checkpoints/STEP`, each an Orbax composite of

  state     the whole `TrainState`, for exact resume
  params    the inference parameters (the moving average if one is kept)
  about     JSON: config, protocol, step, format version

`save_params` writes the last two alone: imported and pretrained weights. Any
of these folders opens on any number of devices.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from sr_jax.errors import UserError
from sr_jax.files import folder_atomically
from sr_jax.state import TrainState

_log = logging.getLogger(__name__)

PathLike = str | pathlib.Path
_FORMAT = 1
_FOLDER = 'checkpoints'


class Loaded(NamedTuple):
  """What inference needs of a checkpoint.

  Attributes:
    config: Config of the run, plain values.
    params: Inference parameters by slot, NumPy arrays.
    step: Updates done, None for weights that were imported.
    protocol: How the stored scores were measured, None without scores.
  """

  config: dict[str, Any]
  params: dict[str, Any]
  step: int | None
  protocol: dict[str, Any] | None


@contextlib.contextmanager
def _one_line(action: str, path: PathLike) -> Iterator[None]:
  """Turns what Orbax and the file system raise into one clear line."""
  try:
    yield
  except UserError:
    raise
  except OSError as error:
    raise UserError(
      f'cannot {action} {path}: {error.strerror or error}'
      + ('; free some space' if error.errno == errno.ENOSPC else '')
    ) from error
  except Exception as error:
    reason = str(error).strip().split('\n')[0][:200]
    if 'No space left' in str(error):
      reason = 'No space left on device; free some space'
    raise UserError(f'cannot {action} {path}: {reason}') from error


class Keeper:
  """Saves and restores the checkpoints of one run.

  Writes are atomic (a temporary folder, renamed when complete) and happen in
  a thread behind the next steps.

  Attributes:
    path: `WORKDIR/checkpoints`.
  """

  def __init__(
    self,
    workdir: PathLike,
    *,
    keep: int,
    keep_best: int,
    best_by: Mapping[str, bool],
  ):
    """Opens or makes the folder.

    Args:
      workdir: Folder of the run.
      keep: Newest checkpoints to keep, at least 1.
      keep_best: Checkpoints to keep besides, for each of `best_by`.
      best_by: Names of metrics given to `save`; true where lower is better.
    """
    self.path = pathlib.Path(workdir).absolute() / _FOLDER
    best = [_better(name, lower) for name, lower in best_by.items()]
    policies = ocp.checkpoint_managers.preservation_policy
    options = ocp.CheckpointManagerOptions(
      preservation_policy=policies.AnyPreservationPolicy(
        [
          policies.LatestN(keep),
          *(
            policies.BestN(
              get_metric_fn=score,
              n=keep_best,
              keep_checkpoints_without_metrics=False,
            )
            for score in best
          ),
        ]
      ),
      # Without it Orbax stores no metrics, and a resumed run would drop the
      # best checkpoint of the run before.
      best_fn=best[0],
      cleanup_tmp_directories=True,
      enable_async_checkpointing=True,
    )
    self._unreadable: set[int] = set()
    with _one_line('open checkpoints in', self.path):
      self._manager = ocp.CheckpointManager(self.path, options=options)

  def steps(self) -> list[int]:
    """Steps of all complete checkpoints, oldest first."""
    return sorted(self._manager.all_steps())

  def save(
    self,
    state: TrainState,
    params: Mapping[str, Any],
    about: Mapping[str, Any],
    metrics: Mapping[str, float] | None,
  ) -> None:
    """Starts saving; a step that is already there is left as it is.

    One that `restore` could not read is replaced.

    Raises:
      UserError: this or the previous save could not be written; the
        checkpoints before it are intact.
    """
    step = int(state.step)
    there = step in self._manager.all_steps()
    if there and step not in self._unreadable:
      return
    self.wait()
    with _one_line('save checkpoint in', self.path):
      if there:
        self._manager.delete(step)
        self._unreadable.remove(step)
      _check_space(self.path, (state, params))
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          params=ocp.args.StandardSave(params),
          about=ocp.args.JsonSave({'format': _FORMAT, 'step': step, **about}),
        ),
        metrics=dict(metrics) if metrics else None,
      )

  def restore(self, like: TrainState) -> TrainState | None:
    """The newest readable state, None if the run has no checkpoint yet.

    A checkpoint that cannot be read is named in a warning and the one before
    it is taken.

    Args:
      like: Abstract state with the shardings of this run's mesh.

    Raises:
      UserError: there are checkpoints, but none can be read.
    """
    problems = []
    for step in reversed(self.steps()):
      try:
        with _one_line('restore', self.path / str(step)):
          restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(like)),
          )
      except UserError as error:
        problems.append(str(error))
        self._unreadable.add(step)
        continue
      for problem in problems:
        _log.warning('%s; resuming from step %d instead', problem, step)
      return restored['state']
    if problems:
      raise UserError(problems[0] + '; no older checkpoint is left')
    return None

  def wait(self) -> None:
    """Waits until the last save is on disk.

    Raises:
      UserError: it could not be written.
    """
    try:
      with _one_line('save checkpoint in', self.path):
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
    except UserError:
      for unfinished in self.path.glob('*.orbax-checkpoint-tmp*'):
        shutil.rmtree(unfinished, ignore_errors=True)
      raise

  def close(self) -> None:
    """Finishes and releases the folder.

    Raises:
      UserError: the last save could not be written.
    """
    with _one_line('save checkpoint in', self.path):
      self._manager.close()


def _better(name: str, lower: bool) -> Callable[[Mapping[str, float]], float]:
  """A score of which more is better."""
  return lambda metrics: -metrics[name] if lower else metrics[name]


def _check_space(folder: pathlib.Path, tree: Any) -> None:
  """Refuses to begin what cannot be finished."""
  needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
  if shutil.disk_usage(folder).free < needed:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def save_params(
  path: PathLike,
  params: Mapping[str, Any],
  config: Mapping[str, Any],
  protocol: Mapping[str, Any] | None = None,
  step: int | None = None,
) -> None:
  """Writes bare weights as a checkpoint folder, whole or not at all.

  Args:
    path: New folder.
    params: Parameters by slot.
    config: At least the sections `method` and `model`.
    protocol: How the scores stored with it were measured.
    step: Updates done.

  Raises:
    UserError: the folder exists or cannot be written.
  """
  about = {
    'format': _FORMAT,
    'step': step,
    'config': dict(config),
    'protocol': protocol,
  }
  handler = ocp.CompositeCheckpointHandler()
  with (
    _one_line('write', path),
    folder_atomically(path) as folder,
    ocp.Checkpointer(handler) as checkpointer,
  ):
    checkpointer.save(
      folder,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(dict(params)),
        about=ocp.args.JsonSave(about),
      ),
    )


def load_params(path: PathLike) -> Loaded:
  """Opens a checkpoint for inference, on any device count.

  Args:
    path: A workdir (its newest checkpoint), a checkpoint folder of a step, or
      a folder that `save_params` wrote.

  Raises:
    UserError: it is none of these, incomplete or damaged.
  """
  folder = _resolve(pathlib.Path(path).absolute())
  with _one_line('read checkpoint', folder):
    handler = ocp.CompositeCheckpointHandler(
      params=ocp.StandardCheckpointHandler(),
      about=ocp.JsonCheckpointHandler(),
      # Not read, but unknown items would be warned of.
      state=ocp.StandardCheckpointHandler(),
      metrics=ocp.JsonCheckpointHandler(),
    )
    with ocp.Checkpointer(handler) as checkpointer:
      metadata = checkpointer.metadata(folder).item_metadata['params']
      if metadata is None:
        raise UserError(f'{folder}: its parameters are missing')
      # A target of plain NumPy arrays: no device of the saving run is needed.
      like = jax.tree.map(lambda m: np.empty(m.shape, m.dtype), metadata.tree)
      restored = checkpointer.restore(
        folder,
        args=ocp.args.Composite(
          params=ocp.args.StandardRestore(like), about=ocp.args.JsonRestore()
        ),
      )
  about = _checked_about(restored['about'], folder)
  return Loaded(
    config=about['config'],
    params=restored['params'],
    step=about.get('step'),
    protocol=about.get('protocol'),
  )


def _checked_about(about: Any, folder: pathlib.Path) -> dict[str, Any]:
  """`about` if this version can read it."""
  if not isinstance(about, dict) or not isinstance(about.get('config'), dict):
    raise UserError(f'cannot read checkpoint {folder}: it holds no config')
  if about.get('format') != _FORMAT:
    raise UserError(
      f'cannot read checkpoint {folder}: its format {about.get("format")} is'
      f' not {_FORMAT}; use the sr_jax that wrote it, or a newer one'
    )
  return about


def _about_file(folder: pathlib.Path) -> pathlib.Path:
  return folder / 'about' / 'metadata'


def _resolve(path: pathlib.Path) -> pathlib.Path:
  """The folder of one checkpoint that `path` means."""
  if not path.exists():
    raise UserError(f'{path}: no such checkpoint')
  if _about_file(path).is_file():
    return path
  root = path / _FOLDER if (path / _FOLDER).is_dir() else path
  steps = (
    [p for p in root.iterdir() if p.name.isdigit()] if root.is_dir() else []
  )
  complete = [p for p in steps if _about_file(p).is_file()]
  if not complete:
    raise UserError(
      f'{path} holds no complete checkpoint; give a workdir, a checkpoint'
      ' folder or a pretrained name'
    )
  return max(complete, key=lambda p: int(p.name))
