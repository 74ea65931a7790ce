"""How LR files are made of HR files, for benchmarks and commands."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from sr_jax.data.kernel_files import parse_kernel_spec
from sr_jax.ops.degrade import degrade, quantize


@dataclasses.dataclass(frozen=True)
class Degradation:
  """How LR files are made of HR files; rounded to 8 bit as files are.

  Attributes:
    degradation: 'bicubic', 'direct' or 'blur-bicubic', see `ops.degrade`.
    kernel: SPEC of the blur as `parse_kernel_spec` reads it, or None.
    noise_sigma: of Gaussian noise in grey levels.
    jpeg_quality: 1..100, or None for no JPEG.
    seed: of the noise; each image draws its own by its name.

  Raises:
    UserError: the parts do not suit each other, see `ops.degrade`.
  """

  degradation: str = 'bicubic'
  kernel: str | None = None
  noise_sigma: float = 0.0
  jpeg_quality: int | None = None
  seed: int = 0

  def __post_init__(self) -> None:
    """Refuses by trial, before images are read."""
    self.apply(np.zeros((8, 8, 1)), '', 2)

  def taps(self) -> np.ndarray | None:
    """The kernel's `[K1, K2]` taps."""
    return None if self.kernel is None else parse_kernel_spec(self.kernel)

  def apply(self, hr: np.ndarray, name: str, scale: float) -> np.ndarray:
    """LR on 8-bit levels of `hr` `[H, W, C]` in [0, 1], float64."""
    digest = hashlib.sha256(f'{self.seed}:{name}'.encode()).digest()
    lr = degrade(
      int.from_bytes(digest[:8]),
      hr,
      scale=scale,
      degradation=self.degradation,
      kernel=self.taps(),
      noise_sigma=self.noise_sigma,
      jpeg_quality=self.jpeg_quality,
    )
    return quantize(lr)

  def __str__(self) -> str:
    words = [self.degradation]
    if self.kernel is not None:
      words.append(f'kernel {self.kernel}')
    if self.noise_sigma:
      words.append(f'noise {self.noise_sigma:g} (seed {self.seed})')
    if self.jpeg_quality is not None:
      words.append(f'JPEG {self.jpeg_quality}')
    return ', '.join(words)
