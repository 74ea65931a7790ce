"""The blur kernel of an image by KernelGAN, trained on that image alone.

estimate = estimate_kernel(image, scale=2)
sr = sr_jax.upscale(model, image, kernel=estimate.kernel)

This is the published baseline (Bell-Kligler, Shocher and Irani, NeurIPS 2019).
On small images its kernel hardly depends on the image, see docs/kernelgan.md;
`inference.blind` is better where the blur is a Gaussian.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.errors import UserError
from sr_jax.methods.kernel_game import players_of
from sr_jax.models.estimators.kernelgan import Discriminator, Model
from sr_jax.ops import kernel_cleaning, patch_sampling
from sr_jax.ops.blur_kernels import covariance
from sr_jax.ops.compilation import jit
from sr_jax.transforms import kernel_game

ITERATIONS = 3000
# x4 is estimated as twice x2; there is no such way to x3.
SCALES = (2, 4)
# Pixels cut off on every side: LR images are often made with mirrored borders.
_BORDER = 10
LEAST_SIDE = kernel_game.LARGE + 2 * _BORDER
# Of larger images the middle is looked at, which bounds the memory.
_MOST = 1024
# Images are padded to a multiple of this, so that few sizes are compiled.
_CELL = 256
# Side of the kernels of x2. With it they share the programs of `blind`.
_SIDE = 25
# What the largest gradient of an image must reach, in [0, 1].
_TEXTURE = 4 / 255


@dataclasses.dataclass(frozen=True, eq=False)
class KernelGANEstimate:
  """A blur kernel that KernelGAN estimated.

  Attributes:
    kernel: The taps to correlate with, `[K, K]`, centred on tap K // 2.
    scale: Scale that it was estimated for.
    seed: Seed of everything random.
  """

  kernel: np.ndarray
  scale: int
  seed: int

  @property
  def spec(self) -> str:
    """How the kernel was found; its taps have no SPEC but a file."""
    return f'kernelgan of seed {self.seed}'

  @property
  def widths(self) -> tuple[float, float]:
    """Larger and smaller standard deviation in HR pixels."""
    values = np.linalg.eigvalsh(covariance(self.kernel))
    narrow, wide = np.sqrt(np.maximum(values, 0))
    return float(wide), float(narrow)


def estimate_kernel(
  image: np.ndarray,
  *,
  scale: float,
  seed: int = 0,
  iterations: int = ITERATIONS,
  released: bool = False,
) -> KernelGANEstimate:
  """Estimates the blur that an image had before it was sampled.

  Args:
    image: `[H, W, C]` or `[H, W]` in [0, 1], RGB where C is 3; of other numbers
      of channels the mean is looked at.
    scale: 2 or 4, HR pixels to a pixel of the image.
    seed: Seed of weights, patches and noise.
    iterations: Updates of either network.
    released: Whether the bicubic loss adds up the colours and noise stays in
      the image, as in the released code.

  Raises:
    UserError: The scale is another, the image is too small or flat, or the
      networks arrive at no kernel.
  """
  (estimate,) = estimate_kernels(
    [image], scale=scale, seeds=[seed], iterations=iterations, released=released
  )
  return estimate


def estimate_kernels(
  images: Sequence[np.ndarray],
  *,
  scale: float,
  seeds: Sequence[int],
  iterations: int = ITERATIONS,
  released: bool = False,
) -> list[KernelGANEstimate]:
  """Estimates the kernels of several images in one program.

  Args:
    images: The images; their sizes may differ.
    scale: As for `estimate_kernel`.
    seeds: One seed for each image.
    iterations: As for `estimate_kernel`.
    released: As for `estimate_kernel`.

  Raises:
    UserError: As for `estimate_kernel`.
  """
  check_scale(scale)
  cut = [_prepared(image) for image in images]
  corners = [
    _corners(image, iterations, seed)
    for image, seed in zip(cut, seeds, strict=True)
  ]
  sides = np.max([image.shape[:2] for image in cut], 0)
  padding = [n + -n % _CELL for n in sides]
  stacked = np.stack([_padded(image, padding) for image in cut])
  taps = _games(released)(
    jnp.stack([jax.random.key(seed) for seed in seeds]),
    stacked,
    tuple(map(np.stack, zip(*corners, strict=True))),
  )
  return [
    KernelGANEstimate(_cleaned(kernel, int(scale)), int(scale), seed)
    for kernel, seed in zip(np.asarray(taps, np.float64), seeds, strict=True)
  ]


def check_scale(scale: float) -> None:
  """Refuses scales that KernelGAN has no kernel for.

  Raises:
    UserError: The scale is neither 2 nor 4.
  """
  if scale not in SCALES:
    raise UserError(
      f'KernelGAN estimates kernels of x2 and x4, not of x{scale:g}:'
      " 'auto' knows other scales"
    )


def takes(image: np.ndarray, scale: float) -> bool:
  """Whether scale and size of an image `[H, W, C]` suit KernelGAN."""
  return scale in SCALES and min(image.shape[:2]) >= LEAST_SIDE


def _prepared(image: np.ndarray) -> np.ndarray:
  """An image as the game takes it: `[H, W, 3]` in [-1, 1], without its border.

  Raises:
    UserError: It is too small or flat, or no image.
  """
  image = np.asarray(image)
  image = image[..., None] if image.ndim == 2 else image
  if image.ndim != 3:
    raise UserError(
      f'an image must be [H, W, C] or [H, W], not of shape {image.shape}'
    )
  if not np.isfinite(image).all():
    raise UserError('the image holds NaN or infinite values')
  height, width = image.shape[:2]
  if min(height, width) < LEAST_SIDE:
    raise UserError(
      f'{width}x{height} pixels are too few for KernelGAN: give {LEAST_SIDE} or'
      " more a side, or take 'auto'"
    )
  if image.shape[-1] != 3:
    image = np.repeat(image.mean(-1, keepdims=True), 3, -1)
  sides = [min((n - 2 * _BORDER) // 2 * 2, _MOST) for n in (height, width)]
  top, left = (
    (n - side) // 2 for n, side in zip((height, width), sides, strict=True)
  )
  image = image[top : top + sides[0], left : left + sides[1]]
  if max(np.abs(np.diff(image, axis=axis)).max() for axis in (0, 1)) < _TEXTURE:
    raise UserError(
      'the image has no texture to estimate a blur from: name the kernel'
    )
  return 2 * image.astype(np.float64) - 1


def _corners(
  image: np.ndarray, iterations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Upper left corners of large and small patches, `[iterations, 2]` each."""
  rng = np.random.default_rng(seed)
  large, small = patch_sampling.chances(
    image, kernel_game.LARGE, kernel_game.SMALL
  )
  return (
    patch_sampling.corners(rng, large, kernel_game.LARGE, iterations),
    patch_sampling.corners(rng, small, kernel_game.SMALL, iterations),
  )


def _padded(image: np.ndarray, sides: Sequence[int]) -> np.ndarray:
  padding = [
    (0, side - n) for n, side in zip(image.shape[:2], sides, strict=True)
  ]
  return np.pad(image, [*padding, (0, 0)]).astype(np.float32)


@functools.cache
def _games(released: bool) -> Any:
  """`(keys, images, corners) -> kernels`, of several images, compiled."""
  players, first = cold_players(released=released)

  def one(inputs: Any) -> jax.Array:
    key, image, corners = inputs
    start_key, noise_key = jax.random.split(key)
    state, _ = kernel_game.play(
      *(players, first(start_key), image, corners, noise_key)
    )
    return players.kernel(state.generator)

  return jit(lambda *inputs: jax.lax.map(one, inputs))


def cold_players(*, released: bool = False) -> tuple[kernel_game.Players, Any]:
  """The networks of the published size, and `key -> state` before the game."""
  generator, discriminator = Model(), Discriminator()
  players = players_of(generator, discriminator)._replace(released=released)

  def first(key: jax.Array) -> kernel_game.State:
    keys = jax.random.split(key)
    theta = generator.init(keys[0])['params']
    shape = (kernel_game.SMALL, kernel_game.SMALL, 3)
    judge = discriminator.init(keys[1], jnp.zeros(shape))
    return kernel_game.start(players, theta, judge['params'], judge['spectral'])

  return players, first


def _cleaned(kernel: np.ndarray, scale: int) -> np.ndarray:
  """The kernel of a scale, from the generator's taps.

  Raises:
    UserError: The taps are no blur.
  """
  if not np.isfinite(kernel).all() or kernel.max() <= 0:
    raise UserError('KernelGAN arrived at no kernel: try another seed')
  kernel = kernel_cleaning.without_small_taps(kernel)
  kernel = kernel_cleaning.centred(kernel, _SIDE)
  return kernel_cleaning.composed_with_itself(kernel) if scale == 4 else kernel
