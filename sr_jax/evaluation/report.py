"""Scores as JSON and as a table that tells what they mean."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

from sr_jax.data.degradation import Degradation
from sr_jax.inference.model import SRModel
from sr_jax.metrics.protocol import Metric, Protocol

PathLike = str | os.PathLike[str]

_WIDTH = 8  # of a score in the table


def as_json(
  model: SRModel,
  made: Degradation | None,
  protocols: Sequence[Protocol],
  metrics: Sequence[Metric],
  scores: Sequence[list[dict[str, Any]]],
  compiling: float,
) -> dict[str, Any]:
  """The result of `evaluation.evaluate_folder`.

  Args:
    model: What was measured.
    made: How LR was made, None where it was read from files.
    protocols: Under which it was measured.
    metrics: By which.
    scores: A row per image, for each protocol.
    compiling: Seconds that went into compiling.
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
    for protocol, images in zip(protocols, scores, strict=True)
  ]
  how = dataclasses.asdict(made or Degradation())
  return {
    'model': model.name,
    'scale': model.scale,
    **(how if made else dict.fromkeys(how) | {'degradation': 'given'}),
    **parts[0],
    'compile_seconds': compiling,
    'others': parts[1:],
  }


def header(
  model: SRModel,
  made: Degradation | None,
  lr_dir: PathLike | None,
  protocols: Sequence[Protocol],
  metrics: Sequence[Metric],
  width: int,
) -> list[str]:
  """What the numbers mean, and the names of the columns."""
  if made is None:
    lr = f'LR: read from {os.fspath(lr_dir or "")}'
  else:
    lr = f'LR: {made}, rounded to 8 bit'
  lines = [f'model {model.name}, scale {model.scale:g}', lr]
  for protocol in protocols:
    crop = math.ceil(model.scale) if protocol.crop is None else protocol.crop
    lines.append(
      f'{protocol.name}: {protocol.description}, {crop} px of border cut'
    )
  lines.append(
    'all: HR cut to a multiple of the scale, SR and HR rounded to 8 bit, '
    'resize as MATLAB imresize, no border added before the network'
  )
  lines += [f'{m.title}: {m.rules}' for m in metrics if m.rules]
  titles = ' '.join(f'{metric.title:>{_WIDTH}}' for metric in metrics)
  names = ''.join(f'  {p.name:>{len(titles)}}' for p in protocols)
  columns = f'  {titles}' * len(protocols)
  return [
    *lines,
    f'{"":<{width}}{names}',
    f'{"image":<{width}}{columns}   seconds',
  ]


def line(
  name: str,
  rows: Sequence[dict[str, float]],
  metrics: Sequence[Metric],
  width: int,
  seconds: str,
) -> str:
  """A row of the table: a name, scores under each protocol, seconds."""
  cells = ''.join(
    f'  {" ".join(f"{row[m.name]:{_WIDTH}.{m.decimals}f}" for m in metrics)}'
    for row in rows
  )
  return f'{name:<{width}}{cells} {seconds}'.rstrip()
