r"""MZSR stage 2, meta-transfer learning (Soh et al., CVPR 2020, Algorithm 1).

  python train.py --config configs/mzsr.py --workdir runs/mzsr_x2 \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR \
    --config.checkpoint.init_from=runs/mzsr_pretrain

Starts from the weights of configs/mzsr_pretrain.py. This is direct x2; the
other models of the paper:
  bicubic x2   --config.degradation.name=blur-bicubic
  direct x4    --config.model.scale=4 --config.data.patch=16
               --config.method.scales="(4.0,)"
  multi-scale
    --config.method.scales="(2.0,2.2,2.4,2.6,2.8,3.0,3.2,3.4,3.6,3.8,4.0)"

As published: five inner steps at 0.01, Adam 1e-4, 64x64 HR patches, weights of
the inner steps annealed over 3,234 outer steps, up to 100,000 of these. Where
the released models differ:
  all              --config.method.outer.weights=uniform, because the step that
                   should anneal the weights is never counted there
  direct x2        4+4 images per task: --config.method.support=4
                   --config.method.query=4 --config.data.batch_size=40
  bicubic x2       4 tasks: --config.method.tasks=4 --config.data.batch_size=64

Published scores (Set5, `y-uint8`, 1 / 10 updates): g2.0^d 35.20 / 36.05,
gani^d 34.05 / 34.78, g0.2^d 33.14 / 33.74, and g1.3^b 35.18 / 36.64 for the
bicubic model. Ours are in the README.
"""

import ml_collections

from configs import common


def get_config(preset=None):
  """MZSR direct x2."""
  config = common.base()
  config.steps = 100_000
  config.model.name = 'mzsr'
  config.model.variant = 'released'
  config.degradation.name = 'direct'
  # Of the fixed crops; the tasks of training draw their own.
  config.degradation.kernel = 'gaussian:2.0'
  config.method = ml_collections.ConfigDict(
    {
      'name': 'meta_transfer',
      # Tasks of an outer step, and their images; the batch holds all of them.
      'tasks': 5,
      'support': 8,
      'query': 8,
      'scales': (2.0,),
      # Gaussians: the larger variance from min_variance to max_variance times
      # the scale, the smaller from min_variance to the larger, any angle.
      'kernel_size': 15,
      'min_variance': 1.0,
      'max_variance': 2.5,
      'inner': {
        'steps': 5,
        'rate': 0.01,
        'learned_rates': '',  # layer (LSLR) or weight (Meta-SGD): trains them
        'unroll': False,  # writes the steps out: faster, more memory
      },
      'outer': {
        'weights': 'annealed',  # or uniform
        'saturate_at': 9700 / 3,
        'exact_from': 0,  # first-order gradients before this step
        'task_axis': 'auto',  # map, vmap or unroll
      },
      # How an image is fitted with the trained weights; kept in the checkpoint.
      'adapt': {
        'steps': 10,
        # Of each step; the last one holds for the rest.
        'rates': (0.02, 0.01, 0.01, 0.01, 0.005),
      },
      # What the evaluations during training report.
      'test': {
        'steps': (0, 1, 10),
        'kernels': (
          'gaussian:0.2',
          'gaussian:2.0',
          'gaussian:4.0,1.0,-0.5',
        ),
      },
    }
  )
  config.data.batch_size = 80
  config.data.patch = 32
  config.eval.every = 2500
  config.checkpoint.every = 2500
  if preset == 'smoke':
    config.method.update({'tasks': 2, 'support': 2, 'query': 2})
  config = common.finish(config, preset)
  if preset == 'smoke':  # gradients of gradients
    config.steps = 40
    config.log_every = 10
    config.data.patch = 12
    config.eval.every = config.checkpoint.every = 20
    config.eval.crop_size = 96
  return config
