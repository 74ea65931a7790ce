"""Arrays of tests/golden: weights, inputs and outputs of released networks.

Weights that are given by a formula are made of a hash of their position, so
that a full-size network fits a small file.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parent / 'golden'


class Golden(NamedTuple):
  """One file.

  Attributes:
    state_dict: Tensors by their official names, in PyTorch's layout or
      MATLAB's.
    others: Further ones by name: `dual0`, ... or what was interpolated.
    inputs: NHWC in [0, 1], by name.
    outputs: The same of the official code, in its own value range; after a
      step in training also running statistics, under `train_bn:`.
    meta: The description that the file carries.
  """

  state_dict: dict[str, np.ndarray]
  others: dict[str, dict[str, np.ndarray]]
  inputs: dict[str, np.ndarray]
  outputs: dict[str, np.ndarray]
  meta: dict

  @property
  def value_range(self):
    return _value_range(self.meta)

  def write(self, path):
    """The weights as a file for the importer."""
    save_file(
      {k: np.ascontiguousarray(v) for k, v in self.state_dict.items()}, path
    )
    return path

  def difference(self, name, sr):
    """Largest difference of [0, 1] `sr` from an output, in its value range."""
    expected = self.outputs[name]
    height, width = expected.shape[1:3]
    # Meta-SR's released code rounds sizes down.
    ours = np.asarray(sr)[:, :height, :width]
    return np.abs(ours * self.value_range - expected).max()

  def allowed(self, name):
    """What the difference may be: within the noise of float32."""
    largest = np.abs(self.outputs[name]).max()
    # What the released code's own float32 output is off its float64 one.
    noise = self.meta.get('f32_vs_f64_maxabs', {}).get(name)
    if noise is None:
      return 2e-5 * largest
    return min(1e-4 * self.value_range, 20 * noise + 2e-6 * largest)

  def check(self, name, sr):
    """Compares [0, 1] `sr` with an output."""
    assert self.difference(name, sr) < self.allowed(name)


def load(name, folder=GOLDEN):
  """The golden file of this name."""
  data = np.load(folder / f'{name}.npz')
  meta = load_meta(name, folder)
  parts = {'sd': {}, 'in': {}, 'out': {}}
  for key in data.files:
    part, _, rest = key.partition(':')
    if part != 'meta':
      parts.setdefault(part, {})[rest] = data[key]
  state_dict = parts.pop('sd')
  if meta['weights'] == 'formula':
    state_dict = _by_formula(meta, state_dict)
  inputs, outputs = parts.pop('in'), parts.pop('out')
  range_ = np.float32(_value_range(meta))
  return Golden(
    state_dict,
    {k.removeprefix('sd_'): v for k, v in parts.items()},
    {k: _nhwc(v, meta) / range_ for k, v in inputs.items()},
    {k: _nhwc(v, meta) for k, v in outputs.items()},
    meta,
  )


def load_meta(name, folder=GOLDEN):
  """The description that a golden file carries; its arrays are not read."""
  with np.load(folder / f'{name}.npz') as data:
    return json.loads(str(data['meta']))


def _value_range(meta):
  return meta['config'].get('range', meta.get('range'))[1]


def _nhwc(array, meta):
  """Images of PyTorch `[B, C, H, W]`, or of MATLAB `[H, W]`."""
  if array.ndim == 4:
    return array.transpose(0, 2, 3, 1)
  matlab = meta['system'].startswith('lapsrn_mat')
  return array[None, ..., None] if matlab and array.ndim == 2 else array


def _by_formula(meta, kept):
  formula, tensors = meta['config']['formula'], {}
  for position, (key, shape) in enumerate(meta['state_dict']['main']):
    if key in kept:
      tensors[key] = kept[key]
      continue
    layer, _, leaf = key.rpartition('.')
    values = _hashed(math.prod(shape), position)
    if leaf == 'running_var' or (
      leaf == 'weight'
      and [f'{layer}.running_mean', shape] in meta['state_dict']['main']
    ):
      values = 1 + 0.2 * values
    elif leaf == 'running_mean':
      values *= 0.1
    elif len(shape) > 1:
      values *= formula['amp'] * math.sqrt(3 / math.prod(shape[1:]))
    else:
      values *= formula.get('bias_amp', 0.1)
    tensors[key] = values.reshape(shape).astype(np.float32)
    if leaf == 'num_batches_tracked':
      tensors[key] = np.zeros(shape, np.int64)
  return tensors


def tensorflow_arrays(meta, group):
  """Arrays of a TensorFlow network by formula, in the order of its layers."""
  arrays = []
  for position, (key, shape) in enumerate(meta['state_dict'][group]):
    values = _hashed(math.prod(shape), position)
    leaf = key.rpartition('/')[2]
    if leaf in ('gamma:0', 'moving_variance:0'):
      values = 1 + 0.2 * values
    elif len(shape) > 1:
      amp = meta['config']['formula']['amp']
      values *= amp * math.sqrt(3 / math.prod(shape[:-1]))
    else:
      values *= 0.1
    arrays.append(values.reshape(shape).astype(np.float32))
  return arrays


def _hashed(count, position):
  """Numbers in [-1, 1) by a 32-bit hash of their index."""
  mask = np.uint64(0xFFFFFFFF)
  start = np.uint64(position * 2654435769 % 2**32)
  h = (np.arange(count, dtype=np.uint64) + start) & mask
  h ^= h >> np.uint64(16)
  h = (h * np.uint64(0x7FEB352D)) & mask
  h ^= h >> np.uint64(15)
  h = (h * np.uint64(0x846CA68B)) & mask
  h ^= h >> np.uint64(16)
  return h.astype(np.float64) / 2**31 - 1
