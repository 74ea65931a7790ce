r"""SROBB: SRGAN with a targeted perceptual loss (Rad et al., ICCV 2019).

Second of two stages; the first is configs/srresnet.py, in runs/srresnet_x4:

  python train.py --config configs/srobb.py --workdir runs/srobb_x4 \
    --config.data.source=folder:PATH/TO/COCO/train2017 \
    --config.data.labels=PATH/TO/COCO/stuffthingmaps/train2017 \
    --config.data.label_ids=stuffthingmaps \
    --config.checkpoint.init_from=runs/srresnet_x4 \
    --config.method.features_from=PATH/TO/vgg16-397923af.pth

Label maps divide the images: within a disk's reach of an edge between labels is
boundary, of the rest sky, plants, ground and water are background, all else is
object. Boundaries are compared by low features and backgrounds by higher ones,
beside mean squared error and the adversarial loss of SRGAN. Objects have no
term of their own; to give them one:
  --config.method.object_weight=1e-6

That much is published, with two stages and labels of COCO. No code of it is,
and what the lines below mark as recalled or ours we could not check: layers,
weights, rates and epochs are recalled, and where even that failed, ours.

To try the method without label maps, brightness makes some up:
  --config.data.labels=brightness --config.method.features_from=random:0

We have not trained this config to its end: no score of ours is claimed.
"""

from configs import common

# Ours: all images of COCO's train2017 once, in batches of 16.
_EPOCH = 118_287 // 16


def get_config(preset=None):
  """SRResNet against SRGAN's discriminator, guided by label maps."""
  config = common.base()
  config.steps = 55 * _EPOCH  # epochs recalled
  config.model.name = 'srresnet'  # as SRGAN's
  config.model.variant = 'paper'
  config.model.scale = 4
  config.loss = 'l2'
  common.adversarial(
    config,
    pixel_weight=1.0,  # ours
    perceptual_weight=0.0,
    adversarial_weight=1e-3,  # recalled
    # Recalled by their order of size alone, for squared distances that are sums
    # over an image and masks that are laid on the images.
    boundary_weight=1e-6,
    background_weight=1e-6,
    object_weight=0.0,
    region_layers={
      'boundary': 'relu1_2',  # recalled
      'background': 'relu4_3',  # recalled
      'object': 'relu5_3',  # ours: high features, as a note on the paper says
    },
    boundary_radius=2,  # ours
    features='vgg16',  # recalled
    discriminator={'name': 'srgan_discriminator', 'variant': 'paper'},
  )
  config.optimizer.learning_rate = 1e-3  # recalled
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (20 * _EPOCH, 40 * _EPOCH)  # epochs recalled
  config.optimizer.factor = 0.1  # ours
  config.data.patch = 24  # as SRGAN's
  config.eval.every = 5000
  config.checkpoint.every = 5000
  config = common.finish_adversarial(config, preset)
  if preset == 'smoke':
    config.data.labels = 'brightness'
  return config
