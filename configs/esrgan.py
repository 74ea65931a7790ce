r"""ESRGAN: RRDBNet with a relativistic discriminator (Wang et al., ECCVW 2018).

This is the second of two stages. It starts from the first stage,
configs/rrdb_psnr.py, here in runs/rrdb_x4, or from the released
RRDB_PSNR_x4.pth after sr-jax import:

  python train.py --config configs/esrgan.py --workdir runs/esrgan_x4 \
    --config.data.source=folder:PATH/TO/DF2K_OST_train_HR \
    --config.checkpoint.init_from=runs/rrdb_x4 \
    --config.method.features_from=PATH/TO/vgg19-dcbb9e9d.pth

Settings of BasicSR: L1 of VGG19's features before activation (conv5_4), 0.005
times the relativistic average loss and 0.01 times L1; Adam 1e-4 for both
networks with betas 0.9 and 0.99, halved at 50k, 100k, 200k and 300k of 400,000
steps; batches of 16 HR crops of 128x128 from DIV2K, Flickr2K and OST; a moving
average of the weights with decay 0.999. The paper has no moving average and a
beta2 of 0.999:
  --config.optimizer.ema_decay=0.0 --config.optimizer.b2=0.999
The model of the PIRM challenge weights L1 a thousand times more:
  --config.method.pixel_weight=10.0
BasicSR takes the mean logits of the discriminator on each GPU separately:
  --config.method.mean_over=device

The released model gives (Y, border 4; Set5, Set14, BSD100, Urban100) 30.45 /
26.28 / 25.32 / 24.36 dB, as SPSR measures it. sr-jax interpolate makes networks
between both stages. We have not trained this config to its end and claim no
score for it.
"""

from configs import common


def get_config(preset=None):
  """RRDBNet of 23 blocks against the 128x128 discriminator."""
  config = common.base()
  config.steps = 400_000
  config.model.name = 'rrdbnet'
  config.model.variant = 'rrdb23'
  config.model.scale = 4
  common.adversarial(config, game='relativistic_average')
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (50_000, 100_000, 200_000, 300_000)
  config.optimizer.b2 = 0.99
  config.optimizer.ema_decay = 0.999
  config.data.patch = 32
  config.eval.every = 5000
  config.checkpoint.every = 5000
  return common.finish_adversarial(config, preset)
