"""What every experiment shares: sections, defaults, the :smoke preset.

`--config configs/NAME.py:smoke` shrinks any experiment to about a minute on
two CPU cores: it shows that everything runs, its scores mean nothing.
"""

import ml_collections


def base() -> ml_collections.ConfigDict:
  """All sections with their defaults; an experiment overrides them."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.steps = 100_000
  config.log_every = 100
  # Joins several hosts at start; see README, "Several hosts".
  config.multihost = False

  config.method = ml_collections.ConfigDict(
    {
      'name': 'supervised',
      # Loss over further outputs of the model: none, steps (sum over all),
      # pyramid (sum over resolutions), recursive (see configs/drcn.py),
      # curriculum (see configs/srfbn_bd.py) or residual (see configs/srnet.py).
      'outputs': 'none',
    }
  )
  config.model = ml_collections.ConfigDict(
    {
      'name': 'edsr',
      'variant': 'baseline',
      'scale': 2,
      # Computation type; parameters stay float32. bfloat16 on GPU and TPU.
      'dtype': 'float32',
    }
  )
  # l1, l2 or charbonnier; as sums over an image: euclidean, charbonnier_sum.
  config.loss = 'l1'
  config.degradation = ml_collections.ConfigDict(
    {
      'name': 'bicubic',  # bicubic, direct or blur-bicubic
      'kernel': 'bicubic',  # for the last two: gaussian:2.0, bd or a file
      'noise_sigma': 0.0,  # grey levels of 255
      'jpeg_quality': 0,  # 1..100, 0 for none
    }
  )
  config.optimizer = ml_collections.ConfigDict(
    {
      'name': 'adam',  # adam or sgd (momentum b1)
      'learning_rate': 1e-4,
      'schedule': 'constant',  # constant, cosine or step
      'warmup_steps': 0,
      # For step: where the rate is multiplied by factor; for cosine: where it
      # starts again. A network that is not updated at every step, as the
      # generator with method.generator_every=4, counts its own updates.
      'boundaries': (),
      'factor': 0.5,
      'b1': 0.9,
      'b2': 0.999,
      'eps': 1e-8,
      'weight_decay': 0.0,
      'clip_norm': 0.0,  # global gradient norm, 0 for none
      'clip_value': 0.0,  # each gradient element, 0 for none
      'clip_follows_rate': False,  # clips to the limits divided by the rate
      # (pattern, factor) of single rates: (('conv3/*', 0.1), ('*/bias', 0.1)).
      'rate_factors': (),
      'ema_decay': 0.0,  # moving average of the parameters, 0 for none
    }
  )
  config.data = ml_collections.ConfigDict(
    {
      # embedded (scikit-image's photographs), folder:PATH, tfds:NAME:SPLIT
      'source': 'embedded',
      'lr_folder': '',  # real LR images of the HR in source, matched by name
      # LR images without HR, a source as above, and their part of the batch.
      'unlabelled': '',
      'unlabelled_share': 0.3,
      # Folder of label maps of the images, PNGs of the same names (SROBB), or
      # brightness to make them up. Their ids: coco-stuff for those of its list,
      # stuffthingmaps for those of its own PNGs, one less and 255 for none.
      'labels': '',
      'label_ids': 'coco-stuff',
      # For reference-based methods, see sr_jax/data/references.py: self,
      # shifted, embedded or a folder; and the side of their crops, 0 for that
      # of HR's.
      'reference': '',
      'reference_size': 0,
      # The value that is white in files of more than 8 bits, such as 4095 for
      # 12-bit data in 16-bit files; 0 for the largest of their type, and 1 for
      # floats. For eval.source as well.
      'peak': 0.0,
      'on_bad': 'refuse',  # or skip: unreadable and too small images
      'batch_size': 16,  # of all devices and hosts together
      'patch': 48,  # side of an LR crop
      # One is drawn for each batch, whole or not; empty: the model's alone.
      'scales': (),
      'augment': True,  # flips and transpositions
      # Makes LR of crops that are wider by what blur and resizing reach, and
      # cuts it: free of mirrored borders, as LR of the whole photograph is.
      'margin': True,
      'workers': 1,
      'prefetch': 4,
      'cache_dir': '',  # decoded images; default: the user's cache folder
    }
  )
  config.eval = ml_collections.ConfigDict(
    {
      'every': 1000,
      'source': 'embedded',  # fixed crops for PSNR and image strips
      'lr_folder': '',  # real LR images of the HR in source, matched by name
      'reference': '',  # as in data
      'crops': 4,
      'crop_size': 192,
      'folders': (),  # HR folders to measure on as well, such as Set5
      'scales': (),  # to measure at; empty: the model's alone
      'protocol': 'y-uint8',
      'metrics': 'psnr,ssim',  # rmse and niqe as well
    }
  )
  config.checkpoint = ml_collections.ConfigDict(
    {
      'every': 1000,
      'keep': 2,  # newest
      # Besides, for each score of the fixed crops in best_by: 'psnr,niqe'.
      'keep_best': 1,
      'best_by': 'psnr',
      # Weights to start from; layers of other shapes stay as initialised.
      'init_from': '',
    }
  )
  return config


def degrade_bd(config: ml_collections.ConfigDict) -> None:
  """BD: a 7x7 Gaussian of sigma 1.6, then nearest-neighbour x3 reduction."""
  config.model.scale = 3
  config.degradation.name = 'direct'
  config.degradation.kernel = 'bd'


def degrade_dn(config: ml_collections.ConfigDict) -> None:
  """DN: bicubic x3 reduction, then Gaussian noise of 30 grey levels."""
  config.model.scale = 3
  config.degradation.noise_sigma = 30.0


def adversarial(config: ml_collections.ConfigDict, **options) -> None:
  """Makes it adversarial training; options replace values of the section."""
  section = {
    'name': 'gan',
    # Terms of the generator's loss; 0 leaves one out.
    'pixel_weight': 1e-2,
    'perceptual_weight': 1.0,
    'adversarial_weight': 5e-3,
    'gradient_weight': 0.0,  # SPSR's: distance of gradient maps,
    'gradient_adversarial_weight': 0.0,  # their discriminator,
    'branch_weight': 0.0,  # and the map that its generator predicts
    'variation_weight': 0.0,
    'rank_weight': 0.0,  # RankSRGAN's: what a ranker says
    # SROBB's: features within the regions of config.data.labels.
    'boundary_weight': 0.0,
    'background_weight': 0.0,
    'object_weight': 0.0,
    'perceptual': 'esrgan',  # esrgan-early, srgan-vgg54, srgan-vgg22, bsrgan
    # Layers that compare each region.
    'region_layers': {
      'boundary': 'relu1_2',
      'background': 'relu4_3',
      'object': 'relu5_3',
    },
    # HR pixels of the disk by which edges between labels become boundaries.
    'boundary_radius': 2,
    'features': 'vgg19',  # or vgg16: the network of all these features
    # Where its weights are: torchvision's file, such as vgg19-dcbb9e9d.pth, or
    # a folder that sr-jax import made of it. random:0 to try things out.
    'features_from': '',
    # The workdir of configs/ranker.py, or random:0; and what it must order by.
    'ranker_from': '',
    'rank_metric': 'niqe',
    'ranker': {'name': 'ranker', 'variant': 'paper'},
    'discriminator': {'name': 'vgg_discriminator', 'variant': '128'},
    # vanilla, least_squares, wasserstein, relativistic, relativistic_average
    'game': 'vanilla',
    # Of the last: whether the discriminator learns through the means, and what
    # they are taken over: mesh (all devices) or device.
    'detach_mean': True,
    'mean_over': 'mesh',
    'gradient_penalty': 0.0,  # WGAN-GP's weight; for wasserstein 10
    'generator_every': 1,  # steps of the discriminator for one of the generator
    'generator_first': 0,  # steps that it has for itself at the start
    # Steps in which only the generator's layers of these names learn.
    'held_steps': 0,
    'early_layers': (),
  }
  config.method = ml_collections.ConfigDict({**section, **options})
  # It lowers PSNR by design: the best by that is the one before it.
  config.eval.metrics = 'psnr,ssim,niqe'
  config.eval.crop_size = 256  # NIQE needs two blocks of 96x96
  config.checkpoint.best_by = 'niqe'
  config.checkpoint.keep = 5


def referenced(config: ml_collections.ConfigDict, **options) -> None:
  """Makes it reference-based training; options replace values of the section.

  Images of the sources get references made of themselves.
  """
  section = {
    'name': 'reference',
    # Terms of the generator's loss; 0 leaves one out.
    'pixel_weight': 1.0,
    'enlarged_weight': 0.0,  # of what is made without reference
    'perceptual': 'srntt',
    'perceptual_weight': 0.0,
    'texture_weight': 0.0,
    # (sign, centre, slope) of what it weights features by, see
    # sr_jax/losses/texture.py; () for no weights.
    'texture_threshold': (),
    'back_projection_weight': 0.0,
    'adversarial_weight': 0.0,
    'discriminator': {'name': 'srntt_discriminator', 'variant': 'released'},
    'gradient_penalty': 10.0,
    'penalty_per_pixel': False,  # True: as in SRNTT's code
    'critic_steps': 2,  # that the discriminator has for itself, in each round
    'truth_steps': True,  # the last step of a round sees HR's own features
    # Where VGG19's weights are: torchvision's vgg19-dcbb9e9d.pth, or a folder
    # that sr-jax import made of it. random:0 to try things out.
    'features_from': '',
  }
  config.method = ml_collections.ConfigDict({**section, **options})
  config.data.reference = config.eval.reference = 'self'


def finish_adversarial(
  config: ml_collections.ConfigDict, preset: str | None
) -> ml_collections.ConfigDict:
  """`finish`, with crops as large as the discriminator needs."""
  patch = config.data.patch
  config = finish(config, preset, heavy=True)
  config.data.patch = patch
  if preset == 'smoke':  # its crops are too small for NIQE
    config.eval.metrics = 'psnr,ssim'
    config.checkpoint.best_by = 'psnr'
  return config


def finish(
  config: ml_collections.ConfigDict, preset: str | None, *, heavy: bool = False
) -> ml_collections.ConfigDict:
  """Applies the preset after the colon of `--config file.py:preset`.

  Args:
    config: The experiment.
    preset: '' or None for none, or 'smoke'.
    heavy: Whether a step of the model takes seconds: :smoke then makes few.

  Raises:
    ValueError: unknown preset.
  """
  if preset not in ('', None, 'smoke'):
    raise ValueError(f'unknown preset {preset!r}; the only one is :smoke')
  if preset == 'smoke':
    _shrink(config)
    if heavy:
      _shrink_further(config)
  return config


def _shrink(config: ml_collections.ConfigDict) -> None:
  config.steps = 100
  config.log_every = 20
  config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, 10)
  config.data.source = 'embedded'
  config.data.lr_folder = config.eval.lr_folder = ''
  if config.data.reference:
    config.data.reference = config.eval.reference = 'self'
  if config.data.unlabelled:
    config.data.unlabelled = 'embedded'
  config.data.batch_size = min(config.data.batch_size, 8)
  config.data.patch = min(config.data.patch, 24)
  config.eval.every = 50
  config.eval.crops = 2
  config.eval.folders = ()
  config.checkpoint.every = 50
  config.checkpoint.init_from = ''
  for key in ('features_from', 'ranker_from'):
    if key in config.method:
      config.method[key] = 'random:0'


def _shrink_further(config: ml_collections.ConfigDict) -> None:
  config.steps = 4
  config.log_every = 2
  config.data.batch_size = 2
  config.data.patch = 16
  config.eval.every = 4
  config.eval.crops = 1
  config.eval.crop_size = 64
  config.checkpoint.every = 4
