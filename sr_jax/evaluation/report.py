"""Scores as JSON, and as a table whose header describes the protocol."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from sr_jax.data.degradation import Degradation
from sr_jax.inference.model import SRModel
from sr_jax.metrics.protocol import Metric, Protocol

PathLike = str | os.PathLike[str]

_WIDTH = 8  # width of a score in the table


class Scores(NamedTuple):
  """The scores of the images of one benchmark.

  Attributes:
    images: One row of scores per image, for each protocol.
    left_out: Reasons why images could not be measured, by their names.
    compiling: Seconds of compilation, per image.
  """

  images: Sequence[list[dict[str, Any]]]
  left_out: dict[str, str]
  compiling: list[float]


def as_json(
  model: SRModel,
  made: Degradation | None,
  protocols: Sequence[Protocol],
  metrics: Sequence[Metric],
  scores: Scores,
) -> dict[str, Any]:
  """The result of `benchmark.evaluate_folder`.

  Args:
    model: The model that was evaluated.
    made: How LR was made; None if it was read from files.
    protocols: The protocols of the evaluation.
    metrics: The metrics of the evaluation.
    scores: The scores of all images.
  """
  parts = [
    {
      'protocol': protocol.to_dict(metrics),
      'images': images,
      'mean': {
        metric.name: metric.mean([row[metric.name] for row in images])
        for metric in metrics
      },
    }
    for protocol, images in zip(protocols, scores.images, strict=True)
  ]
  how = (made or Degradation()).record()
  return {
    'model': model.name,
    'scale': model.scale,
    **(how if made else dict.fromkeys(how) | {'degradation': 'given'}),
    **parts[0],
    'left_out': scores.left_out,
    'compile_seconds': sum(scores.compiling),
    'others': parts[1:],
  }


class Table(NamedTuple):
  """The printed table: scores of every metric under every protocol.

  Attributes:
    protocols: In the order of their columns.
    metrics: In the order of their columns.
    names: Names of the images.
  """

  protocols: Sequence[Protocol]
  metrics: Sequence[Metric]
  names: Sequence[str]

  def first(self, name: str) -> str:
    """The first column of a row."""
    return f'{name:<{max(len("image"), *map(len, self.names))}}'

  def header(
    self,
    model: SRModel,
    made: Degradation | None,
    lr_dir: PathLike | None,
    tile: int | str,
  ) -> list[str]:
    """Lines that describe the protocols, and the names of the columns."""
    if made is None:
      lr = f'LR: read from {os.fspath(lr_dir or "")}'
    else:
      lr = f'LR: {made}, rounded to 8 bit'
    lines = [f'model {model.name}, scale {model.scale:g}', lr]
    for protocol in self.protocols:
      crop = math.ceil(model.scale) if protocol.crop is None else protocol.crop
      lines.append(
        f'{protocol.name}: {protocol.description}, {crop} px of border cut'
      )
    lines.append(
      'all: HR cut to a multiple of the scale, SR and HR rounded to 8 bit '
      '(to 16 where HR has them, floats not at all), resize as MATLAB '
      'imresize, no border added before the network'
    )
    lines += [f'{m.title}: {m.rules}' for m in self.metrics if m.rules]
    if tile == 'chop':
      lines.append(
        'tiles: four overlapping parts, as the test scripts of RCAN and SAN'
      )
    titles = ' '.join(f'{metric.title:>{_WIDTH}}' for metric in self.metrics)
    names = ''.join(f'  {p.name:>{len(titles)}}' for p in self.protocols)
    columns = f'  {titles}' * len(self.protocols)
    return [
      *lines,
      f'{self.first("")}{names}',
      f'{self.first("image")}{columns}   seconds',
    ]

  def line(
    self,
    name: str,
    rows: Sequence[dict[str, float]],
    seconds: float | None = None,
  ) -> str:
    """A row: a name, scores under each protocol, and seconds if known."""
    metrics = self.metrics
    cells = ''.join(
      f'  {" ".join(f"{row[m.name]:{_WIDTH}.{m.decimals}f}" for m in metrics)}'
      for row in rows
    )
    end = '' if seconds is None else f' {seconds:9.3f}'
    return f'{self.first(name)}{cells}{end}'
