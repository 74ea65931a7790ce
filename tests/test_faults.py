"""Errors of one line if memory runs out."""

import jax
import pytest

from sr_jax.errors import UserError
from sr_jax.runs import faults


@pytest.mark.parametrize(
  ('text', 'amount'),
  [
    ('Out of memory allocating 1610612736 bytes.', '1.5 GiB'),
    ('Out of memory while trying to allocate 1.50GiB.', '1.50 GiB'),
    ('Failed to allocate request for 2.0MiB (2097152B) on device 0', '2.0 MiB'),
    ('something else ran out', None),
  ],
)
def test_a_device_without_memory(text, amount):
  """B9: when memory ran out, training ended in a traceback of XLA."""
  with pytest.raises(UserError) as error, faults.out_of_memory('use less'):
    raise jax.errors.JaxRuntimeError(f'RESOURCE_EXHAUSTED: {text}')
  asked = f': {amount} were asked for at once' if amount else ''
  assert str(error.value) == f'out of memory on cpu{asked}; use less'


def test_a_host_without_memory():
  with pytest.raises(UserError) as error, faults.out_of_memory('use less'):
    raise MemoryError(
      'Unable to allocate 3.07 TiB for an array with shape (1,)'
    )
  assert str(error.value) == (
    'out of memory on this machine: 3.07 TiB were asked for at once; use less'
  )


def test_other_faults_pass():
  bug = jax.errors.JaxRuntimeError('INTERNAL: a bug')
  with pytest.raises(type(bug)) as error, faults.out_of_memory('use less'):
    raise bug
  assert error.value is bug
