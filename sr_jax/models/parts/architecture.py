"""The contents of an architecture's file: variants and names of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from sr_jax.errors import UserError
from sr_jax.models.parts.common import Variant, select_variant

Names = Mapping[str, Mapping[str, str]]
Section = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

_NONE: Mapping[str, Any] = MappingProxyType({})
_SUPERVISED: Section = MappingProxyType({'name': 'supervised'})


def _nothing(shapes: Shapes) -> dict[str, Any]:
  """Recognises no option, so that all must be given."""
  del shapes
  return {}


class Companion(NamedTuple):
  """A further network that is trained with an architecture's network.

  Attributes:
    Model: `(**options) -> network`.
    TORCH_NAMES: Rules for PyTorch's state_dicts, by the name of the release.
    recognise: `shapes by Flax path -> options`.
  """

  Model: Callable[..., Any]
  TORCH_NAMES: Names
  recognise: Callable[[Shapes], dict[str, Any]]


class Architecture(NamedTuple):
  """The contents of one file of `sr_jax.models`, under the file's own names.

  `Model` and `VARIANTS` are required. The other attributes are for published
  weights and for tests. A rule of names maps the name of a layer to a Flax
  path; `{i}` stands for a number in both.

  Attributes:
    name: Name of the file.
    Model: `(*, scale, variant=..., **options) -> network`; the options override
      those of the variant.
    VARIANTS: Published sizes by name; the first is the usual one.
    TINY: Options of a network small enough for tests, with every kind of layer.
    TORCH_NAMES: Rules for PyTorch's state_dicts, by the name of the release.
    TORCH_IGNORED: Descriptions of tensors that the release never uses, by rules
      of their names.
    TF_NAMES: Rules for TensorFlow checkpoints, by the name of the release.
    MAT_NAMES: Rules for MATLAB files, by the name of the release.
    npz_arrays: `arrays -> arrays by Flax path` for a `.npz` without names; None
      if the arrays are not those of this architecture.
    recognise: `shapes by Flax path -> options`, as far as shapes determine
      them.
    place: `(path, options) -> path` of a parameter in a network with these
      options; '' if the network lacks the parameter.
    PLACED_NOWHERE: Description of such parameters, for a note to the user.
    CONSTANTS: First parts of the paths of parameters that get no gradient and
      that files may omit.
    METHOD: The config section of the method that applies imported weights, or a
      function that makes the section from the options.
    Dual: `(*, features, channels) -> network` from SR to LR, for dual
      regression.
    levels: `scale -> number of dual networks`.
    DUAL_TORCH_NAMES: Rules for PyTorch's state_dicts of one dual network.
    COMPANIONS: Further networks by the slot of their parameters.
  """

  name: str
  Model: Callable[..., Any]
  VARIANTS: Mapping[str, Variant]
  TINY: Mapping[str, Any] = _NONE
  TORCH_NAMES: Names = _NONE
  TORCH_IGNORED: Mapping[str, str] = _NONE
  TF_NAMES: Names = _NONE
  MAT_NAMES: Names = _NONE
  npz_arrays: Callable[[Sequence[np.ndarray]], dict[str, np.ndarray] | None] = (
    lambda arrays: None
  )
  recognise: Callable[[Shapes], dict[str, Any]] = _nothing
  place: Callable[[str, Mapping[str, Any]], str] = lambda path, options: path
  PLACED_NOWHERE: str = ''
  CONSTANTS: Sequence[str] = ()
  METHOD: Section | Callable[[Mapping[str, Any]], Section] = _SUPERVISED
  Dual: Callable[..., Any] | None = None
  levels: Callable[[int], int] | None = None
  DUAL_TORCH_NAMES: Names = _NONE
  COMPANIONS: Mapping[str, Companion] = _NONE

  def options_of(self, variant: str) -> Mapping[str, Any]:
    """Returns the options of a variant.

    Raises:
      UserError: The architecture has no variant of this name.
    """
    return select_variant(self.VARIANTS, variant, self.name)

  def method(self, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config section of the method for weights of these options."""
    return dict(self.METHOD(options) if callable(self.METHOD) else self.METHOD)


def of_file(module: ModuleType) -> Architecture:
  """Returns the contents of an imported file of `sr_jax.models`.

  Raises:
    UserError: The file lacks `Model` or `VARIANTS`.
  """
  offered = vars(module)
  for needed in ('Model', 'VARIANTS'):
    if needed not in offered:
      raise UserError(
        f'{module.__name__}: has no {needed}; see CONTRIBUTING.md, "Add a'
        ' model"'
      )
  given: dict[str, Any] = {
    field: offered[field] for field in Architecture._fields if field in offered
  }
  given['name'] = module.__name__.rpartition('.')[2]
  return Architecture(**given)
