r"""SRNet x4 on SR-RAW as released (selous123/SRNet-zoom-pytorch, 2019/20).

  sr-jax prepare sr-raw PATH/TO/SR-RAW/train -o PAIRS --scale 4
  python train.py --config configs/srnet.py --workdir runs/srnet_x4 \
    --config.data.source=folder:PAIRS/X4/HR --config.data.lr_folder=PAIRS/X4/LR

"Self-supervised Residual-aware Network for Digital Zoom", whose authors are not
named, on SR-RAW (Zhang et al., CVPR 2019): L1 of SR plus L1 of the predicted
residual, Adam 1e-4 halved at 100,000 of 200,000 steps, batches of 16 HR crops
of 256x256, LR as the camera's JPEG has it. The targets of the residual are made
of the crops, not of whole images, so that their outermost pixels differ. To
score on pairs of SR-RAW/test, prepared in the same way, in place of bicubic
reductions:
  --config.eval.source=folder:PAIRS_TEST/X4/HR
  --config.eval.lr_folder=PAIRS_TEST/X4/LR --config.eval.crop_size=512
x8 (LR 32x32, halved every 50,000 of 300,000 steps):
  --config.model.scale=8 --config.data.patch=32 --config.steps=300000
  --config.optimizer.boundaries="(50000,100000,150000,200000,250000)"
The ablation has the variants `edsr-rat`, `edsr-rat-ssa`, `edsr-rat-mpr`,
`rcan-minus-rat` and `rcan-minus-rat-ssa`; without the residual-aware task
  --config.model.variant=rcan-minus-mpr --config.method.outputs=none
(or `edsr`, `edsr-ssa`, `edsr-mpr`, `rcan-minus`, `rcan-minus-ssa`). The network
of the authors' later figure: --config.model.variant=figure. Targets made with
the filter that was Pillow's default when the release ran, not the described:
  --config.method.upsampling=nearest

Published scores (SR-RAW, luma): 25.14 / 19.90 dB for x4 / x8, without RAT 24.93
dB for x4. We have neither SR-RAW nor a training of this config: no score of
ours is claimed.
"""

from configs import common


def get_config(preset=None):
  """SRNet x4: two streams of 16 blocks of 64 features."""
  config = base()
  config.steps = 200_000
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (100_000,)
  config.eval.every = 5000
  config.checkpoint.every = 5000
  return finish(config, preset)


def base():
  """What the sizes share."""
  config = common.base()
  config.model.name = 'srnet'
  config.model.variant = 'srnet'
  config.model.scale = 4
  config.method.outputs = 'residual'
  with config.unlocked():
    config.method.upsampling = 'bicubic'  # of the targets; or nearest
  config.data.patch = 64
  return config


def finish(config, preset):
  """Applies the preset; compiling takes most of the time of :smoke."""
  config = common.finish(config, preset)
  if preset == 'smoke':
    config.steps = 30
    config.log_every = 10
    config.data.batch_size = 2
    config.data.patch = 12
    config.eval.every = config.checkpoint.every = 10
    config.eval.crops = 1
    config.eval.crop_size = 48
  return config
