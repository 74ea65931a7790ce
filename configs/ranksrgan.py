r"""RankSRGAN: a GAN with a ranker's score as a loss (Zhang et al., ICCV 2019).

This is the last of three stages. It uses the ranker of configs/ranker.py, here
in runs/ranker. The generator starts from weights trained by pixel loss, here in
runs/ranksrgan_psnr, which configs/msrresnet.py trains with another model:

  python train.py --config configs/ranksrgan.py --workdir runs/ranksrgan \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR \
    --config.checkpoint.init_from=runs/ranksrgan_psnr \
    --config.method.ranker_from=runs/ranker \
    --config.method.features_from=PATH/TO/vgg19-dcbb9e9d.pth

Settings of the released code: L1 of VGG19's features (conv5_4), 0.005 times the
vanilla adversarial loss and 0.03 times the rank-content loss, which is summed
over the batch; Adam 1e-4 for both networks with betas 0.9 and 0.99, halved at
50k, 100k, 200k and 300k of 500,000 steps; batches of 8 HR crops of 296x296 from
DIV2K. There is one difference: the release normalises the ranker's features by
the statistics of each batch and goes on updating the running ones, this config
normalises by the running statistics of the ranker's training.

A ranker for another metric needs the metric's name:
  --config.method.rank_metric=ma

Published NIQE (PIRM test set): 2.51. We have not trained this config to its end
and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """The generator of 16 blocks against the 296x296 discriminator."""
  config = common.base()
  config.steps = 500_000
  config.model.name = 'ranksrgan'
  config.model.variant = 'paper'
  config.model.scale = 4
  common.adversarial(
    config,
    pixel_weight=0.0,
    rank_weight=3e-2,
    discriminator={'name': 'vgg_discriminator', 'variant': '296'},
  )
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (50_000, 100_000, 200_000, 300_000)
  config.optimizer.b2 = 0.99
  config.data.batch_size = 8
  config.data.patch = 74
  config.eval.every = 5000
  config.checkpoint.every = 5000
  return common.finish_adversarial(config, preset)
