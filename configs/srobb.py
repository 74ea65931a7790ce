r"""SROBB: SRGAN with a targeted perceptual loss (Rad et al., ICCV 2019).

This is the second of two stages. It starts from the first stage,
configs/srresnet.py, here in runs/srresnet_x4:

  python train.py --config configs/srobb.py --workdir runs/srobb_x4 \
    --config.data.source=folder:PATH/TO/COCO/train2017 \
    --config.data.labels=PATH/TO/COCO/stuffthingmaps/train2017 \
    --config.data.label_ids=stuffthingmaps \
    --config.checkpoint.init_from=runs/srresnet_x4 \
    --config.method.features_from=PATH/TO/vgg16-397923af.pth

Label maps divide each image into regions. Pixels near an edge between labels
are boundary; of the others, sky, plants, ground and water are background, and
all else is object. The loss compares boundaries by early layers of VGG16 and
backgrounds by later ones, in addition to the mean squared error and SRGAN's
adversarial loss. Objects have no term in the paper; this gives them one:
  --config.method.object_weight=1e-6

The paper describes these regions and losses, two stages, and COCO's labels. No
code was released. Values marked "recalled" in the lines below are from memory
of the paper, and values marked "ours" are our choices; we could not check
either.

To try the method without label maps, regions can be made from brightness:
  --config.data.labels=brightness --config.method.features_from=random:0

We have not trained this config to its end and claim no score for it.
"""

from configs import common

# Steps per epoch (ours): all images of COCO's train2017, in batches of 16.
_EPOCH = 118_287 // 16


def get_config(preset=None):
  """SRResNet against SRGAN's discriminator, guided by label maps."""
  config = common.base()
  config.steps = 55 * _EPOCH  # number of epochs: recalled
  config.model.name = 'srresnet'  # as SRGAN's
  config.model.variant = 'paper'
  config.model.scale = 4
  config.loss = 'l2'
  common.adversarial(
    config,
    pixel_weight=1.0,  # ours
    perceptual_weight=0.0,
    adversarial_weight=1e-3,  # recalled
    # Only the order of magnitude is recalled, for squared distances summed over
    # an image, with images multiplied by masks.
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
  config.optimizer.boundaries = (20 * _EPOCH, 40 * _EPOCH)  # recalled
  config.optimizer.factor = 0.1  # ours
  config.data.patch = 24  # as SRGAN's
  config.eval.every = 5000
  config.checkpoint.every = 5000
  config = common.finish_adversarial(config, preset)
  if preset == 'smoke':
    config.data.labels = 'brightness'
  return config
