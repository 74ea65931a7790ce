"""Every network that estimates a degradation, found by its name."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.ops.edge_profile import PROFILES
from sr_jax.ops.power_spectrum import FEATURES

# What each network takes.
INPUTS = {
  'kernelgan': (jnp.zeros((64, 64, 3)),),
  'spectrum_mlp': (
    jnp.zeros((1, *FEATURES)),
    jnp.zeros((1, *PROFILES)),
    jnp.ones(1),
  ),
}


@pytest.mark.parametrize('name', models.estimator_names())
def test_counts(name):
  architecture = models.module(name)
  for variant, entry in architecture.VARIANTS.items():
    for scale, count in entry.parameters.items():
      network = models.create(
        {'name': name, 'variant': variant, 'scale': scale}
      )
      variables = jax.eval_shape(network.init, jax.random.key(0), *INPUTS[name])
      leaves = jax.tree.leaves(variables['params'])
      assert sum(math.prod(x.shape) for x in leaves) == count


def test_statistics_standardise_the_features():
  """Brightening a feature of all images makes no difference in training."""
  network = models.create({'name': 'spectrum_mlp', 'hidden': 4, 'dropout': 0.0})
  rng = np.random.default_rng(0)
  features = jnp.asarray(rng.normal(size=(8, *FEATURES)), jnp.float32)
  edges = jnp.asarray(rng.normal(size=(8, *PROFILES)), jnp.float32)
  scale = jnp.full(8, 2.0)
  variables = network.init(jax.random.key(0), features, edges, scale)

  def run(features):
    answers, _ = network.apply(
      variables, features, edges, scale, train=True, mutable=['batch_stats']
    )
    return answers[0]

  np.testing.assert_allclose(run(3 * features + 5), run(features), atol=0.02)


def test_it_is_no_model_that_enlarges():
  assert 'spectrum_mlp' not in models.names()
  with pytest.raises(UserError, match="unknown model 'spectrum_ml'"):
    models.create({'name': 'spectrum_ml', 'scale': 1})
