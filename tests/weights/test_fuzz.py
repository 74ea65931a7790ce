"""Damaged files of every format: read whole, or refused in one line."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import scipy.io

from sr_jax.weights.formats.mat_file import read_mat
from sr_jax.weights.formats.safetensors_io import read_safetensors
from sr_jax.weights.formats.torch_pickle import read_tensors
from tests.weights import mutations
from tests.weights import torch_files as t
from tests.weights.mat_files import cells, matconvnet

TORCH = Path(__file__).parents[1] / 'golden' / 'torch'
ARRAYS = {
  'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
  'b': np.ones(3, np.float16),
}
NETWORK = matconvnet(
  {
    'input_conv_f': np.arange(18, dtype=np.float32).reshape(3, 3, 2),
    'input_conv_b': np.ones((2, 1), np.float32),
  }
)
LAYERS = {
  'model': {
    'weight': cells([np.eye(3)] * 2),
    'bias': cells([np.ones((3, 1))] * 2),
  }
}


def _mat(variables, **options):
  buffer = io.BytesIO()
  scipy.io.savemat(buffer, variables, **options)
  return buffer.getvalue()


def _real(name):
  """A file of a few kilobytes that PyTorch wrote."""
  return (TORCH / f'{name}.pth').read_bytes()


FILES = {
  'zip': (read_tensors, t.state_dict(ARRAYS)),
  'legacy': (read_tensors, t.state_dict(ARRAYS, legacy=True)),
  'zip of PyTorch': (read_tensors, _real('mixed_zip')),
  'legacy of PyTorch': (read_tensors, _real('mixed_legacy')),
  'module in a zip': (read_tensors, _real('module_zip')),
  'module in a legacy file': (read_tensors, _real('module_legacy')),
  'list of state_dicts': (read_tensors, t.list_of_state_dicts([ARRAYS] * 2)),
  'MatConvNet': (read_mat, _mat({'net': NETWORK['net']})),
  'MatConvNet compressed': (read_mat, _mat(NETWORK, do_compression=True)),
  'cells': (read_mat, _mat(LAYERS)),
  'safetensors': (read_safetensors, safetensors.numpy.save(ARRAYS)),
}


@pytest.mark.parametrize('name', FILES)
def test_whole(tmp_path, name):
  read, data = FILES[name]
  assert not mutations.refusal(read, tmp_path / 'file', data)


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize(
  'count', [20, pytest.param(60, marks=pytest.mark.nightly)]
)
def test_cut_short_anywhere(tmp_path, name, count):
  read, data = FILES[name]
  rng = np.random.default_rng(0)
  for length in rng.choice(len(data), count, replace=False):
    cut = data[:length]
    assert mutations.refusal(read, tmp_path / 'file', cut), length


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize(
  'count', [30, pytest.param(120, marks=pytest.mark.nightly)]
)
def test_damaged_anywhere(tmp_path, name, count):
  """Damage of numbers or names may go unseen, but causes no other error."""
  read, data = FILES[name]
  rng = np.random.default_rng(0)
  refused = 0
  for _ in range(count):
    damaged = mutations.mutated(data, rng)
    refused += mutations.refusal(read, tmp_path / 'file', damaged) != ''
  assert refused > count // 2
