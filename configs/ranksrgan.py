r"""RankSRGAN: a ranker's order as a loss (Zhang et al., ICCV 2019).

Last of three stages, after configs/ranker.py in runs/ranker. The generator
starts from one trained by pixel loss, here runs/ranksrgan_psnr, which is
configs/msrresnet.py with another model:

  python train.py --config configs/ranksrgan.py --workdir runs/ranksrgan \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR \
    --config.checkpoint.init_from=runs/ranksrgan_psnr \
    --config.method.ranker_from=runs/ranker \
    --config.method.features_from=PATH/TO/vgg19-dcbb9e9d.pth

L1 of features of VGG19 (conv5_4), 0.005 times the vanilla adversarial loss and
0.03 times the rank-content loss, which is summed over the batch; Adam 1e-4 for
both networks with betas 0.9 and 0.99, halved at 50k, 100k, 200k and 300k of
500,000 steps; batches of 8 HR crops of 296x296 from DIV2K: as the released code
has it, but for the ranker's normalisation. There it is by the statistics of the
batch, which go on moving; here by those it was trained to.

A ranker for another metric is asked for by its name:
  --config.method.rank_metric=ma

Published NIQE (PIRM test set): 2.51. We have not trained this config to its
end: no score of ours is claimed.
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
