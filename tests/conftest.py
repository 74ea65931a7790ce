"""Sets up eight fake CPU devices, and what makes the tests quick."""

import atexit
import gc
import os
import pathlib
import shutil
import sys
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


# What a run of the tests keeps for the next one. It lies outside the checkout
# and the user's folders, and may be deleted at any time.
KEPT = pathlib.Path(tempfile.gettempdir(), f'sr_jax-tests-{os.getuid()}')


def _keep_notes() -> None:
  """Keeps what other packages note for the next run, such as failed tests.

  They would put it into the checkout or the home folder. `cache_dir` of
  pyproject.toml refers to the first variable.
  """
  os.environ['SR_JAX_TESTS_KEPT'] = str(KEPT)
  for name, folder in (
    ('HYPOTHESIS_STORAGE_DIRECTORY', 'hypothesis'),
    ('IPYTHONDIR', 'ipython'),
    ('MPLCONFIGDIR', 'matplotlib'),
  ):
    os.environ.setdefault(name, str(KEPT / folder))


_keep_notes()


def _keep_no_images() -> None:
  """Decodes images into a folder that is removed when the run ends.

  Workers share the folder of the process that starts them.
  """
  if 'PYTEST_XDIST_WORKER' in os.environ:
    return
  folder = tempfile.mkdtemp(prefix='sr_jax-tests-')
  os.environ['SR_JAX_CACHE'] = folder
  atexit.register(shutil.rmtree, folder, ignore_errors=True)


_keep_no_images()


def _keep_programs() -> None:
  """Keeps compiled programs for the next run and for child processes.

  The folder belongs to one version of jaxlib. `JAX_COMPILATION_CACHE_DIR`
  chooses another.
  """
  folder = os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', str(KEPT / f'jaxlib-{jaxlib.__version__}')
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


def _keep_bytecode() -> None:
  """Keeps Python's bytecode where it may not be written beside the sources.

  Child processes start in half the time.
  """
  if os.environ.pop('PYTHONDONTWRITEBYTECODE', None) is None:
    return
  sys.dont_write_bytecode = False
  folder = os.environ.setdefault('PYTHONPYCACHEPREFIX', str(KEPT / 'bytecode'))
  sys.pycache_prefix = folder


_keep_bytecode()

# Tracing makes many objects, of which few are garbage: look for it less often.
gc.set_threshold(100_000, 20, 20)
# A process may hold 65,530 memory maps on Linux; XLA aborts when all are used.
_MANY_MAPS = 20_000
# Several workers and the trainings that they start share one machine.
_MUCH_MEMORY = 2**32


def _holds_much() -> bool:
  """Whether this process holds many memory maps or much memory."""
  process = pathlib.Path('/proc/self')
  try:
    maps = (process / 'maps').read_bytes().count(b'\n')
    pages = int((process / 'statm').read_text().split()[1])
  except OSError:  # not Linux
    return True
  memory = pages * os.sysconf('SC_PAGE_SIZE')
  return maps >= _MANY_MAPS or memory >= _MUCH_MEMORY


@pytest.fixture(autouse=True, scope='module')
def _forget_programs():
  """Frees compiled programs, which hold memory, when they are many."""
  yield
  if _holds_much():
    jax.clear_caches()
    gc.collect()
