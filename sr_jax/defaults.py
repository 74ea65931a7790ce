"""The sections of every config: defaults, meaning, and allowed values."""

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
# Ranges of both rounds of config.degradation.real. An operation has a share of
# the images and a range: up, down, reduce (by a factor), sample (a Gaussian,
# then every s-th pixel), gaussian, poisson and jpeg.
_ROUND = (
  'families',  # shares of the seven families in sr_jax/ops/kernel_families.py
  'taps',
  'sigma',
  'variance',  # takes the place of sigma for anisotropic kernels unless (0, 0)
  'generalised_beta',
  'plateau_beta',
  'small_cutoff',  # of sinc kernels of less than 13 taps; 1 is Nyquist
  'large_cutoff',
  'up',
  'down',
  'methods',  # shares of area, linear, cubic, antialiased
  'gaussian',  # grey levels of 255
  'poisson',
  'colours',  # shares of channels, grey, covariance
)
_SCALE = Range(1, 64)


def base() -> dict[str, Any]:
  """Returns all sections with their defaults, which experiments override."""
  return {
    'seed': 0,
    'steps': 100_000,
    'log_every': 100,
    # Whether the run joins several hosts; see docs/devices.md.
    'multihost': False,
    # First of a few steps that are traced into WORKDIR/profile; 0 traces none.
    'profile': 0,
    'method': {
      'name': 'supervised',
      # How the loss uses further outputs of the model: none (SR alone), steps
      # (sum over all outputs), pyramid (sum over resolutions), recursive (see
      # configs/drcn.py), curriculum (see configs/srfbn_bd.py) or residual (see
      # configs/srnet.py).
      'outputs': 'none',
    },
    'model': {
      'name': 'edsr',
      'variant': 'baseline',
      'scale': 2,
      # Type of computations, float32 or bfloat16 (for GPU and TPU); parameters
      # stay float32.
      'dtype': 'float32',
    },
    # l1, l2 or charbonnier, which are means over all elements; euclidean or
    # charbonnier_sum, which are sums over an image.
    'loss': 'l1',
    # HR pixels along each side of an output that the loss leaves out: there
    # the network sees the zeros beyond the crop.
    'loss_border': 0,
    'degradation': {
      'name': 'bicubic',  # bicubic, direct, blur-bicubic or real
      # The blur of direct and blur-bicubic: gaussian:2.0, bd or a file.
      'kernel': 'bicubic',
      'noise_sigma': 0.0,  # standard deviation in grey levels of 255
      'jpeg_quality': 0,  # 1..100; 0 turns JPEG off
      # What name='real' draws for each image, see docs/degradations.md. Empty
      # values are those of the preset, which sr_jax/data/real_presets.py lists.
      'real': {
        'preset': 'realesrgan',  # bsrgan, realesrgan or camera-mild
        'order': '',  # rounds or shuffled
        # Shares of the images that are whole, or halved before all else; and
        # shares of the methods area, linear, cubic, antialiased of halving.
        'halved': (),
        'halving': (),
        # First round: blur, resize, noise, JPEG; second: blur, resize, noise.
        'first': dict.fromkeys((*_ROUND, 'reduce', 'sample', 'jpeg'), ()),
        'second': dict.fromkeys(_ROUND, ()),
        # The resize to LR, the sinc filter (share, least and most cut-off), and
        # JPEG, with shares of its places before and after these two.
        'last': dict.fromkeys(
          ('methods', 'sinc', 'taps', 'jpeg', 'jpeg_place'), ()
        ),
      },
    },
    'optimizer': {
      'name': 'adam',  # adam or sgd (momentum b1)
      'learning_rate': 1e-4,
      'schedule': 'constant',  # constant, cosine or step
      'warmup_steps': 0,
      # Steps at which schedule step multiplies the rate by factor, or at which
      # schedule cosine starts again. A network that is not updated at every
      # step (the generator with method.generator_every=4) counts its updates.
      'boundaries': (),
      'factor': 0.5,
      'b1': 0.9,
      'b2': 0.999,
      'eps': 1e-8,
      'weight_decay': 0.0,
      'clip_norm': 0.0,  # limit of the global gradient norm; 0 turns it off
      'clip_value': 0.0,  # limit of each gradient element; 0 turns it off
      'clip_follows_rate': False,  # divides both limits by the rate
      # (pattern, factor) for the rates of some parameters, for example
      # (('conv3/*', 0.1), ('*/bias', 0.1)).
      'rate_factors': (),
      # Decay of the moving average of parameters; 0 turns the average off.
      'ema_decay': 0.0,
    },
    'data': {
      # embedded (scikit-image's photographs), folder:PATH, tfds:NAME:SPLIT
      'source': 'embedded',
      'lr_folder': '',  # real LR images of the HR in source, matched by name
      # A source of LR images without HR, and their share of the batch.
      'unlabelled': '',
      'unlabelled_share': 0.3,
      # Folder of label maps (for SROBB): PNGs with the names of the images; or
      # brightness, which makes maps from the images. The ids are those of
      # COCO-Stuff's list (coco-stuff), or those of its PNGs (stuffthingmaps),
      # which are one less, with 255 for no label.
      'labels': '',
      'label_ids': 'coco-stuff',
      # References of reference-based methods: self, shifted, embedded or a
      # folder, see sr_jax/data/references.py. reference_size is the side of
      # their crops in pixels; 0 takes the side of HR crops.
      'reference': '',
      'reference_size': 0,
      # The value of white in files of more than 8 bits, such as 4095 for 12-bit
      # data in 16-bit files; also for eval.source. 0 means the largest value of
      # the type, and 1 for floats.
      'peak': 0.0,
      'on_bad': 'refuse',  # unreadable or too small images: refuse or skip
      'batch_size': 16,  # number of crops on all devices and hosts together
      'patch': 48,  # side of an LR crop in pixels
      # Scales, one of which is drawn for each batch; they need not be whole.
      # Empty: model.scale alone.
      'scales': (),
      'augment': True,  # flips and transposes crops at random
      # Least root mean square difference of neighbouring pixels in an HR crop,
      # in grey levels of 255. Flatter crops are drawn again, nine times at
      # most; 0 takes every crop.
      'min_gradient': 0.0,
      # Makes LR from crops with a margin that is removed afterwards. LR is then
      # free of mirrored borders, as LR of the whole photograph is.
      'margin': True,
      'workers': 1,
      'prefetch': 4,
      # Folder of decoded images; empty: sr_jax in the user's cache folder.
      'cache_dir': '',
    },
    'eval': {
      'every': 1000,
      'source': 'embedded',  # fixed crops for PSNR and image strips
      'lr_folder': '',  # real LR images of the HR in source, matched by name
      'reference': '',  # as in data
      'crops': 4,
      'crop_size': 192,
      'folders': (),  # further HR folders to evaluate, such as Set5
      'scales': (),  # scales of the evaluation; empty: model.scale alone
      'protocol': 'y-uint8',
      'metrics': 'psnr,ssim',  # rmse and niqe are possible too
    },
    'checkpoint': {
      'every': 1000,
      'keep': 2,  # number of newest checkpoints to keep
      # Number of best checkpoints to keep as well, for each score of the fixed
      # crops in best_by, such as 'psnr,niqe'.
      'keep_best': 1,
      'best_by': 'psnr',
      # Checkpoint whose weights a new run starts from; layers of other shapes
      # keep their initial values.
      'init_from': '',
    },
  }


# The blurs of training images: isotropic Gaussians, whose standard deviation in
# HR pixels is uniform in this range.
_BLURS: dict[str, Any] = {
  'min_sigma': 0.2,
  'max_sigma': 2.0,
  'kernel_size': 21,
}
# Defaults of the section `method`, by the name of the method. Keys that may be
# left out, such as `test` of `meta_transfer`, have no default.
METHODS: dict[str, dict[str, Any]] = {
  'gan': {
    # Terms of the generator's loss; 0 leaves one out.
    'pixel_weight': 1e-2,
    'perceptual_weight': 1.0,
    'adversarial_weight': 5e-3,
    'gradient_weight': 0.0,  # SPSR: distance of gradient maps
    'gradient_adversarial_weight': 0.0,  # SPSR: discriminator of gradient maps
    'branch_weight': 0.0,  # SPSR: gradient map that the generator predicts
    'variation_weight': 0.0,
    'rank_weight': 0.0,  # RankSRGAN: score by a ranker
    # SROBB: distances of features within the regions of config.data.labels.
    'boundary_weight': 0.0,
    'background_weight': 0.0,
    'object_weight': 0.0,
    'perceptual': 'esrgan',  # esrgan-early, srgan-vgg54, srgan-vgg22, bsrgan
    # Layer whose features compare each region.
    'region_layers': {
      'boundary': 'relu1_2',
      'background': 'relu4_3',
      'object': 'relu5_3',
    },
    # Boundaries are pixels within this distance (in HR pixels) of an edge
    # between labels.
    'boundary_radius': 2,
    'features': 'vgg19',  # network of all these features, vgg19 or vgg16
    # Weights of this network: torchvision's file, such as vgg19-dcbb9e9d.pth,
    # or a folder that sr-jax import made from it. random:0 is for trials.
    'features_from': '',
    # The workdir of configs/ranker.py, or random:0 for trials; and the metric
    # by which the ranker must order images.
    'ranker_from': '',
    'rank_metric': 'niqe',
    'ranker': {'name': 'ranker', 'variant': 'paper'},
    'discriminator': {'name': 'vgg_discriminator', 'variant': '128'},
    # vanilla, least_squares, wasserstein, relativistic, relativistic_average
    'game': 'vanilla',
    # For relativistic_average: whether the means pass no gradient to the
    # discriminator, and whether they are taken over all devices (mesh) or on
    # each (device).
    'detach_mean': True,
    'mean_over': 'mesh',
    'gradient_penalty': 0.0,  # weight of WGAN-GP's penalty; 10 for wasserstein
    'generator_every': 1,  # steps of the discriminator per generator update
    'generator_first': 0,  # steps of the discriminator alone at the start
    # Number of first steps in which only early_layers of the generator learn;
    # these are patterns of layer names.
    'held_steps': 0,
    'early_layers': (),
  },
  'reference': {
    # Terms of the generator's loss; 0 leaves one out.
    'pixel_weight': 1.0,
    'enlarged_weight': 0.0,  # distance to HR of the result without reference
    'perceptual': 'srntt',
    'perceptual_weight': 0.0,
    'texture_weight': 0.0,
    # (sign, centre, slope) of the threshold that weights features in the
    # texture loss, see sr_jax/losses/texture.py; () gives all the weight 1.
    'texture_threshold': (),
    'back_projection_weight': 0.0,
    'adversarial_weight': 0.0,
    'discriminator': {'name': 'srntt_discriminator', 'variant': 'released'},
    'gradient_penalty': 10.0,
    'penalty_per_pixel': False,  # norms per pixel, as in SRNTT's code
    'critic_steps': 2,  # steps of the discriminator alone in each round
    'truth_steps': True,  # whether a round ends with a step with HR's features
    # Weights of VGG19: torchvision's vgg19-dcbb9e9d.pth, or a folder that
    # sr-jax import made from it. random:0 is for trials.
    'features_from': '',
  },
  'dual_regression': {
    'dual_weight': 0.1,  # 0 turns the dual terms off
    'hr_cycle': False,  # adds the cycle from HR to LR and back
    # Whether dual networks are composed down to LR. Otherwise each maps to the
    # level below it.
    'compose': False,
  },
  'meta_transfer': {
    # Number of tasks per outer step, and of their support and query images;
    # data.batch_size is the number of all images.
    'tasks': 5,
    'support': 8,
    'query': 8,
    'scales': (2.0,),
    # Kernels are random Gaussians at any angle. The larger variance is in
    # [min_variance, max_variance * scale], the smaller in [min_variance, larger
    # variance].
    'kernel_size': 15,
    'min_variance': 1.0,
    'max_variance': 2.5,
    'inner': {
      'steps': 5,
      'rate': 0.01,
      'learned_rates': '',  # layer (LSLR) or weight (Meta-SGD): trains them
      'unroll': False,  # unrolls the loop of steps: faster, more memory
    },
    'outer': {
      'weights': 'annealed',  # or uniform
      'saturate_at': 9700 / 3,
      'exact_from': 0,  # uses first-order gradients before this step
      'task_axis': 'auto',  # map, vmap or unroll
    },
    # How trained weights are fitted to an image; stored in the checkpoint.
    'adapt': {
      'steps': 10,
      # Rate of each step; the last rate also holds for further steps.
      'rates': (0.02, 0.01, 0.01, 0.01, 0.005),
    },
  },
  'ranking': {
    'metric': 'niqe',  # METRIC.txt of the data set holds the labels
    'better': 'lower',  # which scores of the metric are better; or higher
    'margin': 0.5,
    'l2_weight': 1e-4,
  },
  'kernel_estimation': {
    'per_image': 12,  # reductions of a photograph at each scale
    'wide_penalty': 1.2,  # factor on errors towards a wider kernel
    # Weights of two further losses: of the error that the network expects of
    # its estimate, and of the class of degradation (blurred, bicubic, none).
    'error_weight': 0.005,
    'origin_weight': 0.15,
  },
  # IKC: a network that is given the kernel (SFTMD), and the networks that
  # predict and correct it.
  'kernel_conditioned': _BLURS,
  'kernel_correction': {
    **_BLURS,
    'corrections': 7,  # of each image, in training and afterwards
    'predictor_features': 64,
    'corrector_features': 64,
  },
  # KernelGAN's game from meta-trained weights.
  'kernel_game': {
    'iterations': 8,
    'rate': 0.01,  # of every layer and iteration, before the training
    'judge_features': 16,
    # Range of the variances of kernels, in HR pixels squared.
    'min_variance': 0.2,
    'max_variance': 5.0,
    'task_axis': 'map',  # or vmap, unroll
  },
  'warping': {
    # Weight of the loss of warped references: 0 in the released code, 1 in
    # CrossNet++.
    'warp_weight': 0.0,
    # The model that enlarges LR first, as a section `model` without scale, or
    # bicubic; and the checkpoint of this model.
    'sisr': {'name': 'bicubic', 'variant': ''},
    'sisr_from': '',
  },
}

# Allowed values of the keys. Sections that are missing here, and further keys
# of `model` and `method`, are checked by the code that reads them.
RULES: Rules = {
  'seed': whole(0, 2**32 - 1),  # JAX's keys drop higher bits
  'steps': whole(),
  'log_every': whole(1),
  'multihost': FLAG,
  'profile': whole(),
  'method': SECTION,
  'model': SECTION,
  'loss': TEXT,
  'loss_border': whole(0, _SIDE),
  'degradation': Section(
    {
      'name': TEXT,
      'kernel': TEXT,
      'noise_sigma': Range(0, 255),
      'jpeg_quality': whole(0, 100),
      'real': SECTION,  # data/real_presets.py checks it
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
      'min_gradient': Range(0, 255),
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
# Keys that the section `model` or `method` always has.
COMMON: dict[str, Rules] = {
  'model': {'name': TEXT, 'scale': _SCALE},
  'method': {'name': TEXT},
}
