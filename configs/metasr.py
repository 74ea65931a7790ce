r"""Meta-SR: one RDN for all scales from 1.1 to 4 (Hu et al., CVPR 2019).

  python train.py --config configs/metasr.py --workdir runs/metasr \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR

L1, Adam 1e-4 halved every 200,000 of 1,000,000 steps, batches of 16 LR crops
of 50x50 from DIV2K 0001-0800. Each batch has one of 30 scales. A scale is
compiled when it is first drawn. The EDSR body of the released code:
  --config.model.variant=edsr

The trained model enlarges by any scale in the range: sr-jax upscale --scale
2.37. `model.scale` is only the default.

The released weights, measured by a third party (Set5, Y): 41.47 / 38.23 / 36.18
/ 34.73 / 33.62 / 32.51 dB at x1.5 / 2 / 2.5 / 3 / 3.5 / 4. We have not trained
this config to its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """Meta-RDN, 16 dense blocks of 8 layers."""
  config = common.base()
  config.steps = 1_000_000
  config.model.name = 'metasr'
  config.model.variant = 'rdn'
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (200_000, 400_000, 600_000, 800_000)
  config.data.patch = 50
  config.data.scales = tuple(tenths / 10 for tenths in range(11, 41))
  config.eval.scales = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
  config.eval.every = 5000
  config.checkpoint.every = 5000
  # 22 million weights are slow on a CPU.
  config = common.finish(config, preset, heavy=True)
  if preset == 'smoke':
    config.data.patch = 10
    config.data.scales = (1.5, 2.3)
    config.eval.scales = (2.3,)
  return config
