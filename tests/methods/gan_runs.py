"""Tiny adversarial trainings that several test files share."""

import functools

import jax
import numpy as np

from configs import common
from sr_jax import experiment, methods
from tests import tiny

# Not Adam, which makes noise of near-zero gradients as large as steps.
SGD = {'name': 'sgd', 'learning_rate': 0.01, 'ema_decay': 0.0}
JUDGE = {
  'name': 'vgg_discriminator',
  'variant': '128',
  **{'features': 2, 'stages': 2, 'side': 4},
}
MODEL = {'name': 'msrresnet', 'variant': 'basicsr', 'scale': 2}
SPSR = {
  **{'name': 'spsr', 'variant': 'paper', 'scale': 2, 'blocks': 1},
  **{'features': 4, 'growth': 2, 'look_every': 1},
}
ALL_TERMS = {
  'gradient_weight': 0.02,
  'gradient_adversarial_weight': 0.03,
  'branch_weight': 0.5,
  'game': 'relativistic_average',
}


def gan_config(method=None, model=None, **sections):
  """A tiny GAN without VGG19, unless `method` asks for it."""
  options = {'perceptual_weight': 0.0, 'discriminator': JUDGE, **(method or {})}
  sections.setdefault('data', {'patch': 8})
  config = tiny.config(model=model or MODEL, **sections)
  common.adversarial(config, **options)
  return config


def make(**sections):
  config = experiment.to_plain(gan_config(**sections))
  return methods.make(config)


def batch(size=4, seed=0):
  rng = np.random.default_rng(seed)
  return {'hr': rng.integers(0, 256, (size, 16, 16, 3), np.uint8)}


class Run:
  """A compiled method, its first state and how often it was traced."""

  def __init__(self, start=None, **sections):
    self.method = make(**{'optimizer': SGD, **sections})
    self.traces = 0
    init = functools.partial(self.method.init, scale=2)
    self.start = jax.jit(init)(
      jax.random.key(0), start or batch(), self.method.frozen()
    )

    def counted(state, batch):
      self.traces += 1
      return self.method.train_step(state, batch, scale=2)

    self.step = jax.jit(counted)


run_of = functools.cache(lambda **method: Run(method=method))


@functools.cache
def spsr():
  return Run(
    model=SPSR,
    method={**ALL_TERMS, 'held_steps': 1, 'early_layers': ('fuse_*',)},
  )


def same(a, b):
  return all(
    bool((x == y).all())
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
  )
