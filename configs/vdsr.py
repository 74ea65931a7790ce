r"""VDSR for x2, x3 and x4 (Kim et al., CVPR 2016).

  python train.py --config configs/vdsr.py --workdir runs/vdsr \
    --config.data.source=folder:PATH/TO/291_IMAGES

As published: squared error on luma, SGD with momentum 0.9 and decay 1e-4, rate
0.1 divided by 10 every 20 of 80 epochs, batches of 64 crops of 41x41 HR pixels
(here 48x48, which is whole LR pixels at every scale). Scales are mixed within a
batch: a third of its images is reduced by 2, a third by 3 and a third by 4.
Every element of the gradient is clipped to theta / rate. The paper does not
give theta; 1e-4 is our choice, because with 1e-3 and 1e-2 the network was worse
than bicubic after the first hundred steps. The number of 9,960 steps for 80
epochs is from memory. Clipping by the norm, as in DRRN:
  --config.optimizer.clip_value=0.0 --config.optimizer.clip_norm=0.01
The PyTorch port's network, without biases:
  --config.model.variant=port
A single scale: --config.method.scales="()" --config.eval.scales="()"

Published scores (Set5, x2 / x3 / x4): 37.53 / 33.66 / 31.35 dB on Y. We have
not trained this config to its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """VDSR with 20 layers."""
  config = common.base()
  config.steps = 9960
  config.model.name = 'vdsr'
  config.model.variant = 'paper'
  config.loss = 'euclidean'
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = 0.1
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (2490, 4980, 7470)
  config.optimizer.factor = 0.1
  config.optimizer.weight_decay = 1e-4
  config.optimizer.clip_value = 1e-4
  config.optimizer.clip_follows_rate = True
  config.data.batch_size = 64
  config.data.patch = 24  # 48 HR pixels: model.scale is 2
  config.method.scales = config.eval.scales = (2, 3, 4)
  # Twenty layers at full resolution are slow.
  config = common.finish(config, preset, heavy=True)
  if preset == 'smoke':
    config.data.batch_size = 3  # an image for each scale
  return config
