r"""SRGAN as its paper trains it (Ledig et al., CVPR 2017): SRGAN-VGG54.

This is the second of two stages. It starts from the first stage,
configs/srresnet.py, here in runs/srresnet_x4:

  python train.py --config configs/srgan.py --workdir runs/srgan_x4 \
    --config.data.source=folder:PATH/TO/IMAGENET_SAMPLE \
    --config.checkpoint.init_from=runs/srresnet_x4 \
    --config.method.features_from=PATH/TO/vgg19-dcbb9e9d.pth

Squared distance of VGG19's features (relu5_4, scaled by 1/12.75) plus 0.001
times the adversarial loss; Adam with beta1 0.9 and rate 1e-4 for 100,000
updates of both networks, then 1e-5 for another 100,000; batches of 16 HR crops
of 96x96. The paper's other models are SRGAN-VGG22
  --config.method.perceptual=srgan-vgg22
SRGAN-MSE, whose squared error is that of images in [-1, 1]
  --config.method.perceptual_weight=0.0 --config.method.pixel_weight=4.0
and SRResNet-VGG22, without a discriminator
  --config.method.perceptual=srgan-vgg22 \
  --config.method.adversarial_weight=0.0 --config.method.variation_weight=2e-8

The distance is divided by width and height of the feature maps, as in the
paper. Most code divides by the number of channels as well.

Published scores (Y, border 4; Set5, Set14, BSD100): SRGAN-VGG54 29.40 / 26.02 /
25.16 dB, lower than SRResNet's by design. We have not trained this config to
its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """SRResNet against the discriminator of the paper."""
  config = common.base()
  config.steps = 200_000
  config.model.name = 'srresnet'
  config.model.variant = 'paper'
  config.model.scale = 4
  config.loss = 'l2'
  common.adversarial(
    config,
    pixel_weight=0.0,
    perceptual='srgan-vgg54',
    adversarial_weight=1e-3,
    discriminator={'name': 'srgan_discriminator', 'variant': 'paper'},
  )
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (100_000,)
  config.optimizer.factor = 0.1
  config.data.patch = 24
  config.eval.every = 5000
  config.checkpoint.every = 5000
  return common.finish_adversarial(config, preset)
