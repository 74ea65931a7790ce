r"""The ranker of RankSRGAN (Zhang et al., ICCV 2019): second of three stages.

The first stage makes a data set from the images of three trained generators, in
ascending order of perceptual quality. The third stage is configs/ranksrgan.py.

  sr-jax rank-data --hr DIV2K_AND_FLICKR2K -o rank \
    --models runs/srresnet_x4 runs/srgan_x4 runs/esrgan_x4
  python train.py --config configs/ranker.py --workdir runs/ranker \
    --config.data.source=ranked:rank

Settings of the released code: margin-ranking loss with a margin of 0.5 on pairs
of whole 296x296 patches, which are not flipped; Adam 1e-4 with an L2 term of
1e-4, halved at 100k and 200k of 400,000 steps; batches of 16 pairs. The paper's
rate is 1e-3, and an earlier version of the code had batches of 32:
  --config.optimizer.learning_rate=1e-3 --config.data.batch_size=32

The data set may hold scores of further metrics in files next to niqe.txt, for
example ma.txt, where higher is better:
  --config.method.metric=ma --config.method.better=higher

Evaluations use the patches of held-out photographs. They measure the share of
pairs in the right order, and Spearman's correlation of the scores with NIQE,
which is about 0.88 in the paper. We have not trained this config to its end and
claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """The ranker of 12 layers, 64 to 512 features."""
  config = common.base()
  config.steps = 400_000
  common.trained_by(config, 'ranking')
  config.model.name = 'ranker'
  config.model.variant = 'paper'
  config.model.scale = 1
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (100_000, 200_000)
  config.data.patch = 296
  config.data.augment = False
  config.eval.every = 5000
  config.eval.source = ''  # the held-out part of data.source
  config.eval.crops = 1000  # patches, each with an image of every generator
  config.eval.crop_size = 296
  config.checkpoint.every = 5000
  config.checkpoint.best_by = 'accuracy'
  config = common.finish(config, preset)
  if preset == 'smoke':
    config.steps = 4
    config.log_every = 2
    config.eval.every = config.checkpoint.every = 4
    config.data.batch_size = 4
    config.data.patch = 48
    config.eval.crops = 4
    config.eval.crop_size = 192
  return config
