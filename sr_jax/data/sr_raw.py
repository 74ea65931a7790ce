"""Turns SR-RAW (Zhang et al., CVPR 2019) into aligned LR and HR images.

    sr-jax prepare sr-raw SR-RAW/train -o PAIRS --scale 4

writes the folders PAIRS/X4/LR and PAIRS/X4/HR, as the released preparation of
SRNet does. Training and evaluation read them by `lr_folder`. SR-RAW has a
folder for each sequence of photographs, which show the same scene at seven
focal lengths, from 00001.JPG (240 mm) to 00007.JPG (24 mm). The alignment
script of the data set adds tform.txt:

    00001-00002:
    1.0000 0.0000 3.0000
    0.0000 1.0000 -2.0000

and so on. Each entry is the affine map from pixels (x, y) of view 1 to those of
another view, where both are cropped to the field of view of view 1 and enlarged
to its size. The format is known from this script alone; no file of the data set
was at hand. A pair consists of two images:

  LR: the view with the shorter focal length, of which only the field of view of
      view 1 is kept, without a margin of 20 pixels on each side;
  HR: the view with the longer focal length, cropped and enlarged to the field
      of view of view 1, and moved so that it lies on the other view. Its middle
      is resized by Lanczos to the size of LR times the scale.

There are two differences to the released preparation. It applies two maps and
interpolates for each of them; this module combines the maps and interpolates
once. Like the alignment script, but unlike the released preparation, this
module rotates sequences that were taken upside down.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from sr_jax.data import folders
from sr_jax.data.image_io import Picture, write_image
from sr_jax.errors import UserError

# Pairs of views (HR, LR) by scale. The ratio of their focal lengths is roughly
# the scale.
_PAIRS = {4: ((1, 5), (2, 6), (3, 7)), 8: ((1, 6),)}
# Photographs (sequence, view) of the training set that SRNet's authors left
# out.
_BAD = {
  **{('00004', view): 'cannot be aligned' for view in range(1, 8)},
  **{('00350', view): 'is a damaged file' for view in (5, 6, 7)},
  ('00560', 6): 'is of the next sequence (its 00001)',
}
_MARGIN = 20
# EXIF tags of the camera's data, focal length and orientation, and the
# orientation of a photograph that was taken upside down.
_CAMERA, _FOCAL, _ORIENTATION, _TURNED = 0x8769, 37386, 274, 3


class Prepared(NamedTuple):
  """The outcome of a preparation; pairs have names such as `00134_00005`.

  Attributes:
    written: Names of the pairs that exist now.
    skipped: (name, reason) of the other pairs.
  """

  written: list[str]
  skipped: list[tuple[str, str]]


def prepare(folder: Path, out: Path, scale: int) -> Prepared:
  """Writes all pairs of a folder of sequences that do not exist yet.

  Args:
    folder: Folder of the sequences, such as SR-RAW's `train`.
    out: Folder in which `X4` or `X8` is made.
    scale: 4 or 8.

  Raises:
    UserError: The folder does not exist, the scale is not 4 or 8, or no pair
      can be made.
  """
  if scale not in _PAIRS:
    raise UserError(f'scale {scale}: SR-RAW has pairs for 4 and 8')
  written, skipped = [], []
  for sequence in _sequences(folder):
    for hr_view, lr_view in _PAIRS[scale]:
      name = f'{sequence.name}_{lr_view:05}'
      targets = [out / f'X{scale}' / k / f'{name}.png' for k in ('LR', 'HR')]
      try:
        if not all(target.exists() for target in targets):
          images = make_pair(sequence, hr_view, lr_view, scale)
          for target, image in zip(targets, images, strict=True):
            write_image(target, Picture(image / np.float32(255)))
        written.append(name)
      except _Unfit as error:
        skipped.append((name, str(error)))
        print(f'skipped {name}: {error}', file=sys.stderr)
  if not written:
    first = ': '.join(skipped[0]) if skipped else 'it has no sequences'
    raise UserError(f'{folder}: no pair can be made; {first}')
  return Prepared(written, skipped)


class _Unfit(Exception):
  """The reason why a pair cannot be made."""


def _sequences(folder: Path) -> Iterator[Path]:
  """Yields the folders with photographs, in the order of their names."""
  if not folder.is_dir():
    raise UserError(f'{folder}: no such folder: check the path')
  if _files(folder):
    raise UserError(
      f'{folder}: has photographs itself: give the folder of the sequences'
    )
  for path in sorted(folder.iterdir()):
    if path.is_dir() and not folders.passed_over(path.name):
      if _files(path):
        yield path
      else:
        print(f'skipped {path.name}: has no photographs', file=sys.stderr)


def _files(sequence: Path) -> dict[str, Path]:
  """Returns photographs by their names without suffix, such as `00001`."""
  return {
    path.stem: path
    for path in sequence.iterdir()
    if path.suffix.lower() in ('.jpg', '.jpeg') and path.stem.isdecimal()
  }


def make_pair(
  sequence: Path, hr_view: int, lr_view: int, scale: int
) -> tuple[np.ndarray, np.ndarray]:
  """Makes LR and HR from two views of a sequence.

  Returns:
    uint8 `[H, W, 3]` and `[sH, sW, 3]`.
  """
  for view in (hr_view, lr_view):
    if reason := _BAD.get((sequence.name, view)):
      raise _Unfit(f'{view:05} {reason}')
  files = [_file(sequence, view) for view in (1, hr_view, lr_view)]
  (first, turned), (hr_focal, _), (lr_focal, _) = map(_read_exif, files)
  to_hr, to_lr = (_read_tform(sequence, view) for view in (hr_view, lr_view))
  hr, lr = (_read_pixels(path, turned) for path in files[1:])
  zoom = first / lr_focal
  shape = tuple(2 * int(n / zoom / 2 - _MARGIN) for n in lr.shape[:2])
  if min(shape) < 2:
    raise _Unfit(f'{lr_view:05} shows too little of the scene of 00001')
  frame = _at_field_of_view(hr, first / hr_focal)
  aligned = _aligned(
    frame, to_hr @ np.linalg.inv(to_lr), tuple(int(n * zoom) for n in shape)
  )
  size = (scale * shape[1], scale * shape[0])
  large = Image.fromarray(aligned).resize(size, Image.Resampling.LANCZOS)
  return _middle(lr, shape), np.asarray(large)


def _file(sequence: Path, view: int) -> Path:
  path = _files(sequence).get(f'{view:05}')
  if path is None:
    raise _Unfit(f'{view:05}.JPG is missing')
  return path


def _read_exif(path: Path) -> tuple[float, bool]:
  """Reads the focal length in mm, and whether the camera was upside down."""
  try:
    with Image.open(path) as image:
      exif = image.getexif()
      focal = float(exif.get_ifd(_CAMERA).get(_FOCAL, 0))
  except (OSError, SyntaxError, ValueError, ZeroDivisionError) as error:
    raise _Unfit(f'{path.name} cannot be read: {error}') from error
  if not focal > 0:
    raise _Unfit(f'{path.name} does not give its focal length (EXIF)')
  return focal, exif.get(_ORIENTATION) == _TURNED


def _read_pixels(path: Path, turned: bool) -> np.ndarray:
  """Reads uint8 `[H, W, 3]`, rotated by 180 degrees if `turned`."""
  try:
    with Image.open(path) as image:
      pixels = np.asarray(image.convert('RGB'))
  except (OSError, SyntaxError, ValueError) as error:
    raise _Unfit(f'{path.name} cannot be read: {error}') from error
  return pixels[::-1, ::-1] if turned else pixels


def _read_tform(sequence: Path, view: int) -> np.ndarray:
  """Reads the affine map `[3, 3]` of (x, y, 1) from view 1 to another."""
  head = f'00001-{view:05}:'
  try:
    lines = (sequence / 'tform.txt').read_text().splitlines()
  except (OSError, ValueError) as error:
    raise _Unfit(
      "tform.txt cannot be read; the data set's run_align.sh writes it"
    ) from error
  found = [i for i, line in enumerate(lines) if line.strip() == head]
  if not found:
    raise _Unfit(f'tform.txt has no {head}')
  try:
    rows = [
      [float(x) for x in line.split()]
      for line in lines[found[0] + 1 : found[0] + 3]
    ]
    matrix = np.array([*rows, [0, 0, 1]])
  except ValueError as error:
    raise _Unfit(f'tform.txt has no two rows of numbers at {head}') from error
  usable = matrix.shape == (3, 3) and np.isfinite(matrix).all()
  if not usable or abs(np.linalg.det(matrix)) < 1e-6:
    raise _Unfit(f'tform.txt has no affine map at {head}')
  return matrix


def _middle(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  top, left = ((n - m) // 2 for n, m in zip(image.shape, shape, strict=False))
  return image[top : top + shape[0], left : left + shape[1]]


def _at_field_of_view(image: np.ndarray, zoom: float) -> np.ndarray:
  """Enlarges the middle of an image, 1 / `zoom` of its sides, to its size.

  The size of the result may differ from that of the image by rounding.
  """
  low = [int(np.ceil((n - n / zoom) / 2)) for n in image.shape[:2]]
  high = [int(np.floor((n + n / zoom) / 2)) for n in image.shape[:2]]
  crop = image[low[0] : high[0], low[1] : high[1]]
  size = (int(crop.shape[1] * zoom), int(crop.shape[0] * zoom))
  large = Image.fromarray(crop).resize(size, Image.Resampling.LANCZOS)
  return np.asarray(large)


def _aligned(
  frame: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
  """Transforms an image and returns the middle of the result.

  Pixel p of the result is taken from `matrix @ p` in `frame`.

  Raises:
    _Unfit: A part of the result lies outside of `frame`.
  """
  start = [(n - m) // 2 for n, m in zip(frame.shape, shape, strict=False)]
  # From (x, y) to (row, column).
  swap = np.eye(3)[[1, 0, 2]]
  matrix = swap @ matrix @ swap
  offset = matrix[:2, :2] @ start + matrix[:2, 2]
  ends = np.array(
    [[i, j] for i in (0, shape[0] - 1) for j in (0, shape[1] - 1)]
  )
  corners = ends @ matrix[:2, :2].T + offset
  limits = np.array(frame.shape[:2]) - 1
  if (corners < 0).any() or (corners > limits).any():
    raise _Unfit('tform.txt moves the view beyond its border')
  moved = [
    ndimage.affine_transform(
      frame[..., channel].astype(np.float32),
      matrix[:2, :2],
      offset,
      shape,
      order=1,
    )
    for channel in range(3)
  ]
  return np.rint(np.stack(moved, axis=-1)).astype(np.uint8)
