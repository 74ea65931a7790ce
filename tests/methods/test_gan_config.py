"""What adversarial training refuses, and the advice it gives."""

import functools
import re

import jax
import numpy as np
import pytest

from sr_jax import train_loop
from sr_jax.errors import UserError
from sr_jax.methods import _gan_config, gan
from tests.methods.gan_runs import (
  Run,
  batch,
  gan_config,
  make,
  run_of,
)


@pytest.mark.parametrize(
  ('method', 'reason'),
  [
    ({'game': 'chess'}, r"config\.method\.game: unknown 'chess'; choose"),
    ({'mean_over': 'host'}, r"config\.method\.mean_over: unknown 'host'"),
    ({'perceptual': 'x'}, r"config\.method\.perceptual: unknown 'x'; choose"),
    ({'pixel_weight': -1.0}, r'config\.method\.pixel_weight=-1: give a'),
    ({'generator_every': 0}, r'config\.method\.generator_every=0: give a'),
    ({'held_steps': -1}, r'config\.method\.held_steps=-1: give a'),
    ({'object_weight': -1.0}, r'config\.method\.object_weight=-1: give a'),
    ({'boundary_radius': -1}, r'config\.method\.boundary_radius=-1: give a'),
    ({'features': 'vgg11'}, r"features: unknown 'vgg11'; choose from .*vgg16"),
    (
      {'object_weight': 1.0, 'region_layers': {'object': 'relu6_1'}},
      r"config\.method\.features=vgg19: unknown layer 'relu6_1'; choose from",
    ),
    (
      {'perceptual_weight': 1.0, 'features': 'vgg16'},
      r"config\.method\.features=vgg16: unknown layer 'conv5_4'; choose from",
    ),
    (
      {'discriminator': {'name': 'vgg_discriminatr'}},
      r"config\.method\.discriminator: .* did you mean 'vgg_discriminator'",
    ),
    (
      {'discriminator': {'name': 'vgg_discriminator', 'variant': '128'}},
      r'config\.data\.patch=8: HR crops are 16x16, but the discriminator'
      r' vgg_discriminator takes 128 to 159 pixels a side; give 64 to 79',
    ),
  ],
)
def test_wrong_values_give_errors_of_one_line(method, reason):
  with pytest.raises(UserError, match=reason) as caught:
    make(method=method)
  assert '\n' not in str(caught.value)


def test_crops_may_be_too_large_as_well():
  with pytest.raises(
    UserError, match=r'patch=10: HR crops are 20x20.*16 to 19'
  ):
    make(data={'patch': 10})
  # Gradient maps are two pixels larger.
  with pytest.raises(UserError, match=r'patch=9: HR crops are 18x18.*16 to 17'):
    make(data={'patch': 9}, method={'gradient_adversarial_weight': 1.0})


def test_missing_features_are_refused_before_training(tmp_path):
  config = gan_config(method={'perceptual_weight': 1.0})
  with pytest.raises(UserError, match=r'features_from: .* weights of VGG19'):
    train_loop.train_and_evaluate(config, tmp_path)


def test_a_branch_that_the_model_lacks_is_refused():
  with pytest.raises(UserError, match='predicts no gradient map'):
    Run(method={'branch_weight': 1.0}).step(run_of().start, batch())


FINE = {
  'contrast': 0.9,
  'discriminator': 0.6,
  'discriminator_real': 1.0,
  'discriminator_fake': -1.0,
  'discriminator_accuracy': 0.8,
}


@pytest.mark.parametrize(
  ('odd', 'told'),
  [
    ({}, None),
    ({'contrast': 0.01}, 'collapse.*init_from'),
    ({'contrast': 9.0}, 'blow up'),
    ({'discriminator_fake': -80.0}, r'discriminator blows up.*80.*clip_norm'),
    (
      {'discriminator_accuracy': 1.0, 'discriminator': 0.01},
      'recognises every generated image',
    ),
    # As it begins, and a critic's loss, which has no least value.
    ({'discriminator_accuracy': 1.0}, None),
    ({'discriminator_accuracy': 1.0, 'discriminator': -9.0}, None),
  ],
)
def test_advice(odd, told):
  found = gan.advice(FINE | odd)
  assert (found is None) == (told is None)
  assert told is None or re.search(told, found)


def test_weights_without_a_generator_are_no_start():
  init = functools.partial(run_of().method.init, scale=2)
  with pytest.raises(UserError, match='holds no generator, only dual_0'):
    jax.eval_shape(
      *(init, jax.random.key(0), batch(), {}),
      pretrained={'dual_0': {}},
    )


def test_early_layers_that_match_nothing_are_refused():
  method = make(method={'held_steps': 2, 'early_layers': ('fuse_*',)})
  init = functools.partial(method.init, scale=2)
  with pytest.raises(
    UserError, match=r'early_layers: .* fuse_\*; it has body_'
  ):
    jax.eval_shape(init, jax.random.key(0), batch(), {})


def test_a_mean_for_each_device():
  """Each of eight devices has one image of a batch of eight."""
  real, fake = np.random.default_rng(0).normal(size=(2, 8, 1))
  game = _gan_config._game('relativistic_average', False, 'device')
  np.testing.assert_allclose(
    game.discriminator(real, fake),
    np.log1p(np.exp(fake - real)).mean(),
    rtol=1e-5,
  )
