"""TensorFlow 1 checkpoints, read without TensorFlow: real and written ones."""

from __future__ import annotations

import base64
import struct
import time
import tracemalloc

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import tf_files as t

from sr_jax import checkpoints
from sr_jax.cli.main import main
from sr_jax.errors import UserError
from sr_jax.models import mzsr
from sr_jax.ops.resize import imresize
from sr_jax.weights.formats.tf_bundle import find_bundle, read_bundle
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
  """Writes a checkpoint and gives its name."""

  def write(tensors, **options):
    return t.write(tmp_path / 'Pretrained', t.checkpoint(tensors, **options))

  return write


def read(path) -> dict:
  """Variables of the checkpoint that a path means."""
  prefix = find_bundle(path)
  assert prefix is not None
  return read_bundle(prefix)


def assert_equal(contents, tensors):
  assert sorted(contents) == sorted(tensors)
  for name, array in tensors.items():
    assert contents[name].dtype == array.dtype, name
    assert contents[name].shape == array.shape, name
    np.testing.assert_array_equal(contents[name], array, err_msg=name)


def refusal(path, model='mzsr') -> str:
  """What the import says against a path."""
  with pytest.raises(UserError) as caught:
    import_weights(path, model=model, scale=2)
  return str(caught.value)


def test_checksum_of_the_writer():
  """The check value of every catalogue of CRCs."""
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
    f'sr-jax: error: {path}: does not tell scale; give it with --scale\n'
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


def hostile(tmp_path, index: bytes, *data: bytes) -> str:
  """The line against a checkpoint, given in little time and memory."""
  files = {
    f'.data-{i:05}-of-{len(data):05}': content for i, content in enumerate(data)
  }
  path = t.write(tmp_path / 'hostile', {'.index': index, **files})
  start = time.process_time()
  tracemalloc.start()
  try:
    with pytest.raises(UserError) as caught:
      read(path)
  finally:
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
  assert peak < 2 * sum(map(len, (index, *data))) + 50e6
  assert time.process_time() - start < 20
  message = str(caught.value)
  assert message.startswith(f'{path}.')
  assert message.isprintable()
  return message.removeprefix(f'{path}')


# Each declares something that four bytes of data do not bear out.
ENTRIES = {
  'size': (
    t.entry((1,), 2**62),
    'float32 of shape (1,) in 4611686018427387904',
  ),
  'shape': (t.entry((2**62,), 4), 'a shape of impossible sizes'),
  'shape and size': (t.entry((2**60,), 2**62), 'has 4 bytes, and its index'),
  'product': (t.entry((2**32, 2**32), 0), 'a shape of impossible sizes'),
  'product with 0': (t.entry((2**62, 2**62, 0), 0), 'a shape of impossible'),
  'negative size': (t.entry((1,), -4), 'the negative number -4'),
  'negative shape': (t.entry((-1, -1), 4), 'the negative number -1'),
  'negative offset': (t.entry((1,), 4, offset=-4), 'the negative number -4'),
  'far offset': (t.entry((1,), 4, offset=2**62), 'has 4 bytes, and its index'),
  'near offset': (t.entry((1,), 4, offset=1), 'and its index describes 5'),
  'shard': (t.entry((1,), 4, shard=1), 'in data file 1 of 1'),
  'negative shard': (t.entry((1,), 4, shard=-1), 'the negative number -1'),
  'rank': (t.entry((1,) * 33, 4), 'repeated too often'),
  'unknown rank': (
    t.field(1, 1) + t.field(2, t.field(3, 1)) + t.field(5, 4),
    'a shape that is not known',
  ),
  'strings': (t.entry((1,), 4, kind=7), "'a': is of the TensorFlow type 7"),
  'no type': (b'', 'is of the TensorFlow type 0'),
  'checksum': (t.entry((1,), 4, checksum=1), "'a' has a wrong checksum"),
  'bytes for a number': (t.field(4, b'x'), 'a field of type 2 for 0'),
  'long field': (b'\x12\xff\x01x', 'a field of impossible type or length'),
  'group': (b'\x7b', 'a field of impossible type or length'),
  'cut number': (b'\x08', 'a number without end'),
  'long number': (b'\x08' + b'\xff' * 10 + b'\1', 'a number without end'),
  'large number': (b'\x08' + b'\xff' * 9 + b'\x7f', 'a number without end'),
}


@pytest.mark.parametrize('name', ENTRIES)
def test_entries_that_are_not_borne_out(tmp_path, name):
  message, reason = ENTRIES[name]
  assert reason in hostile(tmp_path, t.index({'a': message}), bytes(4))


def test_unknown_fields_are_skipped(tmp_path):
  """As protocol buffers have it; here of each wire type."""
  more = t.field(20, 1) + t.field(21, b'x') + t.field(22, 1, fixed=True)
  more += t.varint(8 * 23 + 1) + bytes(8)
  entry = t.entry((1,), 4) + more
  files = {'.index': t.index({'a': entry}), '.data-00000-of-00001': bytes(4)}
  assert read(t.write(tmp_path / 'x', files)) == {'a': np.float32([0])}


def test_variables_that_share_their_bytes(tmp_path):
  entries = {f'{i:04}': t.entry((250_000,), 1_000_000) for i in range(1000)}
  message = hostile(tmp_path, t.index(entries), bytes(1_000_000))
  assert "'0001' lies over another variable" in message


def raw_table(*blocks: bytes) -> bytes:
  """A table of these blocks."""
  return t.table({bytes([i + 1]): content for i, content in enumerate(blocks)})


def table_of(items: dict[bytes, bytes]) -> bytes:
  """A table of one block."""
  return raw_table(t.block(items))


NONE = t.entry((0,), 0)
HEADER = {b'': t.header()}
HEAD, TAIL = t.block(HEADER)[:-8], t.block(HEADER)[-8:]
LONG = HEAD + b'\0\xc8\1' + t.varint(len(NONE)) + b'0' * 200 + NONE
SMALL = [
  b'\xc3\1\5' + t.varint(len(NONE)) + f'{i:05}'.encode() + NONE
  for i in range(1, 25_000)
]
NO_INDEX = 'is cut short or no index of a TensorFlow checkpoint'
TABLES = {
  'nothing in it': (raw_table(), 'its table has no header'),
  'no header': (table_of({b'a': NONE}), 'its table has no header'),
  'no variables': (table_of(HEADER), 'holds no variables'),
  'a wrong header': (table_of({b'': t.field(1, b'x')}), 'a field of type 2'),
  'no data files': (t.index({'a': NONE}, shards=0), '0 data files'),
  'many data files': (t.index({'a': NONE}, 10**5), '100000 data files'),
  'negative data files': (t.index({'a': NONE}, -1), 'the negative number -1'),
  'one name twice': (raw_table(HEAD + TAIL, HEAD + TAIL), 'are not in order'),
  'no order': (
    table_of({**HEADER, b'b': NONE, b'a': NONE}),
    'its names are not in order',
  ),
  'no text': (table_of({**HEADER, b'\xff': NONE}), 'a name that is no text'),
  'slices': (table_of({**HEADER, b'\0\1a': b''}), 'holds slices'),
  'no restarts': (raw_table(b''), 'a block of impossible length'),
  'many restarts': (raw_table(b'\xff' * 4), 'a block of impossible length'),
  'shared with nothing': (raw_table(b'\5\0\0' + TAIL), 'an entry of impossib'),
  'long rest': (raw_table(b'\0\x7f\0' + TAIL), 'an entry of impossible'),
  'long value': (raw_table(b'\0\0\x7f' + TAIL), 'an entry of impossible'),
  'long name': (
    raw_table(b'\0\xff\1\0' + b'a' * 255 + TAIL),
    'a name of impossible length',
  ),
  'growing names': (
    raw_table(LONG + b'\xc8\1\1\0a' * 1000 + TAIL),
    'a name of impossible length',
  ),
  'many long names': (
    raw_table(LONG + b''.join(SMALL) + TAIL),
    'has more than 20000 variables',
  ),
  'zeros': (bytes(48), NO_INDEX),
  'nothing': (b'', NO_INDEX),
  'another file': (b'\x89PNG' + bytes(200), NO_INDEX),
  'only a footer': (bytes(40) + t.MAGIC, 'a block ends at 0 of 0 bytes'),
  'a large one': (bytes(2**22 + 1), 'is of impossible size'),
}


@pytest.mark.parametrize('name', TABLES)
def test_hostile_tables(tmp_path, name):
  data, reason = TABLES[name]
  assert reason in hostile(tmp_path, data, b'')


def test_other_kinds_of_checkpoints(tmp_path):
  one = {'a': t.entry((1,), 4)}
  for more, reason in (
    (t.field(2, 1), 'was written on a big-endian machine; save it on another'),
    (
      t.field(3, t.field(2, 2)),
      'is of a newer version than 1; save it again in that',
    ),
  ):
    items = {b'': t.header(1, more), b'a': one['a']}
    index = t.table({b'~': t.block(items)})
    assert hostile(tmp_path, index, bytes(4)) == f'.index: {reason}'
  index = t.table({b'a': t.block({b'': t.header()})}, compression=1)
  assert 'is compressed, which is not read' in hostile(tmp_path, index)


def test_one_block_asked_for_many_times(tmp_path):
  """Else a few bytes would buy seconds of checksums, or gigabytes."""
  content = bytes(20_000) + struct.pack('<I', 5_000)
  place = t.varint(0) + t.varint(len(content))
  data = content + b'\0' + struct.pack('<I', t.masked(content + b'\0'))
  places = t.block({i.to_bytes(4, 'big'): place for i in range(2_000)}, 1)
  footer = place + t.varint(len(data)) + t.varint(len(places))
  data += places + b'\0' + struct.pack('<I', t.masked(places + b'\0'))
  message = hostile(tmp_path, data + footer.ljust(40, b'\0') + t.MAGIC)
  assert 'its blocks lie over one another' in message


@pytest.mark.parametrize('size', [2**17, 3 * 2**16 - 1, 1_000_001])
def test_checksums_of_many_bytes(tmp_path, size):
  data = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
  entry = t.entry((size,), size, kind=4, checksum=t.masked(data))
  files = {'.index': t.index({'a': entry}), '.data-00000-of-00001': data}
  assert read(t.write(tmp_path / 'large', files))['a'].tobytes() == data
  wrong = data[:-70_000] + b'\0' + data[-69_999:]
  assert wrong != data
  index = files['.index']
  assert "'a' has a wrong checksum" in hostile(tmp_path, index, wrong)


def test_many_megabytes_are_checked_in_seconds(tmp_path):
  size = 20_000_000
  index = t.index({'a': t.entry((size // 4,), size, checksum=1)})
  assert 'wrong checksum' in hostile(tmp_path, index, bytes(size))


# Two blocks of three, keys with shared beginnings, two data files.
TENSORS = {
  'MODEL/conv1/bias': np.arange(3, dtype=np.float32),
  'MODEL/conv1/kernel': np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3),
  'global_step': np.int32(7),
  'stop_grad': np.bool_(True),
}


def read_or_refuse(path, files) -> dict | None:
  """None where one line refuses them; any other error is a failure."""
  contents, message = None, ''
  try:
    contents = read(t.write(path, files))
  except UserError as error:
    message = str(error)
  assert message.isprintable()
  return contents


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=300, deadline=None)
def test_truncated_lengthened_and_flipped(tmp_path_factory, data):
  originals = t.checkpoint(TENSORS, shards=2, per_block=3)
  suffix = data.draw(st.sampled_from(sorted(originals)))
  content = bytearray(originals[suffix])
  kind = data.draw(st.sampled_from(['cut', 'longer', 'flip', 'swap']))
  if kind == 'cut':
    del content[data.draw(st.integers(0, len(content) - 1)) :]
  elif kind == 'longer':
    content += data.draw(st.binary(min_size=1, max_size=60))
  elif kind == 'flip':
    for _ in range(data.draw(st.integers(1, 3))):
      bit = data.draw(st.integers(0, 8 * len(content) - 1))
      content[bit // 8] ^= 1 << bit % 8
  else:
    start = data.draw(st.integers(0, len(content) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=12))
    content[start : start + len(patch)] = patch
  files = originals | {suffix: bytes(content)}
  contents = read_or_refuse(tmp_path_factory.mktemp('fuzz') / 'x', files)
  if contents is not None:
    assert_equal(contents, TENSORS)


@pytest.mark.parametrize('suffix', sorted(t.checkpoint(TENSORS, shards=2)))
def test_every_byte_and_every_length(tmp_path, suffix):
  """What is read in spite of a flipped bit does not depend on it."""
  originals = t.checkpoint(TENSORS, shards=2, per_block=3)
  path = t.write(tmp_path / 'x', originals)
  content = originals[suffix]
  for position in range(len(content)):
    flipped = bytearray(content)
    flipped[position] ^= 1 << position % 8
    contents = read_or_refuse(path, {suffix: bytes(flipped)})
    if contents is not None:
      # Bytes between the places of two blocks and the magic number.
      assert suffix == '.index'
      assert len(content) - 44 <= position < len(content) - 8
      assert_equal(contents, TENSORS)
  for length in range(len(content)):
    assert read_or_refuse(path, {suffix: content[:length]}) is None


@hypothesis.given(
  st.one_of(
    st.binary(max_size=40).map(lambda b: t.index({'a': b})),
    st.binary(max_size=40).map(lambda b: raw_table(HEAD + b + TAIL)),
    st.binary(max_size=40).map(
      lambda b: t.table({b'~': t.block({b'': b, b'a': t.entry((1,), 4)})})
    ),
    st.binary(max_size=40).map(lambda b: b.ljust(40, b'\0') + t.MAGIC),
    st.binary(max_size=200),
  )
)
@hypothesis.settings(max_examples=300, deadline=None)
def test_bytes_under_right_checksums(tmp_path_factory, index):
  """Whoever means harm writes the checksums too."""
  files = {'.index': index, '.data-00000-of-00001': bytes(4)}
  read_or_refuse(tmp_path_factory.mktemp('fuzz') / 'x', files)
