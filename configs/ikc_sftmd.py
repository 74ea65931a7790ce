r"""IKC's first stage: enlarging with a given kernel (Gu et al., CVPR 2019).

  python train.py --config configs/ikc_sftmd.py --workdir runs/ikc_sftmd \
    --config.data.source=folder:PATH/TO/DIV2K_AND_FLICKR2K

SFTMD learns to enlarge images that were blurred by random isotropic Gaussians,
one for each image, and reduced by bicubic. It is given the code of the kernel.
The second stage is configs/ikc.py, which trains the predictor and the corrector
of the codes. This config is for x2; the paper's other scales:
  x3  --config.model.scale=3 --config.method.max_sigma=3.0
  x4  --config.model.scale=4 --config.method.max_sigma=4.0

Settings of the released code: L1, batches of 32 crops of 64 LR pixels, Adam
1e-4 with b2 0.99, cosine restarts every 125k of 500,000 steps. It clips the
output in training as well, so that wrong pixels beyond white or black get no
gradient, rounds LR down to 8 bit, and blurs crops instead of photographs; this
config does none of that.

A small network, for trials on a CPU; docs/ikc.md has scores after 1,750 steps:
  --config.model.variant=small --config.steps=4000
  --config.optimizer.learning_rate=1e-3 --config.optimizer.boundaries="()"
  --config.optimizer.warmup_steps=100 --config.optimizer.ema_decay=0.99
  --config.data.batch_size=4 --config.data.patch=20
"""

from configs import common


def get_config(preset=None):
  """SFTMD x2, 16 blocks of 64 features."""
  config = common.base()
  config.steps = 500_000
  config.model.name = 'ikc'
  config.model.variant = 'sftmd'
  # Kernels for evaluations during training.
  test = {'kernels': ('gaussian:0.64', 'gaussian:1.44', 'gaussian:2.56')}
  common.blurred(config, 'kernel_conditioned', test=test)
  config.optimizer.b2 = 0.99
  config.optimizer.schedule = 'cosine'
  config.optimizer.boundaries = (125_000, 250_000, 375_000)
  config.data.batch_size = 32
  config.data.patch = 64
  config.eval.every = 5000
  config.checkpoint.every = 5000
  config = common.finish(config, preset)
  if preset == 'smoke':
    common.shrink_blurred(config)
  return config
