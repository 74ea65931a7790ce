"""Checkpoints: the only folder that knows Orbax.

A run keeps `WORKDIR/checkpoints/STEP`, each an Orbax composite of

  state     the `TrainState`, for exact resume, without its frozen networks
  params    the inference parameters (the moving average if one is kept)
  about     JSON: config, protocol, scores, step, format version, checksums

Frozen networks such as VGG19 are the same in all checkpoints. A run reads them
again from where its config says, and their checksums tell whether these are
the ones that it began with.

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
    params: Inference parameters by slot, NumPy arrays.
    step: Updates done, None for weights that were imported.
    protocol: How the stored scores were measured, None without scores.
    scores: The stored scores by name; empty if there are none.
  """

  config: dict[str, Any]
  params: dict[str, Any]
  step: int | None
  protocol: dict[str, Any] | None
  scores: Mapping[str, float] = {}


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
      keep: How many of the newest checkpoints to keep, at least 1.
      keep_best: How many of the best to keep besides, for each of `best_by`.
      best_by: Names of scores given to `save`; true where lower is better.
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
    """Whether a checkpoint with these scores would be kept for one of them."""
    return self._policy.would_be_best(scores)

  def save(
    self,
    state: TrainState,
    params: Mapping[str, Any],
    about: Mapping[str, Any],
    scores: Mapping[str, float] | None,
  ) -> None:
    """Starts saving; a step that is already there is left as it is.

    One that `restore` could not read is replaced.

    Args:
      state: State to resume from.
      params: Parameters for inference, by slot.
      about: JSON values to store beside them, such as the config.
      scores: What `best_by` chooses from; None if this step has none. A score
        that is not finite is stored, but never counts as the best.

    Raises:
      UserError: the parameters are not finite, or this or the previous save
        could not be written; the checkpoints before it are intact.
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
    """The newest intact state, None if the run has no checkpoint yet.

    A damaged checkpoint is named in a warning and the one before it is taken.

    Args:
      like: Abstract state with the shardings of this run's mesh.
      frozen: The frozen networks of the run by slot, which join the state.

    Raises:
      UserError: there are checkpoints, but none is intact; or the run began
        with other frozen networks.
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
    apart = 'frozen' in about  # the version before kept them in the state
    without = like.replace(frozen={}) if apart else like
    with one_line('restore', folder):
      restored = self._manager.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore(without))
      )
    state = restored['state']
    compare_checksum(about, 'state', state, folder)
    return state.replace(frozen=place_frozen(frozen, like)) if apart else state

  def stored_frozen(self) -> dict[str, Any] | None:
    """Frozen networks that the version before kept in its checkpoints.

    They serve where the file that the config names is gone since.

    Returns:
      NumPy arrays by slot; None if the newest checkpoint holds none.
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
    """Waits until the last save is on disk.

    Raises:
      UserError: it could not be written.
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
    """Finishes and releases the folder.

    Raises:
      UserError: the last save could not be written.
    """
    with one_line('save checkpoint in', self.path):
      self._manager.close()


def _check_finite(params: Mapping[str, Any]) -> None:
  """Refuses parameters that a diverged run would leave behind.

  Raises:
    UserError: one of them is NaN or infinite.
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
  """Refuses to begin what cannot be finished."""
  needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
  if shutil.disk_usage(folder).free < needed:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def has_checkpoints(workdir: pathlib.Path) -> bool:
  """Whether a workdir holds complete checkpoints of a run."""
  return bool(_step_folders(workdir / _FOLDER))


def stored_config(workdir: pathlib.Path) -> dict[str, Any] | None:
  """The config in the newest checkpoint that has an intact one."""
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
  """Opens a checkpoint for inference, on any device count.

  Args:
    path: A workdir (its newest checkpoint), a checkpoint folder of a step, or
      a folder that `save_params` wrote.

  Raises:
    UserError: it is none of these, incomplete or damaged.
  """
  folder = _resolve(pathlib.Path(path).expanduser().absolute())
  about = read_about(folder)
  find_devices()  # Orbax asks for them, and its errors do not say so
  with one_line('read checkpoint', folder):
    handler = ocp.CompositeCheckpointHandler(
      params=ocp.StandardCheckpointHandler(),
      # Not read here, but Orbax warns of unknown items.
      about=ocp.JsonCheckpointHandler(),
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
  """The folder of one checkpoint that `path` means."""
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
