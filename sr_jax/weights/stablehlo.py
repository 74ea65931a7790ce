"""Models as StableHLO programs that need neither this package nor Flax.

The file is what `jax.export` serialises: one program for CPU, CUDA and TPU,
weights inside, for any batch size, height and width (some models need a least
side). With JAX alone:

  from jax import export
  program = export.deserialize(bytearray(open('edsr.stablehlo', 'rb').read()))
  sr = program.call(lr)          # float32 [B, H, W, C] in [0, 1]
  text = program.mlir_module()   # the StableHLO itself, for other compilers

JAX guarantees to read such files for at least six months;
`program.mlir_module_serialized` is the portable artifact within.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from sr_jax.errors import UserError
from sr_jax.files import open_atomically

PLATFORMS = ('cpu', 'cuda', 'tpu')


def export_stablehlo(
  apply_fn: Callable[[Any, jax.Array], jax.Array],
  params: Any,
  path: str | os.PathLike[str],
  *,
  scale: int,
  channels: int = 3,
  least_side: int = 1,
) -> None:
  """Writes `lr -> apply_fn(params, lr)` with symbolic batch, height, width.

  Args:
    apply_fn: Maps (params, lr `[B, H, W, C]`) to sr `[B, sH, sW, C]`; jax
      functions only, no size of lr fixed.
    params: Parameters, stored inside the program.
    path: The file to write; it appears whole or not at all.
    scale: Enlargement, which the exported output shape must have.
    channels: Channels of lr and sr.
    least_side: Least height and width of lr.

  Raises:
    UserError: the model needs to know the size of lr, its output has another
      shape, or the file cannot be written.
  """
  batch, height, width = export.symbolic_shape(
    'b, h, w', constraints=[f'{n} >= {least_side}' for n in 'hw']
  )
  lr = jax.ShapeDtypeStruct((batch, height, width, channels), jnp.float32)
  try:
    program = export.export(
      jax.jit(lambda lr: apply_fn(params, lr)), platforms=PLATFORMS
    )(lr)
  except (
    jax.errors.ConcretizationTypeError,
    jax.errors.InconclusiveDimensionOperation,
  ) as error:
    raise UserError(
      f'{path}: this model computes with matrices made for one image size, not'
      ' for any: export its weights instead, --to safetensors'
    ) from error
  (sr,) = program.out_avals
  if sr.shape != (batch, scale * height, scale * width, channels):
    raise UserError(f'{path}: the model gives {sr.shape}, not scale {scale}')
  with open_atomically(path) as file:
    file.write(program.serialize())


def load_stablehlo(
  path: str | os.PathLike[str],
) -> Callable[[jax.Array], jax.Array]:
  """The function lr -> sr that `export_stablehlo` wrote.

  Raises:
    UserError: the file is missing or no such program.
  """
  try:
    with open(path, 'rb') as file:
      data = file.read()
  except OSError as error:
    raise UserError(f'{path}: {error.strerror or error}') from None
  try:
    return jax.jit(export.deserialize(bytearray(data)).call)
  except Exception:  # flatbuffers raises whatever a byte leads to
    raise UserError(f'{path}: is no exported StableHLO program') from None
