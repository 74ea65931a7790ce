r"""DRN adapted to LR images without HR (Guo et al., CVPR 2020, Algorithm 1).

  python train.py --config configs/drn_adapt.py --workdir runs/drn_adapt \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR \
    --config.data.unlabelled=folder:PATH/TO/LR \
    --config.checkpoint.init_from=runs/drn_x4

Starts from the weights of configs/drn.py or from released ones (`sr-jax import
PRIMAL --model drn --dual DUALS`). As in the paper, 0.3 of the batch is
unlabelled and joins the dual terms alone, and both kinds of networks are
trained. Of an unlabelled image only the LR size is known, so the duals are
composed down to it for every output. The algorithm is not part of the released
code: composition, rate and steps are ours, for the paper tells none of them.

The scores during training are those of the paired degradation, which should
hardly fall; how well the model suits the LR images they cannot tell. The paper
shows it for images reduced by nearest neighbour, whose gain
benchmarks/dual_adaptation.py measures for a small model.
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
