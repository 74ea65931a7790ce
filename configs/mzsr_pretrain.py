r"""MZSR stage 1, large-scale training (Soh et al., CVPR 2020, Algorithm 1).

  python train.py --config configs/mzsr_pretrain.py \
    --workdir runs/mzsr_pretrain \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR

Bicubic x2, L1, Adam 4e-4 halved every 100,000 steps down to 1e-4, batches of
32 patches of 96x96 HR pixels. The authors' script runs for 800,000 steps. The
released weights are those of step 500,000, with 37.48 dB on Set5 x2 (`y-uint8`)
and 29.14 dB if LR is blurred by a Gaussian of variance 2 and sampled directly:
this stage alone does not adapt to a blur. Stage 2 is configs/mzsr.py, started
with
  --config.checkpoint.init_from=runs/mzsr_pretrain

On two CPU cores, our own weights were started with (see docs/pretrained.md):
  --config.steps=5000 --config.optimizer.learning_rate=1e-3
  --config.optimizer.schedule=cosine --config.optimizer.warmup_steps=100
  --config.optimizer.ema_decay=0.999 --config.data.batch_size=16
  --config.data.patch=24 --config.data.on_bad=skip
"""

from configs import common


def get_config(preset=None):
  """MZSR's network trained on bicubic pairs."""
  config = common.base()
  config.steps = 500_000
  config.model.name = 'mzsr'
  config.model.variant = 'released'
  config.optimizer.learning_rate = 4e-4
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (100_000, 200_000)
  config.data.batch_size = 32
  config.data.patch = 48
  config.data.min_gradient = 12.7  # the released filter of flat crops
  config.eval.every = 5000
  config.checkpoint.every = 5000
  return common.finish(config, preset)
