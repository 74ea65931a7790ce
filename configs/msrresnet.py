r"""MSRResNet as BasicSR trains it (Wang et al., BasicSR 2018), for SRGAN.

  python train.py --config configs/msrresnet.py --workdir runs/msrresnet_x4 \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR

L1, Adam 2e-4 with betas 0.9 and 0.99, four cosine cycles over 1,000,000 steps
(BasicSR's end at 1e-7, these at zero), batches of 16 HR crops of 128x128 from
DIV2K 0001-0800, a moving average of the weights with decay 0.999. For x2 and x3
start from the x4 weights:
  --config.model.scale=2 --config.data.patch=64 \
  --config.checkpoint.init_from=runs/msrresnet_x4

BasicSR's scores (RGB, border scale; Set5, Set14, DIV2K validation): 30.25 /
26.78 / 29.00 dB at x4. We have not trained this config to its end and claim no
score for it.
"""

from configs import common


def get_config(preset=None):
  """MSRResNet, 16 blocks of 64 features."""
  config = common.base()
  config.steps = 1_000_000
  config.model.name = 'msrresnet'
  config.model.variant = 'basicsr'
  config.model.scale = 4
  config.optimizer.learning_rate = 2e-4
  config.optimizer.schedule = 'cosine'
  config.optimizer.boundaries = (250_000, 500_000, 750_000)
  config.optimizer.b2 = 0.99
  config.optimizer.ema_decay = 0.999
  config.data.patch = 32
  config.eval.every = 5000
  config.eval.protocol = 'rgb'
  config.checkpoint.every = 5000
  config = common.finish(config, preset)
  if preset == 'smoke':
    config.data.batch_size = 4
    config.data.patch = 12
  return config
