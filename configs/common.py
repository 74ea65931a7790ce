"""Functions that all experiments share: defaults and the preset :smoke.

`--config configs/NAME.py:smoke` shrinks any experiment to seconds or minutes on
two CPU cores, most of it compilation. This shows that everything runs; the
scores are meaningless.
"""

import ml_collections

from sr_jax import defaults


def base() -> ml_collections.ConfigDict:
  """Returns all sections with their defaults, which experiments override."""
  return ml_collections.ConfigDict(defaults.base())


def degrade_bd(config: ml_collections.ConfigDict) -> None:
  """Sets the degradation BD: a 7x7 Gaussian of sigma 1.6, sampled at x3."""
  config.model.scale = 3
  config.degradation.name = 'direct'
  config.degradation.kernel = 'bd'


def degrade_dn(config: ml_collections.ConfigDict) -> None:
  """Sets the degradation DN: bicubic x3, then noise of 30 grey levels."""
  config.model.scale = 3
  config.degradation.noise_sigma = 30.0


def trained_by(
  config: ml_collections.ConfigDict, method: str, **options
) -> None:
  """Sets the method; options override its defaults in `sr_jax.defaults`."""
  section = {'name': method, **defaults.METHODS[method], **options}
  config.method = ml_collections.ConfigDict(section)


def adversarial(config: ml_collections.ConfigDict, **options) -> None:
  """Sets the method `gan`; options override its defaults."""
  trained_by(config, 'gan', **options)
  # Adversarial training lowers PSNR, which therefore cannot choose the best.
  config.eval.metrics = 'psnr,ssim,niqe'
  config.eval.crop_size = 256  # NIQE needs two blocks of 96x96
  config.checkpoint.best_by = 'niqe'
  config.checkpoint.keep = 5


def blurred(config: ml_collections.ConfigDict, method: str, **options) -> None:
  """Sets a method that blurs every image at random.

  For the fixed crops of evaluations, the blur is in the middle of the range.
  """
  trained_by(config, method, **options)
  config.degradation.name = 'blur-bicubic'
  config.degradation.kernel = 'gaussian:1.44'


def shrink_blurred(config: ml_collections.ConfigDict) -> None:
  """Makes :smoke of IKC short: its full network takes seconds for a step."""
  config.steps = config.eval.every = config.checkpoint.every = 2
  config.log_every = 1
  config.data.batch_size = 1
  config.data.patch = 8
  config.eval.crop_size = 32


def referenced(config: ml_collections.ConfigDict, **options) -> None:
  """Sets the method `reference`; options override its defaults.

  The references are made from the images themselves.
  """
  trained_by(config, 'reference', **options)
  config.data.reference = config.eval.reference = 'self'


def finish_adversarial(
  config: ml_collections.ConfigDict, preset: str | None
) -> ml_collections.ConfigDict:
  """Applies `finish`, but keeps the size of crops for the discriminator."""
  patch = config.data.patch
  config = finish(config, preset, heavy=True)
  config.data.patch = patch
  if preset == 'smoke':  # crops of :smoke are too small for NIQE
    config.eval.metrics = 'psnr,ssim'
    config.checkpoint.best_by = 'psnr'
  return config


def finish(
  config: ml_collections.ConfigDict, preset: str | None, *, heavy: bool = False
) -> ml_collections.ConfigDict:
  """Applies the preset after the colon of `--config file.py:preset`.

  Args:
    config: The experiment, which is changed.
    preset: '' or None for no preset, or 'smoke'.
    heavy: Whether a step of the model takes seconds. :smoke then trains for a
      few steps only.

  Raises:
    ValueError: The preset is unknown.
  """
  if preset not in ('', None, 'smoke'):
    raise ValueError(f'unknown preset {preset!r}; the only one is :smoke')
  if preset == 'smoke':
    _shrink(config)
    if heavy:
      _shrink_further(config)
  return config


def _shrink(config: ml_collections.ConfigDict) -> None:
  config.steps = 20
  config.log_every = 5
  config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, 5)
  config.data.source = 'embedded'
  config.data.lr_folder = config.eval.lr_folder = ''
  if config.data.reference:
    config.data.reference = config.eval.reference = 'self'
  if config.data.unlabelled:
    config.data.unlabelled = 'embedded'
  config.data.batch_size = min(config.data.batch_size, 8)
  config.data.patch = min(config.data.patch, 24)
  config.eval.every = 20
  config.eval.crops = 1
  config.eval.crop_size = 96
  config.eval.folders = ()
  config.checkpoint.every = 20
  config.checkpoint.init_from = ''
  for key in ('features_from', 'ranker_from'):
    if key in config.method:
      config.method[key] = 'random:0'


def _shrink_further(config: ml_collections.ConfigDict) -> None:
  config.steps = 2
  config.log_every = 1
  config.data.batch_size = 2
  config.data.patch = min(config.data.patch, 12)
  config.eval.every = 2
  config.eval.crops = 1
  config.eval.crop_size = 48
  config.checkpoint.every = 2
