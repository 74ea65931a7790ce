r"""RRDBNet by pixel loss: the first stage of ESRGAN (Wang et al., ECCVW 2018).

  python train.py --config configs/rrdb_psnr.py --workdir runs/rrdb_x4 \
    --config.data.source=folder:PATH/TO/DF2K_train_HR

Settings of BasicSR: L1, Adam 2e-4 with betas 0.9 and 0.99, four cosine cycles
over 1,000,000 steps (BasicSR's end at 1e-7, these at zero), batches of 16 HR
crops of 128x128 from DIV2K and Flickr2K, a moving average of the weights with
decay 0.999. At x2 and x1 the network begins with a pixel-unshuffle:
  --config.model.scale=2 --config.data.patch=64
A smaller model: --config.model.variant=rrdb16.

Published scores of RRDB_PSNR_x4 (Y, border 4; Set5, Set14, BSD100, Urban100,
Manga109): 32.73 / 28.99 / 27.85 / 27.03 / 31.66 dB. We have not trained this
config to its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """RRDBNet, 23 blocks of 64 features."""
  config = common.base()
  config.steps = 1_000_000
  config.model.name = 'rrdbnet'
  config.model.variant = 'rrdb23'
  config.model.scale = 4
  config.optimizer.learning_rate = 2e-4
  config.optimizer.schedule = 'cosine'
  config.optimizer.boundaries = (250_000, 500_000, 750_000)
  config.optimizer.b2 = 0.99
  config.optimizer.ema_decay = 0.999
  config.data.patch = 32
  config.eval.every = 5000
  config.checkpoint.every = 5000
  return common.finish(config, preset, heavy=True)
