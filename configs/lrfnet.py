r"""LRFNet-S x4: large separable kernels (Seif et al., CVPRW 2018).

  python train.py --config configs/lrfnet.py --workdir runs/lrfnet_s_x4 \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR

The other networks of the paper, and its second scale:
  baseline     --config.model.variant=baseline
  LRFNet-A     --config.model.variant=a
  LRFNet-SA    --config.model.variant=sa
  x8           --config.model.scale=8

The paper trains on DIV2K. We do not know its training settings and use EDSR's:
L1, Adam 1e-4 halved at 200,000 of 300,000 steps, batches of 16 LR crops of
24x24.

Published scores (Set5, fully trained, x4 / x8): baseline 31.68 / 26.46 dB, S
31.91 / 26.66 dB, A 31.82 / 26.77 dB. We have not trained this config to its end
and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """LRFNet-S with kernels of 9."""
  config = common.base()
  config.steps = 300_000
  config.model.name = 'lrfnet'
  config.model.variant = 's'
  config.model.scale = 4
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (200_000,)
  config.data.patch = 24
  config.eval.every = 5000
  config.checkpoint.every = 5000
  # Layers at SR size are slow.
  return common.finish(config, preset, heavy=True)
