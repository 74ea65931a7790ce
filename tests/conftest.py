"""Eight fake CPU devices and no backend optimisation for every test."""

import gc

import jax
import pytest

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_disable_most_optimizations', True)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(autouse=True, scope='module')
def _forget_programs():
  """Frees a file's compiled programs.

  Each holds memory maps, of which Linux allows a process 65,530; XLA aborts
  when the whole suite has used them up.
  """
  yield
  jax.clear_caches()
  gc.collect()
