"""Contents of MATLAB files, as scipy writes them."""

from __future__ import annotations

import numpy as np


def cells(values):
  array = np.empty((1, len(values)), object)
  for i, value in enumerate(values):
    array[0, i] = value
  return array


def matconvnet(tensors):
  """The struct of a MatConvNet DAG; trailing axes of size 1 are dropped."""
  kinds = [('name', 'O'), ('value', 'O'), ('learningRate', 'O')]
  params = np.empty((1, len(tensors)), kinds)
  for i, (name, value) in enumerate(tensors.items()):
    while value.ndim > 2 and value.shape[-1] == 1:
      value = value[..., 0]
    params[0, i] = (name, value, 1.0)
  return {'net': {'params': params, 'layers': 'left out'}, 'stats': [1.0]}
