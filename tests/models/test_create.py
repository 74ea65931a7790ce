"""Options of networks: `models.create` refuses bad ones before computing."""

import dataclasses
import sys
import types

import pytest

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.models.parts import base, parameters
from tests import model_checks
from tests.nightly import nightly_of

ALL = [*models.names(), *models.critic_names()]
# Values that no option has, whatever its type.
ABSURD = (-1, 0.5, float('nan'), 1e300, 10**30, [], {}, 'x', None, (-1,), True)


def _scale(name):
  return 1 if name in models.critic_names() else model_checks.least_scale(name)


def _refusal(config):
  with pytest.raises(UserError) as error:
    models.create(config)
  message = str(error.value)
  assert '\n' not in message
  return message


def _refused_or_whole(config):
  """One line, or a network whose shapes can be computed."""
  try:
    network = models.create(config)
  except UserError as error:
    message = str(error)
  else:
    message = ''
    assert parameters.expected_shapes(network), config
  assert '\n' not in message


def test_near_names_are_suggested():
  assert "did you mean 'edsr'" in _refusal({'name': 'edsrr', 'scale': 2})
  message = _refusal({'name': 'edsr', 'scale': 2, 'blokcs': 3})
  assert message.endswith("has no option 'blokcs'; did you mean 'blocks'?")
  # The message named no model, as in a config of several networks.
  message = _refusal({'name': 'edsr', 'scale': 2, 'variant': 'baselin'})
  assert message.startswith(
    "model 'edsr': no variant 'baselin'; did you mean 'baseline'? (baseline, "
  )


@pytest.mark.parametrize('name', ALL)
def test_unknown_and_missing_options(name):
  config = {'name': name, 'scale': _scale(name)}
  assert 'blokcs' in _refusal({**config, 'blokcs': 3})
  assert 'variant' in _refusal({**config, 'variant': 'huge'})
  if name in models.names():
    assert 'give scale' in _refusal({'name': name})


@pytest.mark.parametrize(
  ('option', 'value', 'message'),
  [
    ('features', 0, 'features=0: give a whole number from 1 to 4096'),
    ('blocks', -1, 'blocks=-1: give a whole number from 1 to 256'),
    ('blocks', 100_000, 'blocks=100000: give a whole number from 1 to 256'),
    ('scale', 0, 'scale=0: give 2, 3, 4 or 8'),
    ('scale', True, 'scale=True: give 2, 3, 4 or 8'),
    ('scale', 5, 'scale=5: give 2, 3, 4 or 8'),
    ('residual_scale', float('inf'), 'residual_scale=inf: give a number'),
    ('channels', 0, 'channels=0: give a whole number'),
    ('dtype', 5, 'dtype: unknown 5'),
    ('variant', [], "model 'edsr': no variant []; choose one"),
    ('name', 5, 'name=5: give the name of an architecture'),
    ('name', None, 'name=None: give the name of an architecture'),
    ('name', [], 'name=[]: give the name of an architecture'),
  ],
)
def test_values_out_of_range_are_named_with_their_range(option, value, message):
  """T6, W4, W5: bad options were tracebacks, or were traced for hours."""
  config = {'name': 'edsr', 'scale': 2, option: value}
  assert message in _refusal(config)


@pytest.mark.parametrize('name', nightly_of(ALL, ['carn', 'srnet', 'srntt']))
def test_absurd_values_of_any_option_end_in_one_line(name):
  """T6: any value is refused in one line, or gives a network."""
  config = {'name': name, 'scale': _scale(name), **models.module(name).TINY}
  network = models.create(config)
  options = [field.name for field in dataclasses.fields(network)]
  options = [o for o in options if o not in ('parent', 'name', 'dtype')]
  for option in [*options, 'scale', 'variant', 'dtype']:
    for value in ABSURD:
      _refused_or_whole({**config, option: value})


@pytest.mark.nightly
@pytest.mark.parametrize('name', ALL)
def test_small_counts_are_refused_or_make_networks(name):
  """Allowed options that do not fit together are named."""
  config = {'name': name, 'scale': _scale(name), **models.module(name).TINY}
  network = models.create(config)
  for field in dataclasses.fields(network):
    value = getattr(network, field.name)
    if field.name == 'scale' or type(value) is not int:
      continue
    for other in (0, 1, 2, 3, 5, 12):
      _refused_or_whole({**config, field.name: other})


@pytest.fixture
def architecture(monkeypatch):
  """Adds a file `broken` to the package, whose `Model` is given."""

  def add(model, **attributes):
    file = types.ModuleType('sr_jax.models.broken')
    file.Model, file.VARIANTS = model, {}
    vars(file).update(attributes)
    monkeypatch.setitem(sys.modules, 'sr_jax.models.broken', file)
    monkeypatch.setattr(models, 'names', lambda: ['broken'])
    return file

  return add


class _Broken(base.Network):
  """A network with an error in its layers."""

  scale: int

  def __call__(self, lr, *, train=False):
    return lr + {}, {}


def test_faults_of_an_architecture_keep_their_traceback(architecture):
  """B14: faults of a model's code were reported without file and line."""

  def typing_error(*, scale):
    return len(scale)

  architecture(typing_error)
  with pytest.raises(TypeError, match="'int' has no len"):
    models.create({'name': 'broken', 'scale': 2})

  def own_misspelling(*, scale):
    return _Broken(scael=scale)

  architecture(own_misspelling)
  with pytest.raises(TypeError, match='scael'):
    models.create({'name': 'broken', 'scale': 2})

  architecture(_Broken)
  network = models.create({'name': 'broken', 'scale': 2})
  with pytest.raises(TypeError, match='dict'):
    parameters.expected_shapes(network)


def test_missing_parts_of_a_new_file_are_named(architecture):
  """The recipe was followed in part; `dtype` was refused without a hint."""
  architecture(_Broken)
  message = _refusal({'name': 'broken', 'scale': 2, 'dtype': 'float32'})
  assert 'its network must declare one to take it, see CONTRIBUTING.md' in (
    message
  )
  architecture(lambda *, scale: object())
  assert 'must derive from sr_jax.models.parts.base.Network' in _refusal(
    {'name': 'broken', 'scale': 2}
  )
  del architecture(_Broken).VARIANTS
  assert 'has no VARIANTS; see CONTRIBUTING.md' in _refusal(
    {'name': 'broken', 'scale': 2}
  )


def test_every_network_offers_the_whole_contract():
  """Callers need no defaults for attributes of a network."""
  for name in ALL:
    network = models.create({'name': name, 'scale': _scale(name)})
    assert network.scale == _scale(name)
    assert isinstance(network.channels, int)
    assert isinstance(network.luma, bool)
    assert network.halo is None or network.halo > 0
    assert network.cell >= 1
    assert isinstance(network.scales, tuple)
    assert network.least_side >= 1
    assert network.example_side >= 1
