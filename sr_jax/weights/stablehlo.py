"""Exports models as StableHLO programs that need neither this package nor Flax.

The file is the output of `jax.export`: one program for CPU, CUDA and TPU that
contains the weights and takes any batch size, height and width (some models
require a smallest side). JAX alone runs it:

  from jax import export
  program = export.deserialize(bytearray(open('edsr.stablehlo', 'rb').read()))
  sr = program.call(lr)          # float32 [B, H, W, C] in [0, 1]
  text = program.mlir_module()   # the StableHLO itself, for other compilers

JAX guarantees that it can read such files for at least six months. They contain
a portable StableHLO artifact, `program.mlir_module_serialized`.
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
  """Writes the program `lr -> apply_fn(params, lr)` for lr of any size.

  Args:
    apply_fn: Maps (params, lr `[B, H, W, C]`) to sr `[B, sH, sW, C]`. It must
      consist of JAX functions and work with symbolic sizes B, H and W.
    params: Parameters, which are stored inside the program.
    path: The file to write; it appears whole or not at all.
    scale: SR factor s, which is compared with the shape of the output.
    channels: Number of channels of lr and sr.
    least_side: Smallest height and width of lr.

  Raises:
    UserError: The model does not work with symbolic sizes, its output has
      another shape, or the file cannot be written.
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
      f'{path}: this model computes with matrices that are made for one image'
      ' size: export its weights as safetensors instead'
    ) from error
  (sr,) = program.out_avals
  if sr.shape != (batch, scale * height, scale * width, channels):
    raise UserError(f'{path}: the model gives {sr.shape}, not scale {scale}')
  with open_atomically(path) as file:
    file.write(program.serialize())


def load_stablehlo(
  path: str | os.PathLike[str],
) -> Callable[[jax.Array], jax.Array]:
  """Reads the function lr -> sr that `export_stablehlo` wrote.

  Raises:
    UserError: The file is missing or holds no StableHLO program.
  """
  try:
    with open(path, 'rb') as file:
      data = file.read()
  except OSError as error:
    raise UserError(f'{path}: {error.strerror or error}') from None
  try:
    return jax.jit(export.deserialize(bytearray(data)).call)
  except Exception:  # flatbuffers may raise any exception for damaged bytes
    raise UserError(f'{path}: is no exported StableHLO program') from None
