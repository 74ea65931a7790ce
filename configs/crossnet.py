r"""CrossNet x4 (Zheng et al., ECCV 2018).

  python train.py --config configs/crossnet.py --workdir runs/crossnet \
    --config.data.source=folder:PATH/TO/views \
    --config.data.reference=PATH/TO/other-views \
    --config.method.sisr.name=edsr --config.method.sisr.variant=baseline \
    --config.method.sisr_from=runs/edsr

The settings are those of the released code, for the paper's 200k steps: the
Charbonnier loss summed over an image, Adam 1e-4 with a fifth of the rate after
150k steps, weight decay 5e-5, batches of 4. There are four differences. The
release crops 320x512 pixels, this config 384x384 (the network needs multiples
of 64). The release adds the decay to Adam's gradients, this config applies it
separately (AdamW). The release enlarges LR by MDSR, this config by any of our
models, or by bicubic if method.sisr is not set. The release estimates the flow
from the HR image, this config from LR enlarged by bicubic.

The references are neighbouring views of a light field, shifted by about 20
pixels at most. If you have none, leave data.reference out: the references are
then crops of the same image, shifted by up to 14 pixels
(--config.data.reference=shifted:4 sets another limit). Images are not flipped,
because an image and its reference would be flipped independently. LFVideo needs
another rate, and x8 smaller crops:
  --config.optimizer.learning_rate=7e-5
  --config.model.scale=8 --config.data.patch=48

The network learns the flow slowly if the loss compares only SR with HR.
CrossNet++ (Tan et al., TPAMI 2020) also compares the warped reference with HR:
  --config.method.warp_weight=1.0

Published scores are on light fields that we do not have. We have not trained
this config to its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """CrossNet with shifted references."""
  config = common.base()
  config.steps = 200_000
  config.model.name = 'crossnet'
  config.model.variant = 'crossnet'
  config.model.scale = 4
  common.trained_by(config, 'warping')
  config.loss = 'charbonnier_sum'
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (150_000,)
  config.optimizer.factor = 0.2
  config.optimizer.weight_decay = 5e-5
  config.data.reference = config.eval.reference = 'shifted'
  config.data.batch_size = 4
  config.data.patch = 96
  config.data.augment = False
  return common.finish(config, preset, heavy=True)
