"""SRNet x4."""

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
  with config.unlocked():
    config.method.outputs = 'residual'
    config.method.upsampling = 'bicubic'  # or nearest, see ops/residual.py
  config.data.patch = 64
  return config


def finish(config, preset):
  return common.finish(config, preset)
