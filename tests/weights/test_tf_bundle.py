"""TensorFlow 1 checkpoints read without TensorFlow: real and synthetic."""

from __future__ import annotations

import base64

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import tf_files as t
from tf_files import assert_equal, read

from sr_jax import checkpoints
from sr_jax.cli.main import main
from sr_jax.errors import UserError
from sr_jax.models import mzsr
from sr_jax.ops.resize import imresize
from sr_jax.weights.formats.tf_bundle import find_bundle
from sr_jax.weights.published import import_weights

# Written by TensorFlow 2.21's SaveV2 and MergeV2Checkpoints.
REAL = {
  '.index': """
    AAAGCAIaAggBAAgTYS9rZXJuZWwIARIIEgIIAhICCAMoGDXA2z0XAAYVYi9o
    YWxmCBMSCBICCAISAggDGAEoDDVDb3L/AgMTbnVtCAkSBBICCAQYASAMKCA1
    tP8C3wABD2MIAhIAGAEgLCgINWaLn3sAAAAAAQAAAACNWRbGAAAAAAEAAAAA
    wPKhsAABAmQAeQAAAAABAAAAAFTHcBF+CIsBDgAAAAAAAAAAAAAAAAAAAAAA
    AAAAAAAAAAAAAAAAAAAAAAAAV/uAiyR1R9s=""",
  '.data-00000-of-00002': 'AAAAAAAAgD8AAABAAABAQAAAgEAAAKBA',
  '.data-00001-of-00002': """
    AAAAPABAAEIARABFAAAAAAAAAAABAAAAAAAAAAIAAAAAAAAAAwAAAAAAAAAA
    AAAAAAAIQA==""",
}
SLOTS = ('', '/Adam', '/Adam_1', '/Adam_2', '/Adam_3')


def released(slots: int = 2, features: int = 4, depth: int = 8) -> dict:
  """Variables as MZSR's authors saved them, with fewer features."""
  rng = np.random.default_rng(0)
  widths = [3, *[features] * (depth - 1), 3]
  tensors = {}
  for i in range(1, depth + 1):
    shapes = {'kernel': (3, 3, *widths[i - 1 : i + 1]), 'bias': (widths[i],)}
    for leaf, shape in shapes.items():
      for slot in SLOTS[: slots + 1]:
        values = rng.normal(scale=0.2, size=shape).astype(np.float32)
        tensors[f'MODEL/conv{i}/{leaf}{slot}'] = values
  for name in ('beta1_power', 'beta2_power'):
    for suffix in ('', '_1')[: slots // 2]:
      tensors[name + suffix] = np.float32(0)
  tensors['global_step'] = np.int32(500_000)
  return tensors


@pytest.fixture
def write(tmp_path):
  """Writes a checkpoint and returns its name."""

  def write(tensors, **options):
    return t.write(tmp_path / 'Pretrained', t.checkpoint(tensors, **options))

  return write


def refusal(path, model='mzsr') -> str:
  """The error of importing a path."""
  with pytest.raises(UserError) as caught:
    import_weights(path, model=model, scale=2)
  return str(caught.value)


def test_checksum_of_the_writer():
  """The check value that catalogues of CRCs list."""
  assert t.crc32c(b'123456789') == 0xE3069283


def test_a_file_of_tensorflow(tmp_path):
  files = {k: base64.b64decode(v) for k, v in REAL.items()}
  contents = read(t.write(tmp_path / 'both', files))
  grid = np.arange(6).reshape(2, 3)
  expected = {
    'a/kernel': grid.astype(np.float32),
    'b/half': grid.astype(np.float16),
    'b/num': np.arange(4),
    'c': np.float64(3),
  }
  assert_equal(contents, expected)


@hypothesis.given(
  st.dictionaries(
    st.text(
      st.characters(exclude_categories=['Cs'], exclude_characters='\0'),
      min_size=1,
      max_size=8,
    ),
    hnp.arrays(
      st.sampled_from(list(t.TYPES)),
      hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
    min_size=1,
    max_size=6,
  ),
  st.integers(1, 3),
  st.integers(1, 4),
  st.integers(1, 4),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_round_trip_through_the_independent_writer(
  tmp_path_factory, tensors, shards, per_block, interval
):
  """One or many blocks, keys spelt out or not, several data files."""
  prefix = tmp_path_factory.mktemp('round') / 'model'
  files = t.checkpoint(
    tensors, shards=shards, per_block=per_block, interval=interval
  )
  assert_equal(read(t.write(prefix, files)), tensors)


@pytest.mark.parametrize('slots', [2, 4])
@pytest.mark.parametrize('options', [{}, {'per_block': 7, 'shards': 2}])
def test_mzsr_comes_through_whole(write, slots, options):
  tensors = released(slots)
  if slots == 4:
    tensors['stop_grad'] = np.bool_(False)
  assert len(tensors) == {2: 51, 4: 86}[slots]
  imported = import_weights(write(tensors, **options), model='mzsr', scale=4)
  assert imported.config == {
    'name': 'mzsr',
    'scale': 4,
    'options': {'channels': 3, 'features': 4, 'depth': 8},
  }
  for i in range(1, 9):
    for leaf in ('kernel', 'bias'):
      np.testing.assert_array_equal(
        imported.params[f'conv{i}'][leaf], tensors[f'MODEL/conv{i}/{leaf}']
      )
  counts = ', '.join(f'16 x {slot}' for slot in SLOTS[1 : slots + 1])
  powers = [name for name in tensors if name.startswith('beta')]
  assert imported.notes == [
    f'ignored, moments of the optimizer: {counts}',
    'ignored, state of the optimizer: ' + ', '.join(map(repr, sorted(powers))),
    "ignored, step of the training: 'global_step'",
    *(["ignored, switch of the training: 'stop_grad'"] * (slots == 4)),
  ]


def test_the_loaded_network_is_that_of_the_file(write):
  tensors = released()
  path = write(tensors)
  imported = import_weights(path, model='mzsr', scale=2)
  network = mzsr.Model(scale=2, **imported.config['options'])
  lr = np.random.default_rng(1).random((2, 7, 6, 3), np.float32)
  sr, _ = network.apply({'params': imported.params}, lr)
  x = enlarged = imresize(lr, scale=2)
  for i in range(1, 9):
    kernel, bias = (
      tensors[f'MODEL/conv{i}/{leaf}'] for leaf in ('kernel', 'bias')
    )
    x = jax.lax.conv_general_dilated(
      np.maximum(x, 0) if i > 1 else x,
      kernel,
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      precision='highest',
    ) + bias.reshape(1, 1, 1, -1)
  np.testing.assert_allclose(sr, enlarged + x, atol=2e-6)


def test_import_command(write, tmp_path, capsys, monkeypatch):
  path = write(released())
  monkeypatch.setattr(mzsr, 'METHOD', {'name': 'other'}, raising=False)
  command = ['import', str(path), '--model', 'mzsr', '-o']
  assert main([*command, str(tmp_path / 'x3'), '--scale', '3']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith(f'{path}: mzsr x3 (')
  assert len(lines) == 5
  stored = checkpoints.load_params(tmp_path / 'x3').config
  assert stored['method'] == {'name': 'other'}
  assert (stored['model']['name'], stored['model']['scale']) == ('mzsr', 3)
  monkeypatch.delattr(mzsr, 'METHOD')
  assert main([*command, str(tmp_path / 'x2'), '--scale', '2']) == 0
  stored = checkpoints.load_params(tmp_path / 'x2').config
  assert stored['method'] == {'name': 'supervised'}
  capsys.readouterr()
  assert main([*command, str(tmp_path / 'none')]) == 2
  assert capsys.readouterr().err == (
    f'sr-jax: error: {path}: does not determine scale; give it with --scale S\n'
  )


def test_unused_and_missing_variables_are_listed(write):
  tensors = released()
  del tensors['MODEL/conv3/bias']
  tensors['MODEL/other/kernel'] = np.zeros((5, 2), np.float32)
  tensors['MODEL/conv2/scale'] = np.zeros(4, np.float32)
  first, *lines = refusal(write(tensors)).split('\n')
  assert '5 tensors missing (-) or unused (+), as channels=3' in first
  # Moments of a variable that is not there are not taken for granted.
  assert sorted(lines) == [
    '+ MODEL/conv2/scale (4,)',
    '+ MODEL/conv3/bias/Adam (4,)',
    '+ MODEL/conv3/bias/Adam_1 (4,)',
    '+ MODEL/other/kernel (5, 2)',
    '- conv3/bias (4,)',
  ]


@pytest.mark.parametrize(
  ('name', 'value', 'reason'),
  [
    ('MODEL/conv1/bias', np.full(4, np.nan, np.float32), 'not finite'),
    ('MODEL/conv1/bias', np.zeros(4, np.int32), 'holds int32 numbers'),
    ('MODEL/conv1/bias', np.zeros(0, np.float32), 'holds no numbers'),
    ('MODEL/conv1/\tbias', np.zeros(4, np.float32), 'unusual name'),
  ],
)
def test_variables_that_cannot_be_meant(write, name, value, reason):
  path = write(released() | {name: value})
  message = refusal(path)
  assert message.startswith(f'{path}: ')
  assert reason in message
  assert '\n' not in message


def test_models_and_checkpoints_that_do_not_belong_together(write):
  path = write(released())
  assert refusal(path, model='edsr').startswith(
    f"{path}: tensor names such as 'MODEL/conv1/bias' are of none of the "
    'known schemes: this model has none'
  )
  path = write({'dense/kernel': np.zeros((2, 2), np.float32)})
  assert 'are of none of the known schemes: MZSR' in refusal(path)


PATHS = ('', '.index', '.meta', '.data-00000-of-00002', '.data-00001-of-00002')


@pytest.mark.parametrize('suffix', PATHS)
def test_every_file_means_its_checkpoint(write, suffix):
  tensors = {'a/kernel': np.float32([1]), 'b/kernel': np.float32([2])}
  path = write(tensors, shards=2)
  path.with_name(f'{path.name}.meta').write_bytes(b'a graph')
  assert_equal(read(f'{path}{suffix}'), tensors)


def test_a_folder_means_its_only_or_latest_checkpoint(tmp_path):
  for i in (1, 2):
    tensors = {'a': np.float32(i)}
    t.write(tmp_path / f'model-{i}', t.checkpoint(tensors))
    if i == 1:
      assert read(tmp_path) == tensors
  with pytest.raises(UserError, match=f'^{tmp_path}: holds 2 checkpoints; giv'):
    find_bundle(tmp_path)
  (tmp_path / 'checkpoint').write_text(
    'model_checkpoint_path: "/home/author/runs/model-1"\n'
    'all_model_checkpoint_paths: "/home/author/runs/model-2"\n'
  )
  assert read(tmp_path) == {'a': np.float32(1)}


@pytest.mark.parametrize(
  'name',
  [
    '../outside',
    '..\\outside',
    '/etc/passwd',
    '..',
    '../..',
    '/',
    'model-9',
    'a\nb',
    'a\0b',
    'x' * 5000,
    '\x1b[2J',
  ],
)
def test_the_checkpoint_file_leads_nowhere_else(tmp_path, name):
  t.write(tmp_path / 'outside', t.checkpoint({'a': np.float32(1)}))
  folder = tmp_path / 'folder'
  folder.mkdir()
  for i in (1, 2):
    t.write(folder / f'model-{i}', t.checkpoint({'a': np.float32(i)}))
  (folder / 'checkpoint').write_text(f'model_checkpoint_path: "{name}"\n')
  with pytest.raises(UserError) as caught:
    find_bundle(folder)
  message = str(caught.value)
  assert message.startswith(f'{folder}: ')
  assert message.isprintable()
  assert 'give the .index file you mean' in message


def test_a_folder_without_a_checkpoint(tmp_path):
  (tmp_path / 'a\nb.index').write_bytes(b'')
  (tmp_path / '.index').write_bytes(b'')
  assert refusal(tmp_path) == (
    f'{tmp_path}: is a folder without a TensorFlow checkpoint (NAME.index)'
  )


@pytest.mark.parametrize('missing', PATHS[1:2] + PATHS[3:])
@pytest.mark.parametrize('given', PATHS)
def test_a_missing_file_is_named(write, missing, given):
  tensors = {'a/kernel': np.float32([1]), 'b/kernel': np.float32([2])}
  path = write(tensors, shards=2)
  path.with_name(path.name + missing).unlink()
  assert refusal(f'{path}{given}') == (
    f'{path}{missing}: is missing; a checkpoint needs its .index and its '
    '.data files'
  )


def test_nothing_there(tmp_path):
  path = tmp_path / 'absent'
  assert refusal(path) == f'{path}: No such file or directory'
