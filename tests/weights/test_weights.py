"""Names, layouts and options of imported weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_files
from flax import traverse_util

from sr_jax.errors import UserError
from sr_jax.models import edsr
from sr_jax.weights import names as names_module
from sr_jax.weights.formats.safetensors_io import export_safetensors
from sr_jax.weights.parts import part
from sr_jax.weights.published import import_weights

OPTIONS = {'residual_scale': 0.5}


def released(blocks: int = 2, features: int = 4, scale: int = 2) -> dict:
  """A state_dict under the names of EDSR-PyTorch, written out by hand."""
  rng = np.random.default_rng(0)
  shapes = {'head.0': (features, 3, 3, 3), f'body.{blocks}': (features,) * 2}
  for i in range(blocks):
    shapes[f'body.{i}.body.0'] = shapes[f'body.{i}.body.2'] = (features,) * 2
  stages = {2: [4], 3: [9], 4: [4, 4]}[scale]
  for i, factor in enumerate(stages):
    shapes[f'tail.0.{2 * i}'] = (factor * features, features)
  shapes['tail.1'] = (3, features)
  tensors = {}
  for layer, shape in shapes.items():
    shape = (*shape[:2], 3, 3)
    tensors[f'{layer}.weight'] = rng.normal(size=shape).astype(np.float32)
    tensors[f'{layer}.bias'] = rng.normal(size=shape[:1]).astype(np.float32)
  for layer, sign in (('sub_mean', -1), ('add_mean', 1)):
    tensors[f'{layer}.weight'] = np.eye(3, dtype=np.float32)[..., None, None]
    tensors[f'{layer}.bias'] = np.full(3, sign * 111, np.float32)
  return tensors


@pytest.fixture
def write(tmp_path):
  """Writes tensors to a file, behind wrapper keys if asked."""

  def write(tensors, *wrappers):
    items = {}
    raw = {}
    for i, (name, array) in enumerate(tensors.items()):
      kind = f'torch.{torch_files.STORAGES[array.dtype.name]}'
      items[name] = torch_files.tensor(
        str(i), array.shape, length=array.size, kind=kind
      )
      raw[str(i)] = array.tobytes()
    value = torch_files.mapping(items)
    for wrapper in wrappers:
      value = torch_files.mapping({'epoch': b'K\x07', wrapper: value})
    path = tmp_path / 'weights.pth'
    path.write_bytes(torch_files.zip_file(value, raw))
    return path

  return write


def refusal(path, **arguments) -> str:
  with pytest.raises(UserError) as caught:
    import_weights(path, model='edsr', **{'options': OPTIONS, **arguments})
  message = str(caught.value)
  assert message.startswith(f'{path}: ')
  return message.removeprefix(f'{path}: ')


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_names_and_layouts(write, scale):
  tensors = released(scale=scale)
  imported = import_weights(write(tensors), model='edsr', options=OPTIONS)
  assert imported.config == {
    'name': 'edsr',
    'scale': scale,
    'options': {'channels': 3, 'features': 4, 'blocks': 2, **OPTIONS},
  }
  assert imported.notes == []
  params = imported.params
  np.testing.assert_array_equal(
    params['body_1']['conv2']['kernel'][2, 0, 3, 1],
    tensors['body.1.body.2.weight'][1, 3, 2, 0],
  )
  np.testing.assert_array_equal(
    params['add_mean']['bias'], tensors['add_mean.bias']
  )
  network = edsr.Model(scale=scale, **imported.config['options'])
  initial = network.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))['params']
  assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, params)


def test_a_part_is_chosen_by_what_fits():
  """W8: files that name their parts in other ways were refused."""
  tensors, other = released(), {'features.0.weight': np.ones((4, 3, 3, 3))}
  schemes = edsr.TORCH_NAMES
  for names in (('g', 'd'), ('generator', 'discriminator'), ('a', 'b')):
    parts = dict(zip(names, (tensors, other), strict=True))
    weights = names_module.torch_to_flax(parts, schemes)
    assert weights.notes == [
      f'used {names[0]!r}',
      f'ignored beside it: {names[1]!r}',
    ]
    assert len(weights.arrays) == len(tensors)
  with pytest.raises(UserError, match='several fit'):
    names_module.torch_to_flax({'a': tensors, 'b': tensors}, schemes)
  with pytest.raises(UserError, match='none fit'):
    names_module.torch_to_flax({'a': other, 'b': other}, schemes)


def test_a_key_chooses_the_part(write):
  """W8: if several networks of a file fit, none could be chosen."""
  a, b = released(), {k: v + 1 for k, v in released().items()}
  inner = {'params': b}
  value = {'epoch': 1, 'nets': {'a': a, 'b': inner}, 'c': a}
  assert part(value, 'b') is part(value, 'nets/b') is inner
  assert part(value, 'params') is part(value, 'nets/b/params') is b
  with pytest.raises(UserError, match="key='d': no part of this name; it has"):
    part(value, 'd')
  with pytest.raises(UserError, match='several parts of this name'):
    part({'x': {'a': a}, 'y': {'a': b}}, 'a')
  with pytest.raises(UserError, match='it has none'):
    part(a, 'x')
  assert part(value | {'b': a}, 'b') is a  # the outer one
  both = {'g': a, 'netG': b}
  flat = {f'{p}.{k}': v for p, ab in both.items() for k, v in ab.items()}
  path = write(flat)
  message = refusal(path)
  assert message == (
    "holds several networks that fit: 'g.', 'netG.'; choose one with key=NAME"
  )
  imported = import_weights(path, model='edsr', options=OPTIONS, key='netG')
  np.testing.assert_array_equal(
    imported.params['tail']['bias'], b['tail.1.bias']
  )


def test_networks_of_losses_beside_the_model_are_left_out():
  """W8: files of Lightning, which hold networks of losses, were refused."""
  tensors = {f'model.{k}': v for k, v in released().items()}
  losses = {'loss.vgg.features.0.weight': np.ones((4, 3, 3, 3))}
  weights = names_module.torch_to_flax(
    {'state_dict': {**losses, **tensors}}, edsr.TORCH_NAMES
  )
  assert len(weights.arrays) == len(tensors)
  assert not weights.unused
  assert "used 'model.', ignored 1 tensor beside it" in weights.notes


@pytest.mark.parametrize(
  ('wrappers', 'prefix', 'notes'),
  [
    ((), 'module.', []),
    ((), 'module.model.', []),
    # Prefixes of torch.compile and ema_pytorch, which were refused (W7, W8).
    ((), '_orig_mod.', []),
    ((), 'module._orig_mod.', []),
    ((), '_orig_mod.module.', []),
    ((), 'ema_model.', []),
    (('netG',), '', ["used 'netG'", "ignored beside it: 'epoch'"]),
    (('weights',), '', ["used 'weights'", "ignored beside it: 'epoch'"]),
    (
      ('params_ema',),
      '',
      ["used 'params_ema'", "ignored beside it: 'epoch'"],
    ),
    (
      ('state_dict', 'model'),
      'net.',
      [
        "used 'model'",
        "ignored beside it: 'epoch'",
        "used 'state_dict'",
        "ignored beside it: 'epoch'",
      ],
    ),
  ],
)
def test_wrappers_are_taken_off_and_told(write, wrappers, prefix, notes):
  tensors = {f'{prefix}{name}': v for name, v in released().items()}
  imported = import_weights(
    write(tensors, *wrappers), model='edsr', options=OPTIONS
  )
  assert imported.notes == notes
  np.testing.assert_array_equal(
    imported.params['tail']['bias'], released()['tail.1.bias']
  )


def test_the_average_wins_over_the_last_step(tmp_path):
  """BasicSR keeps both; its authors evaluate `params_ema`."""
  tensors = released()
  raw, items = {}, {}
  for i, (name, array) in enumerate(tensors.items()):
    for j, wrapper in enumerate(('params', 'params_ema')):
      key = f'{i}_{j}'
      items.setdefault(wrapper, {})[name] = torch_files.tensor(
        key, array.shape, length=array.size
      )
      raw[key] = (array + j).tobytes()
  path = tmp_path / 'weights.pth'
  both = {k: torch_files.mapping(v) for k, v in items.items()}
  path.write_bytes(torch_files.zip_file(torch_files.mapping(both), raw))
  imported = import_weights(path, model='edsr', options=OPTIONS)
  np.testing.assert_array_equal(
    imported.params['head']['bias'], tensors['head.0.bias'] + 1
  )
  assert imported.notes == ["used 'params_ema'", "ignored beside it: 'params'"]


def test_a_missing_mean_shift_keeps_its_initial_values(write):
  tensors = {k: v for k, v in released().items() if '_mean' not in k}
  imported = import_weights(write(tensors), model='edsr', options=OPTIONS)
  np.testing.assert_allclose(
    imported.params['sub_mean']['bias'],
    [-255 * 0.4488, -255 * 0.4371, -255 * 0.404],
    rtol=1e-6,
  )
  np.testing.assert_array_equal(
    imported.params['sub_mean']['kernel'][0, 0], np.eye(3)
  )
  assert 'sub_mean/bias' in imported.notes[0]


@pytest.mark.parametrize(
  ('arguments', 'reason'),
  [
    ({'scale': 4}, 'holds scale=2, but scale=S sets 4'),
    (
      {'variant': 'baseline'},
      'holds blocks=2, but variant baseline with blocks sets 16',
    ),
    (
      {'options': {**OPTIONS, 'features': 8}},
      'holds features=4, but option features sets 8',
    ),
    (
      {'options': {}},
      'does not determine residual_scale; give it with '
      'option residual_scale=VALUE',
    ),
    ({'scale': 5}, 'scale=5: give 2, 3, 4 or 8'),
    ({'options': {**OPTIONS, 'width': 8}}, "no option 'width'"),
    ({'options': {**OPTIONS, 'features': 'x'}}, 'the options scale=2'),
    ({'variant': 'huge'}, "no variant 'huge'"),
  ],
)
def test_contradictions_and_gaps_are_named(write, arguments, reason):
  message = refusal(write(released()), **arguments)
  assert reason in message
  assert '\n' not in message


def test_published_width_determines_the_residual_scale():
  """Only published widths determine it; the user may set another."""
  shapes = {'head/kernel': (3, 3, 3, 256)}
  for i in range(32):
    shapes[f'body_{i}/conv1/kernel'] = (3, 3, 256, 256)
  shapes['upsample/conv_0/kernel'] = (3, 3, 256, 1024)
  assert edsr.recognise(shapes)['residual_scale'] == 0.1


def test_an_option_without_trace_may_differ(write):
  tensors = released(blocks=4, features=32)
  path = write(tensors)
  assert import_weights(path, model='edsr').config['options'] == {
    'channels': 3,
    'features': 32,
    'blocks': 4,
    'residual_scale': 1.0,
  }
  assert import_weights(path, model='edsr', variant='small', scale=2).params
  config = import_weights(path, model='edsr', options=OPTIONS).config
  assert config['options']['residual_scale'] == 0.5


def test_unused_missing_and_misshapen_tensors_are_listed(write):
  tensors = released()
  del tensors['tail.1.bias']
  tensors['body.1.body.0.weight'] = np.zeros((4, 4, 1, 3), np.float32)
  tensors['extra.weight'] = np.zeros((5, 2), np.float32)
  tensors['head.1.bias'] = np.zeros(2, np.float32)
  first, *lines = refusal(write(tensors)).split('\n')
  assert first.startswith('5 tensors missing (-) or unused (+), as scale=2')
  assert sorted(lines) == [
    '+ body.1.body.0.weight (1, 3, 4, 4)',
    '+ extra.weight (5, 2)',
    '+ head.1.bias (2,)',
    '- body_1/conv1/kernel (3, 3, 4, 4)',
    '- tail/bias (3,)',
  ]


def test_a_long_list_is_cut(write):
  tensors = released()
  tensors |= {f'x{i}.bias': np.zeros(1, np.float32) for i in range(30)}
  lines = refusal(write(tensors)).split('\n')
  assert len(lines) == 22
  assert lines[-1] == '... and 10 more'


def test_lost_block_and_lost_head(write):
  tensors = released()
  del tensors['body.0.body.0.weight']
  assert '- body_0/conv1/kernel' in refusal(
    write(tensors), options={**OPTIONS, 'blocks': 2}
  )
  assert '+ body.1.body.0.weight' in refusal(write(tensors))
  del tensors['head.0.weight']
  assert refusal(write(tensors)) == 'lacks the tensor head/kernel'


@pytest.mark.parametrize(
  ('name', 'value', 'reason'),
  [
    ('head.0.bias', np.full(4, np.nan, np.float32), 'not finite'),
    ('head.0.bias', np.full(4, 1e300), 'not finite'),
    ('head.0.bias', np.zeros(4, np.int64), 'holds int64 numbers'),
    ('body.9.bias', np.zeros(4, np.float32), 'both mean body_end/bias'),
    ('a\nb', np.zeros(4, np.float32), 'unusual name'),
    ('head.0.weight', np.zeros(4, np.float32), 'tensors are not those of edsr'),
  ],
)
def test_tensors_that_cannot_be_meant(write, name, value, reason):
  message = refusal(write(released() | {name: value}))
  assert reason in message
  assert '\n' not in message


def test_files_of_other_systems(write):
  tensors = {'conv1.weight': np.zeros((1, 1, 9, 9), np.float32)}
  assert refusal(write(tensors)) == (
    "tensor names such as 'conv1.weight' are of none of the known schemes: "
    'EDSR-PyTorch, BasicSR'
  )
  assert 'holds no state_dict' in refusal(write({}))
  with pytest.raises(UserError, match=r"unknown model 'edsrr'; did you mean"):
    import_weights(write(tensors), model='edsrr')


@pytest.mark.parametrize('dtype', [np.float16, np.float64])
def test_other_precisions_become_float32(write, dtype):
  tensors = {k: v.astype(dtype) for k, v in released().items()}
  imported = import_weights(write(tensors), model='edsr', options=OPTIONS)
  leaves = jax.tree.leaves(imported.params)
  assert {leaf.dtype.name for leaf in leaves} == {'float32'}


def test_safetensors_round_trip(write, tmp_path):
  imported = import_weights(write(released()), model='edsr', options=OPTIONS)
  path = tmp_path / 'edsr.safetensors'
  export_safetensors(imported.params, path, config=imported.config)
  again = import_weights(path, model='edsr')
  assert again.config == imported.config
  jax.tree.map(np.testing.assert_array_equal, again.params, imported.params)
  assert 'holds scale=2, but scale=S sets 3' in refusal(path, scale=3)


def test_safetensors_import_is_strict(write, tmp_path):
  imported = import_weights(write(released()), model='edsr', options=OPTIONS)
  flat = traverse_util.flatten_dict(imported.params, sep='/')
  flat['extra/kernel'] = flat.pop('tail/bias')
  path = tmp_path / 'edsr.safetensors'
  params = traverse_util.unflatten_dict(flat, sep='/')
  export_safetensors(params, path, config=imported.config)
  assert refusal(path).split('\n')[1:] == [
    '- tail/bias (3,)',
    '+ extra/kernel (3,)',
  ]
  config = {**imported.config, 'name': 'rcan'}
  export_safetensors(imported.params, path, config=config)
  assert refusal(path) == 'holds rcan, not edsr'
