"""Evaluation on sets of kernels: the mean over several blurs.

Gaussian8 is the set of IKC and the papers after it: eight isotropic Gaussians
for each scale, 21x21 taps, whose standard deviations are evenly spaced. LR is
the blurred HR, reduced by bicubic.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sr_jax.data.degradation import Degradation
from sr_jax.errors import UserError
from sr_jax.evaluation.benchmark import PathLike, Report, evaluate_folder
from sr_jax.evaluation.report import Table
from sr_jax.inference.model import SRModel
from sr_jax.inference.options import UpscaleOptions
from sr_jax.metrics.protocol import Metric, Protocol

# Least and largest standard deviation in HR pixels, by scale.
_GAUSSIAN8 = {2: (0.8, 1.6), 3: (1.35, 2.4), 4: (1.8, 3.2)}


def gaussian8(scale: float) -> list[str]:
  """The SPECs of Gaussian8's kernels.

  Raises:
    UserError: The set is not defined for this scale.
  """
  if scale not in _GAUSSIAN8:
    raise UserError(
      f'gaussian8 is a set of kernels for x2, x3 and x4, not x{scale:g}: choose'
      ' another degradation'
    )
  sigmas = np.linspace(*_GAUSSIAN8[int(scale)], 8)
  return [f'sigma:{round(float(s), 6):g}' for s in sigmas]


# The kernels of a set at a scale, by the name of the set.
KERNEL_SETS: Mapping[str, Callable[[float], list[str]]] = {
  'gaussian8': gaussian8
}


def evaluate_kernels(
  model: SRModel,
  name: str,
  *,
  hr_dir: PathLike,
  protocols: Sequence[Protocol],
  metrics: Sequence[Metric],
  options: UpscaleOptions | None = None,
  assumed_kernel: str | None = None,
  degradation: Degradation | None = None,
  save_images: PathLike | None = None,
  report: Report | None = None,
  peak: float = 0.0,
) -> dict[str, Any]:
  """Measures a model on a folder that is blurred by each kernel of a set.

  Args:
    model: What to measure.
    name: One of `KERNEL_SETS`.
    hr_dir: As for `benchmark.evaluate_folder`, as the following arguments.
    protocols: The same.
    metrics: The same.
    options: The same.
    assumed_kernel: The same.
    degradation: Noise, JPEG and seed; its kernel is not used.
    save_images: Folder of folders, one for each kernel.
    report: Called with each line of a table that has a row for each kernel.
    peak: As for `benchmark.evaluate_folder`.

  Returns:
    `kernels`, the result of `benchmark.evaluate_folder` for each kernel, and
    under the keys of such a result what is common to them, with the means over
    the kernels.

  Raises:
    UserError: As for `benchmark.evaluate_folder`.
  """
  report = report or (lambda line: None)
  specs = KERNEL_SETS[name](model.scale)
  like = degradation or Degradation()
  table = Table(protocols, metrics, [f'kernel {spec}' for spec in specs])
  results = []
  for spec in specs:
    made = Degradation(
      'blur-bicubic', spec, like.noise_sigma, like.jpeg_quality, like.seed
    )
    folder = None
    if save_images is not None:
      folder = Path(save_images, spec.replace(':', '_'))
    result = evaluate_folder(
      model,
      hr_dir=hr_dir,
      degradation=made,
      protocols=protocols,
      metrics=metrics,
      options=options,
      assumed_kernel=assumed_kernel,
      save_images=folder,
      peak=peak,
    )
    if not results:
      lines = table.header(model, made, None, result['tile'])
      lines[1] = (
        f'LR: {name}, {len(specs)} kernels ({specs[0]} to {specs[-1]}),'
        f' {str(made).replace(f", kernel {spec}", "")}, rounded to 8 bit'
      )
      images = len(result['images'])
      report(f'{os.fspath(hr_dir)}: mean over {images} images in each row')
      for line in lines:
        report(line)
    results.append(result)
    rows = _means(result)
    seconds = float(np.mean([image['seconds'] for image in result['images']]))
    report(table.line(f'kernel {spec}', rows, seconds))
  total = _total(name, results, metrics)
  report(table.line('mean', _means(total)))
  return total


def _means(result: Mapping[str, Any]) -> list[dict[str, float]]:
  """Mean scores of a result under each protocol."""
  return [result['mean'], *(other['mean'] for other in result['others'])]


def _total(
  name: str, results: Sequence[dict[str, Any]], metrics: Sequence[Metric]
) -> dict[str, Any]:
  """The results of all kernels as one, with the means over the kernels."""
  rows = [_means(result) for result in results]
  means = [
    {m.name: m.mean([row[i][m.name] for row in rows]) for m in metrics}
    for i in range(len(rows[0]))
  ]
  first = results[0]
  shared = {
    key: value
    for key, value in first.items()
    if key not in ('images', 'mean', 'others', 'left_out', 'compile_seconds')
  }
  return {
    **shared,
    'degradation': name,
    'kernel': None,
    'mean': means[0],
    'others': [
      {'protocol': other['protocol'], 'mean': mean}
      for other, mean in zip(first['others'], means[1:], strict=True)
    ],
    'left_out': {
      k: v for result in results for k, v in result['left_out'].items()
    },
    'compile_seconds': sum(result['compile_seconds'] for result in results),
    'kernels': results,
  }
