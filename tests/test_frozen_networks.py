"""Frozen networks are not written into every checkpoint."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from sr_jax import checkpoints
from sr_jax.errors import UserError
from sr_jax.state import TrainState

CONFIG = {'method': {'name': 'gan'}, 'model': {'name': 'edsr', 'scale': 2}}
VGG = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
FROZEN = {'features': {'conv1_1': {'kernel': VGG}}}


def _state(step=1, frozen=FROZEN):
  return TrainState(
    step=jnp.asarray(step, jnp.int32),
    key=jax.random.key(0),
    params={'generator': {'w': jnp.arange(4.0) + step}},
    opt_state={'generator': (jnp.ones(2), jnp.asarray(step))},
    frozen=jax.tree.map(jnp.asarray, frozen),
  )


def _keeper(folder):
  return contextlib.closing(
    checkpoints.Keeper(folder, keep=2, keep_best=1, best_by={'psnr': False})
  )


def _saved(folder, step=1):
  with _keeper(folder) as keeper:
    state = _state(step)
    keeper.save(state, state.params, {'config': CONFIG}, None)


def _saved_by_the_version_before(folder):
  state = _state()
  with _keeper(folder) as keeper:
    keeper._manager.save(
      1,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        params=ocp.args.StandardSave(state.params),
        about=ocp.args.JsonSave({'format': 1, 'step': 1, 'config': CONFIG}),
      ),
    )


def _like():
  return jax.eval_shape(_state)


def _check_equal(a, b):
  equal = jax.tree.map(lambda x, y: bool((x == y).all()), a, b)
  assert all(jax.tree.leaves(equal))


def _size(folder):
  return sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())


def test_a_checkpoint_does_not_hold_them(tmp_path):
  _saved(tmp_path)
  assert _size(tmp_path) < VGG.nbytes / 2
  _saved_by_the_version_before(tmp_path / 'before')
  assert _size(tmp_path / 'before') > VGG.nbytes / 2


def test_a_resumed_state_holds_them_in_buffers_of_its_own(tmp_path):
  _saved(tmp_path)
  with _keeper(tmp_path) as keeper:
    assert keeper.stored_frozen() is None
    state = keeper.restore(_like(), FROZEN)
  _check_equal(state, _state())
  donated = jax.jit(lambda x: x, donate_argnums=0)(state)
  np.testing.assert_array_equal(
    donated.frozen['features']['conv1_1']['kernel'],
    FROZEN['features']['conv1_1']['kernel'],
  )


def test_other_weights_are_refused_and_no_older_step_is_taken(tmp_path):
  _saved(tmp_path)
  _saved(tmp_path, step=2)
  other = jax.tree.map(lambda x: x + 1e-3, FROZEN)
  with (
    _keeper(tmp_path) as keeper,
    pytest.raises(UserError, match=r'method\.features_from: gives other w'),
  ):
    keeper.restore(_like(), other)


def test_checkpoints_of_version_0_1_contain_frozen_networks(tmp_path):
  _saved_by_the_version_before(tmp_path)
  with _keeper(tmp_path) as keeper:
    stored = keeper.stored_frozen()
    state = keeper.restore(_like(), stored)
  jax.tree.map(np.testing.assert_array_equal, stored, FROZEN)
  _check_equal(state, _state())


def test_a_new_run_has_none_stored(tmp_path):
  with _keeper(tmp_path) as keeper:
    assert keeper.stored_frozen() is None
