r"""SRNet x4 on SR-RAW as released (selous123/SRNet-zoom-pytorch, 2019/20).

  sr-jax prepare sr-raw PATH/TO/SR-RAW/train -o PAIRS --scale 4
  python train.py --config configs/srnet.py --workdir runs/srnet_x4 \
    --config.data.source=folder:PAIRS/X4/HR --config.data.lr_folder=PAIRS/X4/LR

"Self-supervised Residual-aware Network for Digital Zoom" (its authors are not
named), trained on SR-RAW (Zhang et al., CVPR 2019): L1 of SR plus L1 of the
predicted residual, Adam 1e-4 halved at 100,000 of 200,000 steps, batches of 16
HR crops of 256x256. LR is the camera's JPEG. The targets of the residual are
made from the crops, not from whole images, so that their outermost pixels
differ from the release's. To evaluate on pairs of SR-RAW/test, prepared in the
same way, instead of bicubic reductions:
  --config.eval.source=folder:PAIRS_TEST/X4/HR
  --config.eval.lr_folder=PAIRS_TEST/X4/LR --config.eval.crop_size=512
x8 (LR 32x32, halved every 50,000 of 300,000 steps):
  --config.model.scale=8 --config.data.patch=32 --config.steps=300000
  --config.optimizer.boundaries="(50000,100000,150000,200000,250000)"
The authors' ablation study has these variants with the residual-aware task
(RAT): `edsr-rat`, `edsr-rat-ssa`, `edsr-rat-mpr`, `rcan-minus-rat` and
`rcan-minus-rat-ssa`. Without RAT there are `edsr`, `edsr-ssa`, `edsr-mpr`,
`rcan-minus`, `rcan-minus-ssa` and `rcan-minus-mpr`, which need another setting:
  --config.model.variant=rcan-minus-mpr --config.method.outputs=none
The network of a later figure by the authors: --config.model.variant=figure. The
targets are made with bicubic, as the authors describe them. The filter that was
Pillow's default when the release ran is set by
  --config.method.upsampling=nearest

Published scores (SR-RAW, luma): 25.14 / 19.90 dB for x4 / x8, without RAT 24.93
dB for x4. We do not have SR-RAW and have not trained this config, so we claim
no score for it.
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
  """Settings that all sizes of the network share."""
  config = common.base()
  config.model.name = 'srnet'
  config.model.variant = 'srnet'
  config.model.scale = 4
  config.method.outputs = 'residual'
  with config.unlocked():
    config.method.upsampling = 'bicubic'  # for the targets; or nearest
  config.data.patch = 64
  return config


def finish(config, preset):
  """Applies the preset; compiling takes most of the time of :smoke."""
  return common.finish(config, preset, heavy=True)
