"""A workdir written by version 0.1 opens and resumes with the same results.

`golden/workdir_0_1/run.tar.gz` holds a tiny run of that version after two of
four steps, without its image strips; `state.npz` holds the state with which
that version ended the run.
"""

import pathlib
import tarfile

import jax
import numpy as np
import pytest

from sr_jax import checkpoints, train_loop
from tests import tiny

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'workdir_0_1'


@pytest.fixture
def workdir(tmp_path):
  with tarfile.open(GOLDEN / 'run.tar.gz') as archive:
    archive.extractall(tmp_path, filter='data')
  return tmp_path


def _config():
  """The config of the old run, as its config file gives it today."""
  optimizer = {'schedule': 'step', 'boundaries': (3,), 'clip_norm': 1.0}
  config = tiny.config(
    optimizer={**optimizer, 'warmup_steps': 2},
    eval={'every': 2},
    # It did not exist then, and its default is not what was done.
    data={'margin': True},
  )
  assert config.steps == 4
  return config


def test_a_workdir_of_the_version_before_resumes_exactly(workdir, caplog):
  assert checkpoints.load_params(workdir).step == 2
  state = train_loop.train_and_evaluate(_config(), workdir)
  assert 'data.margin: the run began without this setting' in caplog.text
  state = state.replace(key=jax.random.key_data(state.key))
  ours = {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }
  with np.load(GOLDEN / 'state.npz') as theirs:
    assert ours.keys() == set(theirs.files)
    for name in theirs.files:
      # Other processors round convolutions differently.
      np.testing.assert_allclose(
        ours[name], theirs[name], rtol=1e-4, atol=1e-7, err_msg=name
      )
  assert checkpoints.load_params(workdir).step == 4


def test_damaged_scores_of_the_version_before_do_not_block(workdir):
  """T9: a damaged score file of Orbax prevented the run from resuming."""
  scores = workdir / 'checkpoints' / '2' / 'metrics' / 'metrics'
  scores.write_text('{"psnr": 12.')
  keeper = checkpoints.Keeper(
    workdir, keep=1, keep_best=1, best_by={'psnr': False}
  )
  assert keeper.steps() == [2]
  keeper.close()
