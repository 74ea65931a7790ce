r"""DRN adapted to LR images without HR (Guo et al., CVPR 2020, Algorithm 1).

  python train.py --config configs/drn_adapt.py --workdir runs/drn_adapt \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR \
    --config.data.unlabelled=folder:PATH/TO/LR \
    --config.checkpoint.init_from=runs/drn_x4

Training starts from the weights of configs/drn.py or from released weights
(`sr-jax import PRIMAL --model drn --dual DUALS`). As in the paper, 0.3 of each
batch are unlabelled images, which only the dual terms of the loss use, and the
primal and dual networks are all trained. An unlabelled image is known only at
LR size, so the dual networks are composed down to LR for every output. The
released code lacks this algorithm and the paper leaves details open:
composition, rate and number of steps are our choices.

The scores during training are measured on the paired degradation, where they
should hardly fall. They do not show how well the model suits the unlabelled
images. The paper shows a gain for images reduced by nearest neighbour;
benchmarks/dual_adaptation.py measures it for a small model.
"""

from configs import drn


def get_config(preset=None):
  """DRN-S x4, 3 of 10 samples unlabelled."""
  config = drn.get_config()
  config.steps = 20_000
  config.method.compose = True
  config.data.unlabelled = 'folder:PATH/TO/LR'
  config.data.unlabelled_share = 0.3
  config.eval.every = 1000
  config.checkpoint.every = 1000
  return drn.finish(config, preset)
