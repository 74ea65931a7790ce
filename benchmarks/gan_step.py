"""Time of an adversarial train step, compared with two other ways to do it.

  pip install '.[bench]'
  python -m benchmarks.gan_step [rounds]

The generator is a small MSRResNet x4, the discriminator a narrow version of
BasicSR's for 128x128 images. The losses are L1 and the relativistic average
loss, and both networks use Adam. The same step is done in three ways:

  joint     as `methods.gan`: one compiled program, in which each network has
            one forward pass
  two       one compiled program for the update of each network, each with
            forward passes of its own
  PyTorch   as in BasicSR: the generator is updated first, then the
            discriminator, on the detached images of the same forward pass

The three run in turn, so that other work on the machine slows all of them. The
script prints medians of the wall time and of the processor time. Other work
disturbs the latter less; on a busy machine, restrict the script to one core
(taskset -c 0). It also prints by how much the parameters of the first two ways
differ after a step.
"""

import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import nn

from configs import common
from sr_jax import experiment, methods, models
from sr_jax.losses import adversarial, pixel
from sr_jax.ops.compilation import jit

_BATCH, _PATCH, _SCALE = 4, 32, 4
_BLOCKS, _FEATURES, _JUDGE_FEATURES = 8, 32, 16
_PIXEL, _ADVERSARIAL = 1e-2, 5e-3


def _config():
  config = common.base()
  config.model.name = 'msrresnet'
  config.model.variant = 'basicsr'
  config.model.scale = _SCALE
  with config.model.unlocked():
    config.model.update({'blocks': _BLOCKS, 'features': _FEATURES})
  judge = {'name': 'vgg_discriminator', 'variant': '128'}
  common.adversarial(
    config,
    perceptual_weight=0.0,
    pixel_weight=_PIXEL,
    adversarial_weight=_ADVERSARIAL,
    game='relativistic_average',
    discriminator={**judge, 'features': _JUDGE_FEATURES},
  )
  config.data.patch = _PATCH
  return experiment.to_plain(config)


def _batch():
  side = _SCALE * _PATCH
  rng = np.random.default_rng(0)
  return {'hr': rng.integers(0, 256, (_BATCH, side, side, 3), np.uint8)}


def _started(method):
  init = jit(functools.partial(method.init, scale=_SCALE))
  return init(jax.random.key(0), _batch(), method.frozen())


def _joint(config):
  """Makes the joint step, and a function that returns its parameters."""
  method, batch = methods.make(config), _batch()
  state = _started(method)
  train_step = jit(
    functools.partial(method.train_step, scale=_SCALE), donate_argnums=0
  )

  def step():
    nonlocal state
    state, metrics = train_step(state, batch)
    jax.block_until_ready(metrics)

  return step, lambda: state.params


def _two_programs(config):
  """Makes the step of two programs, one for each update."""
  method, batch = methods.make(config), _batch()
  state = _started(method)
  generator = models.create(config['model'])
  judge = models.create(config['method']['discriminator'])
  game = adversarial.relativistic_average(detach_mean=True)
  tx = optax.adam(config['optimizer']['learning_rate'])
  key = state.step_key()
  theta, phi = (state.params[k] for k in ('generator', 'discriminator'))
  theta_state, phi_state = tx.init(theta), tx.init(phi)
  stats = state.model_state['discriminator']

  def images(theta, batch):
    hr = batch['hr'].astype(jnp.float32) / 255
    lr = method.degrade(key, hr, _SCALE)
    return generator.apply({'params': theta}, lr, train=True)[0], hr

  def logits(phi, stats, image):
    variables = {'params': phi, **stats}
    return judge.apply(variables, image, train=True, mutable=['batch_stats'])

  @functools.partial(jit, donate_argnums=1)
  def of_generator(theta, opt_state, phi, stats, batch):
    def loss(theta):
      sr, hr = images(theta, batch)
      real, _ = logits(phi, stats, hr)
      fake, _ = logits(phi, stats, sr)
      return _PIXEL * pixel.l1(sr, hr) + _ADVERSARIAL * game.generator(
        real, fake
      )

    updates, opt_state = tx.update(jax.grad(loss)(theta), opt_state, theta)
    return optax.apply_updates(theta, updates), opt_state

  @functools.partial(jit, donate_argnums=1)
  def of_discriminator(phi, opt_state, theta, stats, batch):
    sr, hr = images(theta, batch)

    def loss(phi):
      real, after = logits(phi, stats, hr)
      fake, after = logits(phi, after, sr)
      return game.discriminator(real, fake), after

    grads, after = jax.grad(loss, has_aux=True)(phi)
    updates, opt_state = tx.update(grads, opt_state, phi)
    return optax.apply_updates(phi, updates), opt_state, after

  def step():
    nonlocal theta, theta_state, phi, phi_state, stats
    moved, theta_state = of_generator(theta, theta_state, phi, stats, batch)
    phi, phi_state, stats = of_discriminator(
      phi, phi_state, theta, stats, batch
    )
    theta = jax.block_until_ready(moved)
    jax.block_until_ready(phi)

  return step, lambda: {'generator': theta, 'discriminator': phi}


_conv = functools.partial(nn.Conv2d, kernel_size=3, padding=1)


class _Residual(nn.Module):
  """conv - ReLU - conv, plus identity."""

  def __init__(self, width):
    super().__init__()
    self.layers = nn.Sequential(
      _conv(width, width), nn.ReLU(), _conv(width, width)
    )

  def forward(self, x):
    """Maps `[B, F, H, W]` to the same shape."""
    return x + self.layers(x)


class _Generator(nn.Module):
  """MSRResNet x4."""

  def __init__(self, width=_FEATURES):
    super().__init__()
    act = functools.partial(nn.LeakyReLU, 0.1)
    up = (_conv(width, 4 * width), nn.PixelShuffle(2), act())
    again = (_conv(width, 4 * width), nn.PixelShuffle(2), act())
    self.layers = nn.Sequential(
      *(_conv(3, width), act()),
      *(_Residual(width) for _ in range(_BLOCKS)),
      *up,
      *again,
      *(_conv(width, width), act(), _conv(width, 3)),
    )

  def forward(self, x):
    """Enlarges `[B, 3, H, W]`."""
    base = nn.functional.interpolate(
      x, scale_factor=_SCALE, mode='bilinear', align_corners=False
    )
    return base + self.layers(x)


def _discriminator(width=_JUDGE_FEATURES):
  """BasicSR's discriminator for images of 128x128."""
  layers, channels = [_conv(3, width), nn.LeakyReLU(0.2)], width
  for i in range(5):
    features = width * min(2**i, 8)
    if i:
      same = nn.Conv2d(channels, features, 3, 1, 1, bias=False)
      layers += [same, nn.BatchNorm2d(features), nn.LeakyReLU(0.2)]
    half = nn.Conv2d(features, features, 4, 2, 1, bias=False)
    layers += [half, nn.BatchNorm2d(features), nn.LeakyReLU(0.2)]
    channels = features
  flat = channels * 4 * 4
  head = (nn.Linear(flat, 100), nn.LeakyReLU(0.2), nn.Linear(100, 1))
  return nn.Sequential(*layers, nn.Flatten(), *head)


def _torch_step():
  generator, judge = _Generator(), _discriminator()
  adams = [
    torch.optim.Adam(net.parameters(), 1e-4) for net in (generator, judge)
  ]
  side = _SCALE * _PATCH
  lr, hr = (
    torch.rand(_BATCH, 3, _PATCH, _PATCH),
    torch.rand(_BATCH, 3, side, side),
  )
  bce = nn.functional.binary_cross_entropy_with_logits

  def is_real(logits):
    return bce(logits, torch.ones_like(logits))

  def is_fake(logits):
    return bce(logits, torch.zeros_like(logits))

  def step():
    for parameter in judge.parameters():
      parameter.requires_grad = False
    sr = generator(lr)
    with torch.no_grad():
      real = judge(hr)
    fake = judge(sr)
    loss = _PIXEL * nn.functional.l1_loss(sr, hr) + _ADVERSARIAL / 2 * (
      is_fake(real - fake.mean()) + is_real(fake - real.mean())
    )
    adams[0].zero_grad()
    loss.backward()
    adams[0].step()
    for parameter in judge.parameters():
      parameter.requires_grad = True
    real, fake = judge(hr), judge(sr.detach())
    loss = is_real(real - fake.mean().detach())
    loss = (loss + is_fake(fake - real.mean().detach())) / 2
    adams[1].zero_grad()
    loss.backward()
    adams[1].step()

  return step


def main():
  """Prints a Markdown table of one row for each way."""
  rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
  config = _config()
  (joint, ours), (two, theirs) = _joint(config), _two_programs(config)
  ways = {'joint': joint, 'two programs': two, 'PyTorch': _torch_step()}
  joint()
  two()
  apart = max(
    float(abs(a - b).max())
    for a, b in zip(*map(jax.tree.leaves, (ours(), theirs())), strict=True)
  )
  for step in ways.values():
    step()
  times = {name: [] for name in ways}
  for _ in range(rounds):
    for name, step in ways.items():
      began = time.perf_counter(), time.process_time()
      step()
      now = time.perf_counter(), time.process_time()
      times[name].append(np.subtract(now, began))
  print(
    f'jax {jax.__version__}, torch {torch.__version__},'
    f' {torch.get_num_threads()} threads; {_BATCH} crops of'
    f' {_SCALE * _PATCH}x{_SCALE * _PATCH}; apart after a step {apart:.1e}'
  )
  medians = {name: np.median(rows, 0) for name, rows in times.items()}
  print('| way | seconds | of joint | processor | of joint |')
  print('|---|---|---|---|---|')
  for name, (wall, cpu) in medians.items():
    ratios = medians[name] / medians['joint']
    print(
      f'| {name} | {wall:.3f} s | {ratios[0]:.2f} |'
      f' {cpu:.3f} s | {ratios[1]:.2f} |'
    )


if __name__ == '__main__':
  main()
