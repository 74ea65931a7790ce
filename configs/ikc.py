r"""IKC: corrected kernels for blind super-resolution (Gu et al., CVPR 2019).

  python train.py --config configs/ikc.py --workdir runs/ikc \
    --config.data.source=folder:PATH/TO/DIV2K_AND_FLICKR2K \
    --config.checkpoint.init_from=runs/ikc_sftmd

This is the second stage, after configs/ikc_sftmd.py. It trains the predictor,
which estimates the kernel's code from LR, and the corrector, which improves a
code after seeing the image that SFTMD makes with it. SFTMD does not change.
Every step updates the predictor once and the corrector seven times. Scale and
blurs must be those of the first stage:
  x3  --config.model.scale=3 --config.method.max_sigma=3.0
  x4  --config.model.scale=4 --config.method.max_sigma=4.0

Settings of the released code: mean squared error of codes, batches of 32 crops
of 64 LR pixels, Adam 1e-4 with b2 0.99 and a constant rate; its config ends
after 5,000 steps. The released code reports the best of seven results, chosen
with HR. Here the corrections stop when they hardly change the code.

With the small network of the first stage:
  --config.model.variant=small --config.steps=1000
  --config.method.predictor_features=16 --config.method.corrector_features=16
  --config.optimizer.learning_rate=5e-4 --config.optimizer.schedule=cosine
  --config.data.batch_size=8 --config.data.patch=24
"""

from configs import common


def get_config(preset=None):
  """Predictor and corrector of 64 features for SFTMD x2."""
  config = common.base()
  config.steps = 5000
  config.model.name = 'ikc'
  config.model.variant = 'sftmd'
  # For evaluations during training: the kernels, and the numbers of corrections
  # after which the result is measured.
  test = {
    'kernels': ('gaussian:0.64', 'gaussian:1.44', 'gaussian:2.56'),
    'steps': (0, 7),
  }
  common.blurred(config, 'kernel_correction', test=test)
  config.optimizer.b2 = 0.99
  config.data.batch_size = 32
  config.data.patch = 64
  config.eval.every = 500
  config.checkpoint.every = 500
  config = common.finish(config, preset)
  if preset == 'smoke':
    common.shrink_blurred(config)
  return config
