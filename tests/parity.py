"""Compares golden files of released networks with imported networks.

The weights are written under their official names as a `.pth` or `.mat` file,
and the importer recognises all options that it can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import scipy.io

from sr_jax import models
from sr_jax.models import drn
from sr_jax.weights.published import Imported, import_duals, import_weights
from tests.golden_files import Golden
from tests.weights import mat_files, torch_files


@dataclasses.dataclass(frozen=True)
class Case:
  """One import, and what it must give.

  Attributes:
    outputs: The file's names of the images, smallest first.
    given: Arguments of `import_weights` that do not follow from the weights.
    weights: Share of each of the file's state_dicts; '' is the main one.
  """

  outputs: tuple[str, ...]
  given: dict[str, Any] = dataclasses.field(default_factory=dict)
  weights: dict[str, float] = dataclasses.field(
    default_factory=lambda: {'': 1.0}
  )


class System(NamedTuple):
  """A released code.

  Attributes:
    model: Name of its network in `sr_jax.models`.
    cases: The imports of a golden file that are compared.
    matlab: Whether its weights are MATLAB's.
  """

  model: str
  cases: Callable[[Golden], list[Case]] = lambda golden: [Case(('y',))]
  matlab: bool = False


def _edsr(golden):
  scale = golden.meta['config']['args']['res_scale']
  return [Case(('y',), {'options': {'residual_scale': scale}})]


def _carn(golden):
  if not golden.meta['config']['args'].get('multi_scale'):
    return [Case(('y',))]
  return [Case((f'y{scale}',), {'scale': scale}) for scale in (2, 3, 4)]


def _levels(golden):
  names = [f'y{i}' for i in range(len(golden.outputs))]
  return [Case(tuple(name for name in names if name in golden.outputs))]


def _srfbn(golden):
  (case,) = _levels(golden)
  steps = golden.meta['config']['args']['num_steps']
  return [Case(case.outputs, {'options': {'steps': steps}})]


def _metasr(golden):
  names = [name for name in golden.outputs if name.startswith('y_s')]
  return [Case((name,), {'scale': float(name[3:])}) for name in names]


def _matconvnet(golden):
  names = [name for name in golden.outputs if name.endswith('_output')]
  return [Case(tuple(sorted(names, reverse=True)))]


def _interpolated(golden):
  alpha = golden.meta['config']['alpha']
  shares = {'psnr': 1 - alpha, 'gan': alpha}
  return [
    Case(('interp',), weights=shares),
    *(Case((name,), weights={name: 1.0}) for name in shares),
  ]


# By the first words of what a file calls its system.
SYSTEMS = {
  'basicsr_edsr': System('edsr', _edsr),
  'basicsr_rcan': System('rcan'),
  'carn': System('carn', _carn),
  'carn_m': System('carn', _carn),
  'drn': System('drn', _levels),
  'edsr': System('edsr', _edsr),
  'lapsrn_mat_x4_small': System('lapsrn', _matconvnet, matlab=True),
  'lapsrn_mat_x8_small': System('lapsrn', _matconvnet, matlab=True),
  'lapsrn_py': System('lapsrn', _levels),
  'metaedsr': System('metasr', _metasr),
  'metardn': System('metasr', _metasr),
  'msrresnet': System('msrresnet'),
  'rcan': System('rcan'),
  'rrdbnet': System('rrdbnet'),
  'rrdbnet_interp': System('rrdbnet', _interpolated),
  'san': System('san'),
  'srfbn': System('srfbn', _srfbn),
  'srnet': System('srnet'),
  # Its input is enlarged already.
  'vdsr': System('vdsr', lambda golden: [Case(('y',), {'scale': 1})]),
}


def images(golden: Golden, folder: Any) -> Iterator[tuple[str, Any]]:
  """Images that this package makes of a golden file, by names of its outputs.

  Args:
    golden: A file of one of `SYSTEMS`.
    folder: Takes the written weights.
  """
  system = SYSTEMS[golden.meta['system']]
  (lr,) = golden.inputs.values()
  for case in system.cases(golden):
    trees, stats = [], {}
    for name in case.weights:
      path = _written(golden, name, system, folder)
      imported = import_weights(path, model=system.model, **case.given)
      trees.append(imported.params)
      if imported.batch_stats:
        stats = {'batch_stats': imported.batch_stats}
    params = _mixed(trees, list(case.weights.values()))
    network = models.create(
      {
        'name': system.model,
        'scale': imported.config['scale'],
        **imported.config['options'],
      }
    )
    sr, aux = jax.jit(network.apply)({'params': params, **stats}, lr)
    ours = (*aux.get('outputs', ()), sr)
    yield from zip(case.outputs, ours, strict=False)
    if 'residual' in aux:
      yield 's_label', aux['residual']
  if 'dual0' in golden.others:
    yield from _dual_images(golden, imported, folder)


def _mixed(trees: list[Any], shares: list[float]) -> Any:
  """Sum of parameter trees, each times its share."""
  return jax.tree.map(
    lambda *leaves: sum(
      share * leaf for share, leaf in zip(shares, leaves, strict=True)
    ),
    *trees,
  )


def _dual_images(
  golden: Golden, imported: Imported, folder: Any
) -> Iterator[tuple[str, Any]]:
  """The outputs of DRN's dual networks for the released code's images."""
  path = folder / 'dual.pt'
  duals = [golden.others[name] for name in sorted(golden.others)]
  path.write_bytes(torch_files.list_of_state_dicts(duals))
  network = drn.Dual(features=imported.config['options']['features'])
  for i, params in enumerate(import_duals(path, imported).values()):
    large = golden.outputs[f'y{i + 1}'] / golden.value_range
    yield f'dual{i}', network.apply({'params': params}, large)


def _written(golden: Golden, name: str, system: System, folder: Any) -> Any:
  tensors = golden.others[name] if name else golden.state_dict
  if system.matlab:
    path = folder / f'{name}.mat'
    scipy.io.savemat(path, mat_files.matconvnet(tensors))
    return path
  path = folder / f'{name}.pth'
  path.write_bytes(torch_files.state_dict(tensors))
  return path
