"""KernelGAN's golden files: its tensors as parameters of this package."""

import numpy as np

from tests.golden_files import GOLDEN

_LAYERS = ('first_layer', *(f'feature_block.{i}' for i in range(4)))
GENERATOR = {
  f'layer_{i}': name for i, name in enumerate((*_LAYERS, 'final_layer'))
}
# Layers of the discriminator, and its normalisations.
DENSE = {
  'patches': 'first_layer',
  **{f'layer_{i}': f'feature_block.{3 * i}' for i in range(5)},
  'answer': 'final_layer.0',
}
NORMS = {f'norm_{i}': f'feature_block.{3 * i + 1}' for i in range(5)}


def arrays(name, part):
  """The arrays `PART:...` of a file, without that word."""
  with np.load(GOLDEN / f'kernelgan_{name}.npz') as file:
    return {
      key.removeprefix(f'{part}:'): file[key]
      for key in file.files
      if key.startswith(f'{part}:')
    }


def generator(tensors, prefix=''):
  """Parameters of the generator, of PyTorch's OIHW tensors."""
  return {
    ours: tensors[f'{prefix}{theirs}.weight'].transpose(2, 3, 1, 0)
    for ours, theirs in GENERATOR.items()
  }


def discriminator(tensors, prefix=''):
  """Parameters of the discriminator, and its singular vectors."""
  params, spectral = {}, {}
  for ours, theirs in DENSE.items():
    weight = tensors[f'{prefix}{theirs}.weight_orig']
    outputs = len(weight)
    params[ours] = {
      'kernel': weight.transpose(2, 3, 1, 0).reshape(-1, outputs),
      'bias': tensors[f'{prefix}{theirs}.bias'],
    }
    v = tensors[f'{prefix}{theirs}.weight_v'].reshape(weight.shape[1:])
    spectral[ours] = {
      'u': tensors[f'{prefix}{theirs}.weight_u'],
      'v': v.transpose(1, 2, 0).reshape(-1),
    }
  for ours, theirs in NORMS.items():
    params[ours] = {
      'scale': tensors[f'{prefix}{theirs}.weight'],
      'bias': tensors[f'{prefix}{theirs}.bias'],
    }
  return params, spectral
