"""Evaluation during training: fixed crops, image strips, benchmark folders."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from sr_jax.data import batches, sources
from sr_jax.data.image_io import find_images, save_png_strip
from sr_jax.evaluation import Degradation, evaluate_folder
from sr_jax.inference import Upscaler
from sr_jax.loading import from_params
from sr_jax.methods import Method
from sr_jax.metric_writers import MetricWriter
from sr_jax.metrics.protocol import get_protocol, measure
from sr_jax.ops.compilation import jit
from sr_jax.ops.degrade import quantize
from sr_jax.ops.resize import imresize


class PeriodicEvaluation:
  """Scores the current parameters on the same images every time.

  Attributes:
    protocol: Rules of the scores.
  """

  def __init__(
    self, config: Mapping[str, Any], method: Method, workdir: pathlib.Path
  ):
    """Opens the fixed crops and makes their LR once.

    Raises:
      UserError: no image of `config.eval.source` is large enough, or a folder
        of `config.eval.folders` is missing or empty.
    """
    section, self._scale = config['eval'], config['model']['scale']
    self._config, self._folders = config, section['folders']
    if jax.process_index() == 0:  # it alone reads them, hours later
      for folder in self._folders:
        find_images([folder])
    made = config['degradation']
    self._degradation = Degradation(
      degradation=made['name'],
      kernel=made['kernel'],
      noise_sigma=made['noise_sigma'],
      jpeg_quality=made['jpeg_quality'] or None,
    )
    self.protocol = get_protocol(section['protocol'])
    self._tests = config['method'].get('test')
    self._predict = jit(method.predict)
    self._images = workdir / 'images'
    source = sources.open_source(
      section['source'],
      min_size=section['crop_size'],
      on_bad='skip',
      cache_dir=config['data']['cache_dir'] or None,
    )
    crops = batches.fixed_crops(
      source,
      size=section['crop_size'],
      count=section['crops'],
      scale=self._scale,
    )
    hr = crops['hr'].astype(np.float32) / 255
    key = jax.random.key(config['seed'])
    self._lr = np.asarray(
      method.degrade(key, jax.numpy.asarray(hr), self._scale)
    )
    self._hr = hr

  def __call__(
    self, step: int, params: Mapping[str, Any], writer: MetricWriter
  ) -> dict[str, float]:
    """Mean scores of `params` (by slot) on the crops.

    Every process computes them; the first writes them down, and measures
    the benchmark folders.

    Returns:
      `psnr` and `ssim` on the crops under `self.protocol`, and the PSNR of
      each benchmark folder under its name.
    """
    local = jax.device_get(params)
    if self._tests:
      sr, mean = self._fitted(local)
    else:
      sr = np.asarray(self._predict(local, self._lr))
      mean = self._mean_scores(sr)
    writer.scalars(step, {f'crops/{k}': v for k, v in mean.items()})
    if jax.process_index() == 0:
      self._save_strips(step, sr, writer)
      for folder in self._folders:
        scores = self._benchmark(folder, local)
        name = pathlib.Path(folder).name
        writer.scalars(step, {f'{name}/{k}': v for k, v in scores.items()})
        mean |= {name: scores['psnr']}
    return mean

  def _mean_scores(self, sr: np.ndarray) -> dict[str, float]:
    """Mean PSNR and SSIM of SR crops `[N, H, W, C]`."""
    scores = [
      measure(a, b, protocol=self.protocol, scale=self._scale)
      for a, b in zip(sr, self._hr, strict=True)
    ]
    return {
      name: float(np.mean([score[name] for score in scores]))
      for name in ('psnr', 'ssim')
    }

  def _fitted(
    self, params: Mapping[str, Any]
  ) -> tuple[np.ndarray, dict[str, float]]:
    """Scores of a model that fits itself to its images, kernel by kernel.

    Returns:
      SR crops of the configured kernel after the most steps; and the PSNR
      after each number of steps as `KERNEL@STEPS`, with `psnr` and `ssim` the
      means over the kernels after the most steps.
    """
    model = from_params(self._config, params, name='training')
    sr, scores, final = self._hr, {}, []
    # The configured kernel comes last: its crops become the strips.
    others = [
      k for k in self._tests['kernels'] if k != self._degradation.kernel
    ]
    for kernel in (*others, self._degradation.kernel):
      made = dataclasses.replace(self._degradation, kernel=kernel)
      lr = [made.apply(hr, '', self._scale) for hr in self._hr]
      means: dict[str, float] = {}
      for steps in sorted(self._tests['steps']):
        upscaler = Upscaler(
          model,
          kernel=kernel,
          degradation=made.degradation,
          noise_sigma=made.noise_sigma,
          adapt_steps=steps,
        )
        fits = upscaler.fit(lr)
        sr = np.stack([upscaler(*x) for x in zip(lr, fits, strict=True)])
        means = self._mean_scores(sr)
        scores[f'{kernel}@{steps}'] = means['psnr']
      final.append(means)
    mean = {k: float(np.mean([f[k] for f in final])) for k in final[0]}
    return sr, mean | scores

  def _benchmark(
    self, folder: str, params: Mapping[str, Any]
  ) -> dict[str, float]:
    """Mean scores on the HR images of a folder, as `sr-jax evaluate`."""
    result = evaluate_folder(
      from_params(self._config, params, name='training'),
      hr_dir=folder,
      degradation=self._degradation,
      protocols=[self.protocol],
    )
    return result['mean']

  def _save_strips(
    self, step: int, sr: np.ndarray, writer: MetricWriter
  ) -> None:
    """Writes bicubic | SR | HR of every crop as PNG and to TensorBoard."""
    bicubic = quantize(imresize(self._lr, scale=self._scale))
    strips = {}
    for i, images in enumerate(zip(bicubic, sr, self._hr, strict=True)):
      path = self._images / f'step_{step:08}_crop_{i}.png'
      save_png_strip(path, list(images))
      strips[f'crop_{i}'] = np.concatenate(images, axis=1)
    writer.images(step, strips)
