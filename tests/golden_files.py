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
    state_dict: Tensors by their official names, in PyTorch's layout.
    inputs: NHWC in [0, 1], by name.
    outputs: The same of the official code, in its own value range.
    meta: What the file tells of itself.
  """

  state_dict: dict[str, np.ndarray]
  inputs: dict[str, np.ndarray]
  outputs: dict[str, np.ndarray]
  meta: dict

  @property
  def value_range(self):
    return self.meta['config']['range'][1]

  def write(self, path):
    """The weights as a file for the importer."""
    save_file(
      {k: np.ascontiguousarray(v) for k, v in self.state_dict.items()}, path
    )
    return path

  def check(self, name, sr):
    """Compares [0, 1] `sr` with an output, within the noise of float32."""
    expected = self.outputs[name]
    difference = np.abs(np.asarray(sr) * self.value_range - expected).max()
    # What the released code's own float32 output is off its float64 one.
    noise = self.meta['f32_vs_f64_maxabs'][name]
    assert difference < 1e-4 * self.value_range
    assert difference < 20 * noise + 2e-6 * np.abs(expected).max()


def load(name):
  """The golden file of this name."""
  data = np.load(GOLDEN / f'{name}.npz')
  meta = json.loads(str(data['meta']))
  parts = {'sd': {}, 'in': {}, 'out': {}}
  for key in set(data.files) - {'meta'}:
    part, _, rest = key.partition(':')
    parts[part][rest] = data[key]
  names = [key[3:] for key in data.files if key.startswith('sd:')]
  state_dict = {key: parts['sd'][key] for key in names}
  if meta['weights'] == 'formula':
    state_dict = _by_formula(meta, state_dict)
  range_ = np.float32(meta['config']['range'][1])
  return Golden(
    state_dict,
    {k: _channels_last(v) / range_ for k, v in parts['in'].items()},
    {k: _channels_last(v) for k, v in parts['out'].items()},
    meta,
  )


def _channels_last(array):
  return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


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
