"""The sections of every config: their defaults, and which values they take."""

from __future__ import annotations

from typing import Any

from sr_jax.errors import (
  FLAG,
  SECTION,
  TEXT,
  Many,
  OneOf,
  Range,
  Rules,
  Section,
  whole,
)

_SIDE = 2**16  # pixels
_SCALE = Range(1, 64)


def base() -> dict[str, Any]:
  """All sections with their defaults; an experiment overrides them."""
  return {
    'seed': 0,
    'steps': 100_000,
    'log_every': 100,
    # Joins several hosts at start; see README, "Several hosts".
    'multihost': False,
    # The step from which a few are traced into WORKDIR/profile; 0 for none.
    'profile': 0,
    'method': {
      'name': 'supervised',
      # Loss over further outputs of the model: none, steps (sum over all),
      # pyramid (sum over resolutions), recursive (see configs/drcn.py),
      # curriculum (see configs/srfbn_bd.py) or residual (see configs/srnet.py).
      'outputs': 'none',
    },
    'model': {
      'name': 'edsr',
      'variant': 'baseline',
      'scale': 2,
      # Computation type; parameters stay float32. bfloat16 on GPU and TPU.
      'dtype': 'float32',
    },
    # l1, l2 or charbonnier; as sums over an image: euclidean, charbonnier_sum.
    'loss': 'l1',
    'degradation': {
      'name': 'bicubic',  # bicubic, direct or blur-bicubic
      'kernel': 'bicubic',  # for the last two: gaussian:2.0, bd or a file
      'noise_sigma': 0.0,  # grey levels of 255
      'jpeg_quality': 0,  # 1..100, 0 for none
    },
    'optimizer': {
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
    },
    'data': {
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
    },
    'eval': {
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
    },
    'checkpoint': {
      'every': 1000,
      'keep': 2,  # newest
      # Besides, for each score of the fixed crops in best_by: 'psnr,niqe'.
      'keep_best': 1,
      'best_by': 'psnr',
      # Weights to start from; layers of other shapes stay as initialised.
      'init_from': '',
    },
  }


# Defaults of the section `method`, by its name, beside those of `base`.
METHODS: dict[str, dict[str, Any]] = {
  'gan': {
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
  },
  'reference': {
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
  },
}

# Which values the keys take. The sections that are missing here, and further
# keys of `model` and `method`, are checked by the code that reads them.
RULES: Rules = {
  'seed': whole(0, 2**32 - 1),  # JAX's keys drop higher bits
  'steps': whole(),
  'log_every': whole(1),
  'multihost': FLAG,
  'profile': whole(),
  'method': SECTION,
  'model': SECTION,
  'loss': TEXT,
  'degradation': Section(
    {
      'name': TEXT,
      'kernel': TEXT,
      'noise_sigma': Range(0, 255),
      'jpeg_quality': whole(0, 100),
    }
  ),
  'data': Section(
    {
      'source': TEXT,
      'lr_folder': TEXT,
      'unlabelled': TEXT,
      'unlabelled_share': Range(0, 1),
      'labels': TEXT,
      'label_ids': TEXT,
      'reference': TEXT,
      'reference_size': whole(0, _SIDE),
      'peak': Range(),
      'on_bad': OneOf(('refuse', 'skip')),
      'batch_size': whole(1, 2**20),
      'patch': whole(1, _SIDE),
      'scales': Many(_SCALE),
      'augment': FLAG,
      'margin': FLAG,
      'workers': whole(0, 1024),
      'prefetch': whole(0, _SIDE),
      'cache_dir': TEXT,
    }
  ),
  'eval': Section(
    {
      'every': whole(1),
      'source': TEXT,
      'lr_folder': TEXT,
      'reference': TEXT,
      'crops': whole(1, _SIDE),
      'crop_size': whole(1, _SIDE),
      'folders': Many(TEXT),
      'scales': Many(_SCALE),
      'protocol': TEXT,
      'metrics': TEXT,
    }
  ),
  'checkpoint': Section(
    {
      'every': whole(1),
      'keep': whole(1),
      'keep_best': whole(),
      'best_by': TEXT,
      'init_from': TEXT,
    }
  ),
}
# Keys that the sections of all models and methods have.
COMMON: dict[str, Rules] = {
  'model': {'name': TEXT, 'scale': _SCALE},
  'method': {'name': TEXT},
}
