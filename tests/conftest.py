"""Sets up eight fake CPU devices, fast compilation and a compilation cache."""

import gc
import os
import pathlib
import tempfile

import jax
import jaxlib
import pytest

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


def _compile_quickly() -> None:
  """Programs of tests run once: compiling them is dearer than running them.

  Child processes compile in the same way. The options are of a kind that a
  version of XLA without them ignores.
  """
  os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
  jax.config.update('jax_disable_most_optimizations', True)
  options = 'xla_cpu_disable_new_fusion_emitters,xla_cpu_optimize_for_size'
  flags = os.environ.get('XLA_FLAGS', '')
  if options not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} --xla_backend_extra_options={options}'


_compile_quickly()


def _keep_programs() -> None:
  """Keeps compiled programs for the next run and for child processes.

  Compilation is nine tenths of the suite's time. The folder belongs to one user
  and one version of jaxlib, lies outside the checkout and the user's folders,
  and may be deleted at any time. `JAX_COMPILATION_CACHE_DIR` chooses another.
  """
  name = f'sr_jax-tests-{os.getuid()}/jaxlib-{jaxlib.__version__}'
  folder = os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(tempfile.gettempdir(), name))
  )
  settings = {
    'jax_persistent_cache_min_compile_time_secs': 0.0,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  jax.config.update('jax_compilation_cache_dir', folder)
  for key, value in settings.items():
    os.environ.setdefault(key.upper(), str(value))
    jax.config.update(key, value)


_keep_programs()


@pytest.fixture(autouse=True, scope='module')
def _forget_programs():
  """Frees a file's compiled programs.

  Each holds memory maps, of which Linux allows a process 65,530; XLA aborts
  when the whole suite has used them up.
  """
  yield
  jax.clear_caches()
  gc.collect()
