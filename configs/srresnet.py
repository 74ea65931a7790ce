r"""SRResNet by pixel loss: the first stage of SRGAN (Ledig et al., CVPR 2017).

  python train.py --config configs/srresnet.py --workdir runs/srresnet_x4 \
    --config.data.source=folder:PATH/TO/IMAGENET_SAMPLE

Mean squared error, Adam 1e-4 with beta1 0.9, 1,000,000 updates, batches of 16
HR crops of 96x96 from 350,000 images of ImageNet. DIV2K can be used instead:
  --config.data.source=folder:PATH/TO/DIV2K_train_HR

Published scores (Y, border 4; Set5, Set14, BSD100): 32.05 / 28.49 / 27.58 dB.
We have not trained this config to its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """SRResNet with batch normalisation, 16 blocks of 64 features."""
  config = common.base()
  config.steps = 1_000_000
  config.model.name = 'srresnet'
  config.model.variant = 'paper'
  config.model.scale = 4
  config.loss = 'l2'
  config.data.patch = 24
  config.eval.every = 5000
  config.checkpoint.every = 5000
  return common.finish(config, preset, heavy=True)
