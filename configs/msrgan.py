r"""MSRGAN: MSRResNet trained as SRGAN by BasicSR (Wang et al., BasicSR 2018).

This is the second of two stages. It starts from the first stage,
configs/msrresnet.py, here in runs/msrresnet_x4:

  python train.py --config configs/msrgan.py --workdir runs/msrgan_x4 \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR \
    --config.checkpoint.init_from=runs/msrresnet_x4 \
    --config.method.features_from=PATH/TO/vgg19-dcbb9e9d.pth

L1 of features of VGG19 (conv5_4), 0.01 times L1 and 0.005 times the vanilla
adversarial loss; Adam 1e-4 for both networks with betas 0.9 and 0.99, halved at
50k, 100k, 200k and 300k of 400,000 steps; batches of 16 HR crops of 128x128
from DIV2K; a moving average of the weights with decay 0.999.

BasicSR's scores (RGB, border 4; Set5, Set14, DIV2K validation): 28.02 / 24.75 /
26.65 dB. We have not trained this config to its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """MSRResNet against the 128x128 discriminator."""
  config = common.base()
  config.steps = 400_000
  config.model.name = 'msrresnet'
  config.model.variant = 'basicsr'
  config.model.scale = 4
  common.adversarial(config)
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (50_000, 100_000, 200_000, 300_000)
  config.optimizer.b2 = 0.99
  config.optimizer.ema_decay = 0.999
  config.data.patch = 32
  config.eval.every = 5000
  config.eval.protocol = 'rgb'
  config.checkpoint.every = 5000
  return common.finish_adversarial(config, preset)
