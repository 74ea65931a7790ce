"""Where the weights of feature networks come from."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from sr_jax.errors import UserError
from sr_jax.weights import features as feature_weights
from tests import feature_oracle as oracle
from tests.weights import torch_files

# conv1_1 ... conv3_1.
SHORT = oracle.random_vgg(oracle.VGG19, seed=3, last=10)


def load(spec, *layers, model='vgg', variant='vgg19'):
  return feature_weights.load(spec, model=model, layers=layers, variant=variant)


@pytest.fixture
def short(tmp_path):
  path = tmp_path / 'short.pth'
  path.write_bytes(torch_files.state_dict(SHORT))
  return path


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_torch_file_that_ends_early(tmp_path, prefix):
  path = tmp_path / 'w.pth'
  tensors = {prefix + name: value for name, value in SHORT.items()}
  path.write_bytes(torch_files.state_dict(tensors))
  params = load(path, 'relu2_1', 'conv1_1')
  assert list(params) == ['conv1_1', 'conv1_2', 'conv2_1']
  np.testing.assert_array_equal(
    params['conv2_1']['kernel'],
    SHORT['features.5.weight'].transpose(2, 3, 1, 0),
  )
  assert list(load(path, 'conv3_1'))[-1] == 'conv3_1'
  with pytest.raises(UserError) as refused:
    load(path, 'relu5_4')
  message = str(refused.value)
  assert f'{path}: ends at layer conv3_1, but conv5_4 is needed' in message
  assert 'vgg19-dcbb9e9d.pth' in message
  assert '(SHA-256 dcbb9e9d...)' in message
  assert '\n' not in message


def test_layers_by_name(tmp_path):
  path = tmp_path / 'w.pth'
  names = ['conv1_1', 'conv1_2', 'conv2_1', 'conv2_2', 'conv3_1']
  positions = [0, 2, 5, 7, 10]
  tensors = {
    f'{name}.{leaf}': SHORT[f'features.{i}.{leaf}']
    for name, i in zip(names, positions, strict=True)
    for leaf in ('weight', 'bias')
  }
  path.write_bytes(torch_files.state_dict(tensors, legacy=True))
  assert list(load(path, 'conv3_1')) == names


def test_the_classifier_is_ignored_with_a_note(tmp_path):
  path = tmp_path / 'w.pth'
  extra = {'classifier.0.weight': np.zeros((2, 3), np.float32)}
  path.write_bytes(torch_files.state_dict(SHORT | extra))
  params, notes = feature_weights.read_file(path, 'vgg')
  assert len(params) == 5
  assert any('the classifier' in note for note in notes)


def test_missing_file_says_which_and_where(tmp_path):
  path = tmp_path / 'weights' / 'vgg19'
  with pytest.raises(UserError) as refused:
    load(path, 'conv5_4')
  message = str(refused.value)
  assert message.startswith(f'{path}: no such weights: put vgg19-dcbb9e9d.pth')
  assert 'SHA-256 dcbb9e9d' in message
  assert '\n' not in message
  with pytest.raises(UserError, match='vgg16-397923af'):
    load(path, 'conv5_3', variant='vgg16')
  with pytest.raises(UserError, match='alexnet-owt-7be5be79'):
    load(path, 'relu5', model='alexnet', variant='alexnet')


def test_other_weights_are_refused(tmp_path, short):
  sixteen = tmp_path / 'vgg16.pth'
  sixteen.write_bytes(
    torch_files.state_dict(oracle.random_vgg(oracle.VGG16, seed=0, last=17))
  )
  assert 'conv4_1' in load(sixteen, 'conv4_1', variant='vgg16')
  with pytest.raises(UserError, match='is no vgg19: its layers differ in conv'):
    load(sixteen, 'conv4_1')
  with pytest.raises(UserError, match=r'features\.\S+, unknown to alexnet'):
    load(short, 'relu1', model='alexnet', variant='alexnet')
  gap = {k: v for k, v in SHORT.items() if 'features.5.' not in k}
  narrow = {
    **SHORT,
    'features.2.weight': SHORT['features.2.weight'][:32],
    'features.2.bias': SHORT['features.2.bias'][:32],
  }
  bare = {**SHORT, 'features.0': np.zeros(3, np.float32)}
  half = {k: v for k, v in SHORT.items() if k != 'features.5.bias'}
  for tensors, words in (
    (gap, 'conv2_1'),
    (narrow, 'conv1_2/bias is'),
    (bare, 'conv1_1 is'),
    (half, 'conv2_1/bias is missing'),
  ):
    short.write_bytes(torch_files.state_dict(tensors))
    with pytest.raises(UserError, match=words):
      load(short, 'conv1_1')


def test_random_weights_by_seed_and_by_name_alone():
  one, same, other = (load(f'random:{seed}', 'conv1_2') for seed in (1, 1, 2))
  jax.tree.map(np.testing.assert_array_equal, one, same)
  assert list(one) == ['conv1_1', 'conv1_2']
  assert (one['conv1_2']['kernel'] != other['conv1_2']['kernel']).all()
  for spec in ('random:', 'random:x', 'random:-1'):
    with pytest.raises(UserError, match='whole number'):
      load(spec, 'conv1_2')
  with pytest.raises(UserError, match='no such weights'):
    load('random', 'conv1_2')


def test_unknown_network_and_layer():
  with pytest.raises(UserError, match='conv7_1'):
    load('random:0', 'conv7_1')
  with pytest.raises(UserError, match='is no network of features'):
    load('random:0', 'conv1_1', model='edsr')
