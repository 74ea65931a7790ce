r"""LapSRN x4 (Lai et al., CVPR 2017).

  python train.py --config configs/lapsrn.py --workdir runs/lapsrn_x4 \
    --config.data.source=folder:PATH/TO/T91_AND_BSDS200

Settings of the released code: the Charbonnier loss at every level of the
pyramid, summed over pixels, with bicubically reduced luma as the target; SGD
with momentum 0.9, rate 1e-5 halved every 50 epochs of 100 steps down to 1.25e-6
(1e-6 in the release), a tenth of the rate for biases, decay 5e-4 (the release
declares the paper's 1e-4, but does not use it); batches of 64 crops of 128x128
HR pixels, 1,000 epochs. The release crops images that are reduced by a random
factor of 0.5 to 1; here images are cropped as they are. Other models:
  --config.model.scale=2 --config.data.patch=64
  --config.model.scale=8 --config.data.patch=16

Published scores (Set5, x2 / x4 / x8): 37.52 / 31.54 / 26.15 dB on Y. We have
not trained this config to its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """LapSRN with two levels of 10 convolutions."""
  config = common.base()
  config.steps = 100_000
  config.method.outputs = 'pyramid'
  config.model.name = 'lapsrn'
  config.model.variant = 'official'
  config.model.scale = 4
  config.loss = 'charbonnier_sum'
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = 1e-5
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (5000, 10_000, 15_000)
  config.optimizer.weight_decay = 5e-4
  config.optimizer.rate_factors = (('*/bias', 0.1),)
  config.data.batch_size = 64
  config.data.patch = 32
  config = common.finish(config, preset)
  if preset == 'smoke':
    config.data.batch_size = 4
    config.data.patch = 12
  return config
