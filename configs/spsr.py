r"""SPSR: ESRGAN with a branch for gradient maps (Ma et al., CVPR 2020).

Training starts from RRDBNet after training by pixel loss: configs/rrdb_psnr.py,
here in runs/rrdb_x4, or the released RRDB_PSNR_x4.pth after sr-jax import:

  python train.py --config configs/spsr.py --workdir runs/spsr_x4 \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR \
    --config.checkpoint.init_from=runs/rrdb_x4 \
    --config.method.features_from=PATH/TO/vgg19-dcbb9e9d.pth

The loss has six terms: L1 of VGG19's features (conv5_4), 0.01 times L1, 0.01
times the squared distance of gradient maps, 0.5 times L1 of the gradient map
that the branch predicts, and 0.005 times each of two relativistic average
losses, of images and of gradient maps. In the first 5,000 steps only the last
layers, which join the branch, are trained. Adam 1e-4 for all three networks,
halved at 50k, 100k, 200k and 300k of 500,000 steps; batches of 30 HR crops of
128x128 from DIV2K. To train all layers from the start:
  --config.method.held_steps=0

Published scores (Y, border 4; Set5, Set14, BSD100, Urban100): 30.40 / 26.64 /
25.51 / 24.80 dB, LPIPS 0.0644 / 0.1318 / 0.1611 / 0.1184. We have not trained
this config to its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """SPSR against a discriminator of images and one of gradient maps."""
  config = common.base()
  config.steps = 500_000
  config.model.name = 'spsr'
  config.model.variant = 'paper'
  config.model.scale = 4
  common.adversarial(
    config,
    gradient_weight=1e-2,
    gradient_adversarial_weight=5e-3,
    branch_weight=0.5,
    game='relativistic_average',
    detach_mean=False,
    discriminator={'name': 'vgg_discriminator', 'variant': 'spsr-128'},
    held_steps=5000,
    early_layers=('fuse_*',),
  )
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (50_000, 100_000, 200_000, 300_000)
  config.data.batch_size = 30
  config.data.patch = 32
  config.eval.every = 5000
  config.checkpoint.every = 5000
  config = common.finish_adversarial(config, preset)
  if preset == 'smoke':
    config.method.held_steps = 2
  return config
