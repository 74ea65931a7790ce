"""Experiments small enough for tests."""

from configs import common


def config(**sections):
  """A config that trains in seconds; keyword arguments override its values."""
  tiny = common.base()
  with tiny.unlocked():
    tiny.model.update({'blocks': 1, 'features': 4})
  tiny.steps = 4
  tiny.log_every = 2
  tiny.optimizer.ema_decay = 0.9
  tiny.optimizer.learning_rate = 1e-3
  tiny.data.batch_size = 8
  tiny.data.patch = 8
  tiny.data.margin = False  # tests make batches of the crops alone
  tiny.eval.every = 4
  tiny.eval.crops = 1
  tiny.eval.crop_size = 32
  tiny.checkpoint.every = 2
  for name, values in sections.items():
    if isinstance(values, dict):
      with tiny.unlocked():
        tiny[name].update(values)
    else:
      tiny[name] = values
  return tiny
