"""Checkpoints: the only folder that knows Orbax.

A run writes folders `WORKDIR/checkpoints/STEP`. Each is an Orbax composite of

  state     the `TrainState`, for exact resume, without its frozen networks
  params    the inference parameters (the moving average if one is kept)
  about     JSON: config, protocol, scores, step, format version, checksums

Frozen networks such as VGG19 are the same in all checkpoints and are not
stored. A resumed run reads them again from the file that its config names, and
compares their checksums with those of the first start.

`save_params` writes `params` and `about` alone, for imported and pretrained
weights. Every checkpoint can be opened on any number of devices.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from sr_jax.checkpoints import checksums
from sr_jax.checkpoints.about import (
  FORMAT,
  about_file,
  compare_checksum,
  json_scores,
  one_line,
  read_about,
  set_aside_damaged_scores,
  stored_scores,
)
from sr_jax.checkpoints.retention import KeepNewestAndBest
from sr_jax.errors import UserError
from sr_jax.files import folder_atomically
from sr_jax.ops.devices import find_devices
from sr_jax.state import EMPTY, TrainState, place_frozen

_log = logging.getLogger(__name__)

PathLike = str | pathlib.Path
_FOLDER = 'checkpoints'


class Loaded(NamedTuple):
  """The part of a checkpoint that inference needs.

  Attributes:
    config: Config of the run as plain values.
    params: Inference parameters by slot, as NumPy arrays.
    step: Number of training steps; None for imported weights.
    protocol: Protocol of the stored scores; None if there are none.
    scores: The stored scores by name; empty if there are none.
  """

  config: dict[str, Any]
  params: dict[str, Any]
  step: int | None
  protocol: dict[str, Any] | None
  scores: Mapping[str, float] = {}


class Keeper:
  """Saves and restores the checkpoints of one run.

  Writes are atomic (a temporary folder is renamed when it is complete) and run
  in a background thread during the next training steps.

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
    """Opens the folder of checkpoints, or makes it.

    Args:
      workdir: Folder of the run.
      keep: Number of newest checkpoints to keep, at least 1.
      keep_best: Number of best checkpoints to keep as well, for each score in
        `best_by`.
      best_by: For the name of each score that decides: whether lower is better.
    """
    self.path = pathlib.Path(workdir).absolute() / _FOLDER
    self._policy = KeepNewestAndBest(keep, keep_best, best_by, {})
    options = ocp.CheckpointManagerOptions(
      preservation_policy=self._policy,
      cleanup_tmp_directories=True,
      enable_async_checkpointing=True,
    )
    self._unreadable: set[int] = set()
    set_aside_damaged_scores(self.path)
    with one_line('open checkpoints in', self.path):
      self._manager = ocp.CheckpointManager(self.path, options=options)
    for step in self.steps():
      self._policy.scores[step] = stored_scores(self.path / str(step))

  def steps(self) -> list[int]:
    """Steps of all complete checkpoints, oldest first."""
    return sorted(self._manager.all_steps())

  def would_be_best(self, scores: Mapping[str, float]) -> bool:
    """Whether one of these scores would be among the best that are kept."""
    return self._policy.would_be_best(scores)

  def save(
    self,
    state: TrainState,
    params: Mapping[str, Any],
    about: Mapping[str, Any],
    scores: Mapping[str, float] | None,
  ) -> None:
    """Starts to save a checkpoint in the background.

    If the step already has a checkpoint, nothing is saved, unless `restore`
    could not read it: then it is replaced.

    Args:
      state: State from which training can resume.
      params: Inference parameters by slot.
      about: JSON values to store with the arrays, such as the config.
      scores: Scores of this step by name; None if it was not evaluated. A score
        that is not finite is stored, but never counts as the best.

    Raises:
      UserError: The parameters are not finite, or this or the previous
        checkpoint could not be written. Earlier checkpoints stay intact.
    """
    step = int(jax.device_get(state.step))
    frozen = {k: checksums.of_arrays(v) for k, v in state.frozen.items()}
    state = state.replace(frozen={})
    there = step in self._manager.all_steps()
    if there and step not in self._unreadable:
      return
    _check_finite(params)
    self.wait()
    with one_line('save checkpoint in', self.path):
      _check_space(self.path, (state, params))
      about = checksums.seal(
        {
          'format': FORMAT,
          'step': step,
          **about,
          'scores': json_scores(scores),
          'frozen': frozen,
          'checksums': {
            'state': checksums.of_arrays(state),
            'params': checksums.of_arrays(params),
          },
        }
      )
      if there:
        self._manager.delete(step)
        self._unreadable.remove(step)
      self._policy.add(step, scores or {})
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          params=ocp.args.StandardSave(params),
          about=ocp.args.JsonSave(about),
        ),
      )

  def restore(
    self, like: TrainState, frozen: Mapping[str, Any] = EMPTY
  ) -> TrainState | None:
    """Restores the newest intact state.

    If a checkpoint is damaged, a warning names it and the one before is read.

    Args:
      like: Abstract state with the shardings of this run's mesh.
      frozen: The frozen networks of the run by slot, to be put into the state.

    Returns:
      The state; None if the run has no checkpoint yet.

    Raises:
      UserError: All checkpoints are damaged, or the run was started with other
        frozen networks.
    """
    problems = []
    for step in reversed(self.steps()):
      try:
        state = self._restore(step, like, frozen)
      except UserError as error:
        problems.append(str(error))
        self._unreadable.add(step)
        continue
      for problem in problems:
        _log.warning('%s; resuming from step %d instead', problem, step)
      about = read_about(self.path / str(step))
      checksums.compare_frozen(about.get('frozen', {}), frozen)
      return state
    if problems:
      raise UserError(problems[0] + '; no older checkpoint is left')
    return None

  def _restore(
    self, step: int, like: TrainState, frozen: Mapping[str, Any]
  ) -> TrainState:
    folder = self.path / str(step)
    about = read_about(folder)
    apart = 'frozen' in about  # else frozen networks are part of the state
    without = like.replace(frozen={}) if apart else like
    with one_line('restore', folder):
      restored = self._manager.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore(without))
      )
    state = restored['state']
    compare_checksum(about, 'state', state, folder)
    return state.replace(frozen=place_frozen(frozen, like)) if apart else state

  def stored_frozen(self) -> dict[str, Any] | None:
    """Reads the frozen networks that checkpoints of version 0.1 contain.

    They are used if the file that the config names no longer exists.

    Returns:
      NumPy arrays by slot; None if the newest checkpoint contains no networks.
    """
    steps = self.steps()
    if not steps:
      return None
    folder = self.path / str(steps[-1])
    if 'frozen' in read_about(folder):
      return None
    with (
      one_line('read frozen networks of', folder),
      ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer,
    ):
      tree = checkpointer.metadata(folder / 'state').item_metadata.tree
      if not tree.get('frozen'):
        return None
      item = {
        'frozen': jax.tree.map(
          lambda m: np.empty(m.shape, m.dtype), tree['frozen']
        )
      }
      arrays = ocp.RestoreArgs(restore_type=np.ndarray)
      restored = checkpointer.restore(
        folder / 'state',
        args=ocp.args.PyTreeRestore(
          item=item,
          restore_args=jax.tree.map(lambda _: arrays, item),
          partial_restore=True,
        ),
      )
    return restored['frozen']

  def wait(self) -> None:
    """Waits until the last checkpoint is on disk.

    Raises:
      UserError: The checkpoint could not be written.
    """
    try:
      with one_line('save checkpoint in', self.path):
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
    except UserError:
      for unfinished in self.path.glob('*.orbax-checkpoint-tmp*'):
        shutil.rmtree(unfinished, ignore_errors=True)
      raise

  def close(self) -> None:
    """Finishes the last save and closes the folder.

    Raises:
      UserError: The last checkpoint could not be written.
    """
    with one_line('save checkpoint in', self.path):
      self._manager.close()


def _check_finite(params: Mapping[str, Any]) -> None:
  """Refuses parameters of a run that diverged.

  Raises:
    UserError: A parameter is NaN or infinite.
  """
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if not np.isfinite(jax.device_get(leaf)).all():
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      raise UserError(
        f'{name} is not finite and is not saved; the last checkpoint is kept;'
        ' lower config.optimizer.learning_rate or set'
        ' config.optimizer.clip_norm'
      )


def _check_space(folder: pathlib.Path, tree: Any) -> None:
  """Raises an error if the disk has no space for the arrays of a tree."""
  needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
  if shutil.disk_usage(folder).free < needed:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def has_checkpoints(workdir: pathlib.Path) -> bool:
  """Whether a workdir holds complete checkpoints of a run."""
  return bool(_step_folders(workdir / _FOLDER))


def stored_config(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns the config of the newest checkpoint whose config is intact."""
  for folder in reversed(_step_folders(workdir / _FOLDER)):
    with contextlib.suppress(UserError):
      return read_about(folder)['config']
  return None


def _step_folders(root: pathlib.Path) -> list[pathlib.Path]:
  """The folders of complete checkpoints, oldest first."""
  if not root.is_dir():
    return []
  steps = [path for path in root.iterdir() if path.name.isdigit()]
  return sorted(steps, key=lambda path: int(path.name))


def save_params(
  path: PathLike,
  params: Mapping[str, Any],
  config: Mapping[str, Any],
  protocol: Mapping[str, Any] | None = None,
  step: int | None = None,
) -> None:
  """Writes weights without a training state as a checkpoint folder.

  The folder appears whole or not at all.

  Args:
    path: The folder to make.
    params: Parameters by slot.
    config: Config with at least the sections `method` and `model`.
    protocol: Protocol of the scores in the config, if any.
    step: Number of training steps, if known.

  Raises:
    UserError: The folder exists or cannot be written.
  """
  about = checksums.seal(
    {
      'format': FORMAT,
      'step': step,
      'config': dict(config),
      'protocol': protocol,
      'checksums': {'params': checksums.of_arrays(params)},
    }
  )
  handler = ocp.CompositeCheckpointHandler()
  with (
    one_line('write', path),
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
  """Opens a checkpoint for inference, on any number of devices.

  Args:
    path: A workdir (its newest checkpoint is opened), the folder of one
      checkpoint, or a folder that `save_params` wrote.

  Raises:
    UserError: The path is no checkpoint, or the checkpoint is incomplete or
      damaged.
  """
  folder = _resolve(pathlib.Path(path).expanduser().absolute())
  about = read_about(folder)
  find_devices()  # Orbax needs devices, but its errors do not mention them
  with one_line('read checkpoint', folder):
    handler = ocp.CompositeCheckpointHandler(
      params=ocp.StandardCheckpointHandler(),
      # These items are not read, but Orbax warns of items without a handler.
      about=ocp.JsonCheckpointHandler(),
      state=ocp.StandardCheckpointHandler(),
      metrics=ocp.JsonCheckpointHandler(),
    )
    with ocp.Checkpointer(handler) as checkpointer:
      metadata = checkpointer.metadata(folder).item_metadata['params']
      if metadata is None:
        raise UserError(f'{folder}: its parameters are missing')
      # NumPy arrays as the target need no device of the run that saved them.
      like = jax.tree.map(lambda m: np.empty(m.shape, m.dtype), metadata.tree)
      restored = checkpointer.restore(
        folder,
        args=ocp.args.Composite(params=ocp.args.StandardRestore(like)),
      )
  compare_checksum(about, 'params', restored['params'], folder)
  return Loaded(
    config=about['config'],
    params=restored['params'],
    step=about.get('step'),
    protocol=about.get('protocol'),
    scores=stored_scores(folder),
  )


def _resolve(path: pathlib.Path) -> pathlib.Path:
  """Finds the folder of the checkpoint to which `path` refers."""
  if not path.exists():
    raise UserError(f'{path}: no such checkpoint')
  if about_file(path).is_file():
    return path
  root = path / _FOLDER if (path / _FOLDER).is_dir() else path
  steps = _step_folders(root)
  for i, step in enumerate(reversed(steps)):
    if about_file(step).is_file():
      if i:
        _log.warning(
          '%s is damaged: about/metadata is missing; step %s is taken instead',
          *(steps[-1], step.name),
        )
      return step
  raise UserError(
    f'{path} holds no complete checkpoint; give a workdir, a checkpoint folder'
    ' or a pretrained name'
  )
