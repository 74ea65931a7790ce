"""Evaluation during training: fixed crops, image strips, benchmark folders."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from sr_jax import methods
from sr_jax.data import batches, opening
from sr_jax.data.degradation import REAL, Degradation
from sr_jax.data.folders import distinct_names
from sr_jax.data.image_io import find_images
from sr_jax.data.strips import save_png_strip
from sr_jax.errors import UserError
from sr_jax.evaluation.benchmark import evaluate_folder
from sr_jax.evaluation.kernels import KernelEvaluation
from sr_jax.evaluation.pairs import PairEvaluation
from sr_jax.evaluation.scores import choose
from sr_jax.evaluation.spectra import SpectraEvaluation
from sr_jax.files import remove_leftovers
from sr_jax.inference.loading import at_scale, from_params
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler
from sr_jax.methods import Method
from sr_jax.metric_writers import MetricWriter
from sr_jax.metrics.protocol import PSNR, Metric, get_protocol, measure
from sr_jax.ops.compilation import jit
from sr_jax.ops.degrade import quantize
from sr_jax.ops.levels import to_unit
from sr_jax.ops.resize import imresize
from sr_jax.ops.scales import covered_size, reduced_size

_log = logging.getLogger(__name__)


class _Test(NamedTuple):
  """The fixed crops at one scale.

  Attributes:
    config: The run's config at this scale.
    predict: `(params, lr) -> sr`, compiled.
    hr: HR crops, `[N, H, W, C]` in [0, 1].
    lr: LR crops.
    reference: References of the crops; None for methods without references.
  """

  config: Mapping[str, Any]
  predict: Callable[..., Any]
  hr: np.ndarray
  lr: np.ndarray
  reference: np.ndarray | None

  @property
  def scale(self) -> float:
    """SR factor of these crops."""
    return self.config['model']['scale']


class Evaluation(Protocol):
  """An evaluation that the train loop calls periodically.

  Attributes:
    rules: The protocol of the scores, which is stored in checkpoints.
    names: Names of the scores that may choose a checkpoint.
  """

  rules: dict[str, Any]
  names: Sequence[str]

  def __call__(
    self, step: int, params: Mapping[str, Any], writer: MetricWriter
  ) -> dict[str, float]:
    """Scores `params` (by slot); writes the scores and returns them."""
    ...


def make_evaluation(
  config: Mapping[str, Any], method: Method, workdir: pathlib.Path
) -> Evaluation:
  """Makes the evaluation that suits a method, see `Method.judges`.

  Raises:
    UserError: A file that the evaluation needs is missing.
  """
  if method.judges == 'pairs':
    return PairEvaluation(config, method)
  if method.judges == 'spectra':
    return SpectraEvaluation(config)
  if method.judges == 'kernels':
    return KernelEvaluation(config)
  return PeriodicEvaluation(config, method, workdir)


class PeriodicEvaluation:
  """Scores the current parameters on the same images every time.

  Attributes:
    protocol: Protocol of the scores.
    rules: The protocol as plain values, for checkpoints.
    names: Names of the scores of every image.
  """

  def __init__(
    self, config: Mapping[str, Any], method: Method, workdir: pathlib.Path
  ):
    """Opens the fixed crops and makes their LR once.

    Raises:
      UserError: no image of `config.eval.source` is large enough, or a folder
        of `config.eval.folders` is missing or empty.
    """
    section, own = config['eval'], config['model']['scale']
    paths = section['folders']
    self._folders = dict(zip(distinct_names(paths), paths, strict=True))
    if jax.process_index() == 0:  # only this process uses folders, hours later
      remove_leftovers(workdir / 'images')
      for folder in self._folders.values():
        find_images([folder])
    self._degradation = Degradation.from_config(config['degradation'])
    self.protocol = get_protocol(section['protocol'])
    self.rules = self.protocol.to_dict()
    self._metrics = _metrics(section['metrics'])
    self.names: Sequence[str] = [metric.name for metric in self._metrics]
    self._tests = config['method'].get('test')
    self._images = workdir / 'images'
    source = opening.held_out(config)
    crops = batches.fixed_crops(
      source,
      size=section['crop_size'],
      count=section['crops'],
      scale=own if own == int(own) else 1,
    )
    if 'lr' in crops and set(section['scales']) - {own}:
      raise UserError(
        'config.eval.scales: the LR images of config.eval.lr_folder are of'
        f' scale {own}; leave scales empty'
      )
    images = {k: to_unit(v) for k, v in crops.items()}
    self._at = [
      _test(at_scale(config, scale), method, crops['hr'].dtype, **images)
      for scale in section['scales'] or (own,)
    ]
    for test in self._at:
      self._check_crops(test)

  def __call__(
    self, step: int, params: Mapping[str, Any], writer: MetricWriter
  ) -> dict[str, float]:
    """Mean scores of `params` (by slot) on the crops.

    Every process computes them; the first writes them down, and measures
    the benchmark folders.

    Returns:
      Scores of the crops under `self.protocol` by the names of
      `config.eval.metrics`, and the PSNR of each benchmark folder under its
      name, see `folders.distinct_names`.
    """
    local = jax.device_get(params)
    found = []
    for test in self._at:
      name = _of_scale(test, self._at)
      mean = self._crops(step, test, local, writer)
      writer.scalars(step, {f'crops{name}/{k}': v for k, v in mean.items()})
      if jax.process_index() == 0:
        mean |= self._benchmarks(step, test, local, writer)
      found.append(mean)
    if len(found) == 1:
      return found[0]
    each = {
      f'{k}{_of_scale(test, self._at)}': v
      for test, scores in zip(self._at, found, strict=True)
      for k, v in scores.items()
    }
    mean = {k: float(np.mean([f[k] for f in found])) for k in self.names}
    writer.scalars(step, {f'crops/{k}': v for k, v in mean.items()})
    return mean | each

  def _crops(
    self,
    step: int,
    test: _Test,
    params: Mapping[str, Any],
    writer: MetricWriter,
  ) -> dict[str, float]:
    """Mean scores of the crops at one scale; writes the strips."""
    if self._tests:
      sr, mean = self._fitted(test, params)
    else:
      if test.reference is not None:
        referring: Any = methods.inference(test.config).referring
        params = jit(referring.look)(params, [test.reference])
      sr = np.asarray(test.predict(params, test.lr))
      sr = sr[:, : test.hr.shape[1], : test.hr.shape[2]]
      mean = self._mean_scores(test, sr)
    if jax.process_index() == 0:
      self._save_strips(step, test, sr, writer)
    return mean

  def _mean_scores(self, test: _Test, sr: np.ndarray) -> dict[str, float]:
    """Mean scores of SR crops `[N, H, W, C]`.

    A crop that a metric refuses, as NIQE does one without detail, has the worst
    score there is.
    """

    def score(metric: Metric, a: np.ndarray, b: np.ndarray) -> float:
      try:
        return self._measure(metric, test, a, b)
      except UserError:
        return metric.worst

    return {
      metric.name: float(
        metric.mean([score(metric, *x) for x in zip(sr, test.hr, strict=True)])
      )
      for metric in self._metrics
    }

  def _check_crops(self, test: _Test) -> None:
    """Refuses crops for which a metric cannot be computed."""
    for metric, hr in itertools.product(self._metrics, test.hr):
      try:
        self._measure(metric, test, hr, hr)
      except UserError as error:
        raise UserError(
          f'config.eval.crop_size={test.hr.shape[1]}: {error}'
        ) from None

  def _measure(
    self, metric: Metric, test: _Test, sr: np.ndarray, hr: np.ndarray
  ) -> float:
    options: Any = {'protocol': self.protocol, 'scale': test.scale}
    return measure(sr, hr, metrics=[metric], **options)[metric.name]

  def _fitted(
    self, test: _Test, params: Mapping[str, Any]
  ) -> tuple[np.ndarray, dict[str, float]]:
    """Scores a model that adapts to each image, for each kernel.

    Returns:
      The SR crops of the configured kernel after the largest number of steps;
      and scores: the PSNR after each number of steps, as `KERNEL@STEPS`, and
      the means of all scores over the kernels after the largest number.
    """
    model = from_params(test.config, params, name='training')
    blind = model.iterations is not None  # it is not given the kernel
    sr, scores, final = test.hr, {}, []
    training = self._degradation
    if training.degradation == REAL:  # known kernels are tested all the same
      training = Degradation('direct', self._tests['kernels'][-1])
    # The configured kernel comes last: its crops become the strips.
    others = [k for k in self._tests['kernels'] if k != training.kernel]
    for kernel in (*others, training.kernel):
      made = dataclasses.replace(training, kernel=kernel)
      lr = [made.of_file(hr, '', test.scale) for hr in test.hr]
      means: dict[str, float] = {}
      for steps in sorted(self._tests.get('steps', (None,))):
        options = UpscaleOptions(
          kernel=None if blind else kernel,
          degradation=made.degradation,
          noise_sigma=made.noise_sigma,
          mirror_border=False,
          **{'iterations' if blind else 'adapt_steps': steps},
        )
        upscaler = Upscaler(model, options)
        fits = upscaler.fit(lr)
        sr = np.stack([upscaler(*x) for x in zip(lr, fits, strict=True)])
        sr = sr[:, : test.hr.shape[1], : test.hr.shape[2]]
        means = self._mean_scores(test, sr)
        name = kernel if steps is None else f'{kernel}@{steps}'
        scores[name] = means['psnr']
      final.append(means)
    mean = {k: float(np.mean([f[k] for f in final])) for k in final[0]}
    return sr, mean | scores

  def _benchmarks(
    self,
    step: int,
    test: _Test,
    params: Mapping[str, Any],
    writer: MetricWriter,
  ) -> dict[str, float]:
    """PSNR on each benchmark folder, measured as `sr-jax evaluate` does."""
    model = from_params(test.config, params, name='training')
    found = {}
    for name, folder in self._folders.items():
      result = evaluate_folder(
        model,
        hr_dir=folder,
        degradation=self._degradation,
        protocols=[self.protocol],
      )
      for reason in result['left_out'].values():
        _log.warning('step %d: not measured: %s', step, reason)
      scores = result['mean']
      prefix = f'{name}{_of_scale(test, self._at)}'
      writer.scalars(step, {f'{prefix}/{k}': v for k, v in scores.items()})
      found[name] = scores['psnr']
    return found

  def _save_strips(
    self, step: int, test: _Test, sr: np.ndarray, writer: MetricWriter
  ) -> None:
    """Writes bicubic | SR | HR of every crop as PNG and to TensorBoard."""
    shape = test.hr.shape[1:3]
    bicubic = quantize(imresize(test.lr, scale=test.scale, shape=shape))
    strips = {}
    for i, images in enumerate(zip(bicubic, sr, test.hr, strict=True)):
      name = f'crop_{i}{_of_scale(test, self._at)}'
      save_png_strip(self._images / f'step_{step:08}_{name}.png', list(images))
      strips[name] = np.concatenate(images, axis=1)
    writer.images(step, strips)


def _metrics(names: str) -> list[Metric]:
  """The metrics that `config.eval.metrics` names."""
  try:
    chosen = choose(names)
  except UserError as error:
    raise UserError(f'config.eval.metrics: {error}') from None
  if PSNR not in chosen:
    raise UserError(f'config.eval.metrics={names}: add psnr')
  return chosen


def _test(
  config: Mapping[str, Any],
  method: Method,
  dtype: np.dtype,
  hr: np.ndarray,
  lr: np.ndarray | None = None,
  ref: np.ndarray | None = None,
) -> _Test:
  """Makes a `_Test` of crops, which are cut to a whole number of LR pixels.

  If LR is not given, it is made on the levels of `dtype`.
  """
  scale = config['model']['scale']
  rows, columns = (
    covered_size(reduced_size(n, scale), scale) for n in hr.shape[1:3]
  )
  hr = hr[:, :rows, :columns]
  if lr is None:
    key = jax.random.key(config['seed'])
    lr = np.asarray(method.degrade(key, jax.numpy.asarray(hr), scale, dtype))
  predict = jit(methods.inference(config).predict)
  return _Test(config, predict, hr, lr, ref)


def _of_scale(test: _Test, tests: Sequence[_Test]) -> str:
  """Ending of a score's name: the scale, if there are several."""
  return f'_x{test.scale:g}' if len(tests) > 1 else ''
