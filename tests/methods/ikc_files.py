"""IKC's networks from golden files of the released code."""

import numpy as np

from sr_jax.weights.companions import import_companion
from sr_jax.weights.published import import_weights
from tests import golden_files
from tests.weights import torch_files


def written(path, state_dict):
  """The weights as PyTorch's file."""
  path.write_bytes(torch_files.state_dict(state_dict))
  return path


def arrays(name):
  """The arrays of a golden file that has no images."""
  with np.load(golden_files.GOLDEN / f'ikc_{name}.npz') as data:
    return {key: data[key] for key in data.files if key != 'meta'}


def files(folder, scale=4):
  """Files of SFTMD with one block, of the predictor and of the corrector."""
  names = {
    'sftmd': f'sftmd_x{scale}_nb1_formula',
    'predictor': 'predictor_full_formula',
    'corrector': 'corrector_full_formula',
  }
  return {
    slot: written(
      folder / f'{slot}.pth', golden_files.load(f'ikc_{name}').state_dict
    )
    for slot, name in names.items()
  }


def sftmd(folder, scale):
  """Config and parameters of SFTMD with one block."""
  imported = import_weights(files(folder, scale)['sftmd'], model='ikc')
  config = imported.config
  model = {'name': 'ikc', 'scale': config['scale'], **config['options']}
  return model, imported.params


def released(folder):
  """Config and parameters of all networks at x4, and the published basis."""
  model, generator = sftmd(folder, 4)
  paths = files(folder)
  params = {'generator': generator}
  for slot in ('predictor', 'corrector'):
    params[slot], _ = import_companion(paths[slot], 'ikc', slot)
  return {'method': {'name': 'kernel_correction'}, 'model': model}, params
