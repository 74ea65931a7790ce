r"""SRCNN 9-5-5 x3 (Dong et al., TPAMI 2016, after 9-1-5 of ECCV 2014).

  python train.py --config configs/srcnn.py --workdir runs/srcnn_x3 \
    --config.data.source=folder:PATH/TO/T91

As published: squared error on luma, SGD with momentum 0.9, rate 1e-4 and 1e-5
in the last layer, initial weights with standard deviation 0.001, crops of 33x33
HR pixels, no padding during training, 8e8 crops in all. The batch size of 128
is from memory of the paper. The paper's best weights were trained on ImageNet.
Other models of the paper:
  --config.model.scale=2 --config.data.patch=16
  --config.model.scale=4 --config.data.patch=8
  --config.model.variant=9-1-5

Published scores (Set5, x2 / x3 / x4): 36.66 / 32.75 / 30.48 dB on Y. We have
not trained this config to its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """SRCNN with 57,281 weights."""
  config = common.base()
  config.steps = 6_250_000
  config.model.name = 'srcnn'
  config.model.variant = '9-5-5'
  config.model.scale = 3
  config.loss = 'euclidean'
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = 1e-4
  config.optimizer.rate_factors = (('conv3/*', 0.1),)
  config.data.batch_size = 128
  config.data.patch = 11
  config.eval.every = 10_000
  config.checkpoint.every = 10_000
  return common.finish(config, preset)
