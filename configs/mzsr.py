r"""MZSR stage 2, meta-transfer learning (Soh et al., CVPR 2020, Algorithm 1).

  python train.py --config configs/mzsr.py --workdir runs/mzsr_x2 \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR \
    --config.checkpoint.init_from=runs/mzsr_pretrain

Training starts from the weights of configs/mzsr_pretrain.py. This config is for
direct x2; the paper's other models:
  bicubic x2   --config.degradation.name=blur-bicubic
  direct x4    --config.model.scale=4 --config.data.patch=16
               --config.method.scales="(4.0,)"
  multi-scale
    --config.method.scales="(2.0,2.2,2.4,2.6,2.8,3.0,3.2,3.4,3.6,3.8,4.0)"

As published: five inner steps with rate 0.01, Adam 1e-4 for the outer steps,
64x64 HR patches, loss weights of the inner steps annealed over 3,234 outer
steps, at most 100,000 outer steps. The released models differ:
  all              --config.method.outer.weights=uniform, because the released
                   code never counts the step that should anneal the weights
  direct x2        4+4 images per task: --config.method.support=4
                   --config.method.query=4 --config.data.batch_size=40
  bicubic x2       4 tasks: --config.method.tasks=4 --config.data.batch_size=64

Published scores (Set5, `y-uint8`, after 1 / 10 updates) of the direct model:
35.20 / 36.05 for a Gaussian of variance 2.0 (g2.0^d in the paper), 34.05 /
34.78 for anisotropic ones (gani^d), 33.14 / 33.74 for variance 0.2 (g0.2^d).
The bicubic model has 35.18 / 36.64 for variance 1.3 (g1.3^b). docs/results.md
lists the scores of our weights.
"""

from configs import common


def get_config(preset=None):
  """MZSR direct x2."""
  config = common.base()
  config.steps = 100_000
  config.model.name = 'mzsr'
  config.model.variant = 'released'
  config.degradation.name = 'direct'
  # The kernel of the fixed crops; the training tasks draw random kernels.
  config.degradation.kernel = 'gaussian:2.0'
  # For evaluations during training: the kernels, and the numbers of adaptation
  # steps after which the result is measured.
  test = {
    'steps': (0, 1, 10),
    'kernels': ('gaussian:0.2', 'gaussian:2.0', 'gaussian:4.0,1.0,-0.5'),
  }
  common.trained_by(config, 'meta_transfer', test=test)
  config.data.batch_size = 80
  config.data.patch = 32
  config.data.min_gradient = 12.7  # the released filter of flat crops
  config.eval.every = 2500
  config.checkpoint.every = 2500
  if preset == 'smoke':
    config.method.update({'tasks': 2, 'support': 2, 'query': 2})
  config = common.finish(config, preset)
  if preset == 'smoke':  # second-order gradients are slow
    config.steps = 10
    config.data.patch = 12
    config.eval.every = config.checkpoint.every = 10
  return config
