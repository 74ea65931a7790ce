"""Kernels on the command line: several at once, and files that show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sr_jax.data.image_io import Picture, read_image, write_image
from sr_jax.data.kernel_files import save_kernel
from sr_jax.data.strips import save_png_strip
from sr_jax.errors import UserError

# What is written for an estimated kernel, after the name of the result.
KERNEL_FILES = ('kernel.npy', 'kernel.png')
# Pixels that show a tap.
_TAP = 8
# Largest side of a thumbnail.
_THUMBNAIL = 320


def split_kernels(text: str | None) -> list[str | None]:
  """The kernels of `--kernel`: one SPEC, or several between semicolons.

  Raises:
    UserError: one is empty or given twice.
  """
  if text is None or ';' not in text:
    return [text]
  specs = [spec.strip() for spec in text.split(';')]
  if '' in specs:
    raise UserError(f'--kernel {text!r}: a kernel between semicolons is empty')
  if twice := [spec for spec in specs if specs.count(spec) > 1]:
    raise UserError(f'--kernel {text!r}: {twice[0]} is given twice')
  return list(specs)


def save_kernel_files(stem: Path, kernel: np.ndarray) -> list[Path]:
  """Writes STEM_kernel.npy with the taps, and STEM_kernel.png that shows them.

  Returns:
    The files.
  """
  paths = [stem.with_name(f'{stem.name}_{what}') for what in KERNEL_FILES]
  paths[0].parent.mkdir(parents=True, exist_ok=True)
  save_kernel(paths[0], kernel)
  shown = np.kron(kernel / kernel.max(), np.ones((_TAP, _TAP)))
  write_image(paths[1], Picture(shown[..., None].clip(0, 1).astype(np.float32)))
  return paths


def save_sheet(path: Path, results: Sequence[tuple[str, Path]]) -> None:
  """Writes a sheet of thumbnails of results, each under its kernel's name.

  Thumbnails are cut from the middle of the results, not reduced: a blur or
  rings would not show in smaller pictures.

  Args:
    path: The `.png` file.
    results: Kernel and file of each result.
  """
  images = [_middle(read_image(file).color) for _, file in results]
  save_png_strip(path, images, [kernel for kernel, _ in results])


def _middle(image: np.ndarray) -> np.ndarray:
  """The middle of an image, at most `_THUMBNAIL` high and wide."""
  sides = [min(n, _THUMBNAIL) for n in image.shape[:2]]
  top, left = (
    (n - side) // 2 for n, side in zip(image.shape[:2], sides, strict=True)
  )
  return image[top : top + sides[0], left : left + sides[1], :3]
