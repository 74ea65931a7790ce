"""Speed of SRNTT's transfer network, compared with a PyTorch module.

  pip install '.[bench]'
  python -m benchmarks.srntt_vs_torch [side]

The script measures the variant without batch normalisation (5.7 M weights) on
one LR image of 64x64 pixels. The features of the reference are given, so that
matching is not included. The PyTorch module has the same layers; the number of
weights is compared first. Both run by turns. The medians and their ratio are
printed.
"""

import statistics
import sys
import time

import jax
import numpy as np
import torch
from torch import nn

from benchmarks.torch_layers import block, conv
from sr_jax import models
from sr_jax.models import srntt
from sr_jax.ops.compilation import jit

_ROUNDS = 11
# The part that computes SR from the content alone, which is not measured.
_ASIDE = 'enlarge'


class Transfer(nn.Module):
  """The transfer network in PyTorch."""

  def __init__(self, features=64, blocks=16):
    super().__init__()

    def body():
      return nn.Sequential(*(block(features) for _ in range(blocks)))

    self.head = conv(3, features)
    self.content = body()
    self.parts = nn.ModuleList(
      nn.ModuleList([conv(features + channels, features), body()])
      for channels in srntt.LAYERS.values()
    )
    self.ups = nn.ModuleList(conv(features, 4 * features) for _ in range(2))
    self.last = nn.Sequential(
      conv(features, features // 2), nn.LeakyReLU(0.1), conv(features // 2, 3)
    )

  def forward(self, lr, maps):
    """Maps `[B, 3, H, W]` and swapped features to `[B, 3, 4 * H, 4 * W]`."""

    def active(x):
      return nn.functional.leaky_relu(x, 0.1)

    x = active(self.head(lr))
    x = x + self.content(x)
    for i, (head, body) in enumerate(self.parts):
      x = x + body(active(head(torch.cat([x, maps[i]], 1))))
      if i < len(self.ups):
        x = active(nn.functional.pixel_shuffle(self.ups[i](x), 2))
    enlarged = nn.functional.interpolate(lr, scale_factor=4, mode='bilinear')
    return self.last(x) + enlarged


def main():
  """Prints the comparison."""
  side = int(sys.argv[1]) if len(sys.argv) > 1 else 64
  rng = np.random.default_rng(0)
  lr = rng.random((1, side, side, 3), np.float32)
  maps = {
    layer: rng.random((1, side << i, side << i, channels), np.float32)
    for i, (layer, channels) in enumerate(srntt.LAYERS.items())
  }
  network = models.create({'name': 'srntt', 'variant': 'plain', 'scale': 4})
  variables = jit(network.init)(jax.random.key(0), lr, maps)
  ours = jit(lambda lr, maps: network.apply(variables, lr, maps)[0])
  peer = Transfer()
  used = {k: v for k, v in variables['params'].items() if k != _ASIDE}
  counts = [
    sum(x.size for x in jax.tree.leaves(used)),
    sum(x.numel() for x in peer.parameters()),
  ]
  assert counts[0] == counts[1], counts
  tensors = [
    torch.from_numpy(x).movedim(-1, 1).contiguous()
    for x in (lr, *maps.values())
  ]

  def run_ours():
    jax.block_until_ready(ours(lr, maps))

  def run_theirs():
    with torch.inference_mode():
      peer(tensors[0], tensors[1:])

  seconds = {run_ours: [], run_theirs: []}
  for run in seconds:
    run()
  for _ in range(_ROUNDS):
    for run, measured in seconds.items():
      start = time.perf_counter()
      run()
      measured.append(time.perf_counter() - start)
  a, b = map(statistics.median, seconds.values())
  print(f'ours {a:.3f} s, PyTorch {b:.3f} s: {a / b:.2f}')


if __name__ == '__main__':
  main()
