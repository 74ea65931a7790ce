"""Every golden file of a released network: the importer, then its outputs.

Made under PyTorch 2.13 (MatConvNet's by NumPy) of the code that each file
names; `python -m benchmarks.parity` prints the differences.
"""

from __future__ import annotations

import pytest

from tests import golden_files, parity
from tests.nightly import nightly

_METAS = {
  path.stem: golden_files.load_meta(path.stem)
  for path in sorted(golden_files.GOLDEN.glob('*.npz'))
}
# The smallest files of these architectures take long, too.
SLOW = ['carn_m_multi', 'rrdbnet_interp_alpha08']
FILES = [f for f in _METAS if _METAS[f].get('system') in parity.SYSTEMS]


def _system(file):
  return parity.SYSTEMS[_METAS[file]['system']].model


def _by_default(file):
  """Whether the file is the smallest of its architecture, and not slow."""
  same = [other for other in FILES if _system(other) == _system(file)]
  counts = {other: sum(_METAS[other]['n_params'].values()) for other in same}
  return file == min(same, key=counts.get) and file not in SLOW


@pytest.mark.parametrize(
  'file', [file if _by_default(file) else nightly(file) for file in FILES]
)
def test_parity_with_released_code(tmp_path, file):
  golden = golden_files.load(file)
  compared = set()
  for name, image in parity.images(golden, tmp_path):
    golden.check(name, image)
    compared.add(name)
  # All but what was tapped within the network, and those of training.
  whole = {n for n in golden.outputs if golden.outputs[n].shape[-1] in (1, 3)}
  inner = ('tap:', 'train:', 'raw_', 'pos_', 'mask_')
  assert compared == {n for n in whole if not n.startswith(inner)}


def test_every_system_has_a_file():
  # Of LapSRN's MATLAB files the larger scale is there.
  found = {golden_files.load_meta(file)['system'] for file in FILES}
  assert {*parity.SYSTEMS} - found == {'lapsrn_mat_x4_small'}
