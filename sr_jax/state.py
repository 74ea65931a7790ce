"""The one pytree that a training run carries from step to step."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax

PyTree = Any


@flax.struct.dataclass
class TrainState:
  """Everything a step reads and writes; donated to it, saved as it is.

  Attributes:
    step: Updates done so far, int32 scalar.
    key: PRNG key of the run; a step draws from `fold_in(key, step)`.
    params: Parameters by slot; `generator` always holds the SR network.
    opt_state: Optimizer states by the same slots.
    model_state: Non-trainable collections by slot (batch statistics).
    frozen: Parameters that no step changes (VGG, a ranker). They live here,
      not in closures, because a closure copies them into the program.
  """

  step: jax.Array
  key: jax.Array
  params: dict[str, PyTree]
  opt_state: dict[str, PyTree]
  model_state: dict[str, PyTree] = flax.struct.field(default_factory=dict)
  frozen: dict[str, PyTree] = flax.struct.field(default_factory=dict)

  def step_key(self) -> jax.Array:
    """Key of the current step: a resumed step draws the same noise."""
    return jax.random.fold_in(self.key, self.step)
