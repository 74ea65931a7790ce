"""Images side by side in one picture, with labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sr_jax.data import sample_values
from sr_jax.data.image_io import Picture, write_image

# Pixels between images, and before and above each line of a label.
_GAP, _INSET = 2, 1
# Height of a line, and of the empty space below the last one.
_LINE, _BELOW = 12, 2
# Width of a cell that a longer label wraps at, unless its image is wider.
_LEAST_CELL = 160


def save_png_strip(
  path: Path | str,
  images: Sequence[np.ndarray],
  labels: Sequence[str] | None = None,
) -> None:
  """Writes images side by side (bicubic | SR | HR) as one 8-bit PNG.

  Args:
    path: The `.png` file.
    images: `[H, W, 3]` or `[H, W, 1]` in [0, 1]; lower ones stand on white.
    labels: A text above each image. A label that is wider than its image gets
      white space beside the image, and several lines if it is still too long.

  Raises:
    UserError: As `write_image`.
  """
  texts = [''] * len(images) if labels is None else labels
  cells = [
    _cell(image.shape[1], text)
    for image, text in zip(images, texts, strict=True)
  ]
  most = max(len(lines) for _, lines in cells)
  header = most * _LINE + _BELOW if most else 0
  height = header + max(image.shape[0] for image in images)
  width = sum(cell for cell, _ in cells) + _GAP * (len(cells) - 1)
  canvas = np.ones((height, width, 3), np.float32)
  lefts = np.cumsum([0, *(cell + _GAP for cell, _ in cells)])
  for image, left in zip(images, lefts, strict=False):
    rows, columns = image.shape[:2]
    canvas[header : header + rows, left : left + columns] = image
  strip = Image.fromarray(sample_values.quantized(canvas, 8))
  draw = ImageDraw.Draw(strip)
  for (_, lines), left in zip(cells, lefts, strict=False):
    for i, line in enumerate(lines):
      draw.text((left + _INSET, _INSET + i * _LINE), line, fill=(0, 0, 0))
  write_image(path, Picture(np.asarray(strip, np.float32) / 255))


def _cell(image: int, label: str) -> tuple[int, list[str]]:
  """Returns the width of a cell and the lines of its label.

  Args:
    image: The width of the cell's image.
    label: A text, perhaps empty.
  """
  if not label:
    return image, []
  most = max(image, _LEAST_CELL)
  lines = ['']
  for piece in _pieces(label, most):
    if _width(lines[-1] + piece) <= most:
      lines[-1] += piece
    else:
      lines.append(piece.lstrip())
  return max(image, *(_width(line) for line in lines)), lines


def _pieces(label: str, most: int) -> list[str]:
  """The parts of a label between which a line may end.

  They end with punctuation or before a space; longer ones are single letters.
  """
  parts = re.findall(r'\s*[^\s,;:/_-]*[,;:/_-]*', label)
  return [
    piece
    for part in parts
    for piece in (part if _width(part) > most else [part])
  ]


def _width(text: str) -> int:
  """Pixels that a line takes."""
  font = ImageFont.load_default()
  return int(np.ceil(font.getlength(text))) + 2 * _INSET
