r"""The network that estimates the blur of LR images for `--kernel auto`.

The network is our own. It takes the features of `sr_jax/ops/power_spectrum.py`
and the edges of `sr_jax/ops/edge_profile.py`.

  python train.py --config configs/kernel_estimator.py \
    --workdir runs/kernel_estimator --config.data.source=folder:PHOTOGRAPHS

At the start every photograph is reduced by x2, x3 and x4, twelve times each:
with a random Gaussian kernel, by motion or defocus, by bicubic alone, or it is
left at its size. Only the features of spectra and edges are kept. The
photographs must be sharp, because detail that they lack counts as blur.

Another number of reductions per photograph and scale:
  --config.method.per_image=20
"""

from configs import common


def get_config(preset=None):
  """Three perceptrons of two hidden layers of 96."""
  config = common.base()
  config.steps = 6000
  config.log_every = 500
  common.trained_by(config, 'kernel_estimation')
  config.model.name = 'spectrum_mlp'
  config.model.variant = 'small'
  config.model.scale = 1
  config.optimizer.learning_rate = 2e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 500
  config.optimizer.weight_decay = 0.02
  config.data.scales = (2, 3, 4)
  config.data.batch_size = 512
  config.data.patch = 36  # smallest LR image
  config.data.workers = 2
  config.data.on_bad = 'skip'
  config.eval.every = 1000
  config.checkpoint.every = 1000
  config.checkpoint.best_by = 'root_error'
  config = common.finish(config, preset)
  if preset == 'smoke':
    config.method.per_image = 1
    config.data.batch_size = 32
    config.data.patch = 36
  return config
