"""How low-resolution images are made from high-resolution ones.

One description serves training, evaluation and the command line, so that a
model is trained and measured on LR images of the same kind.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from sr_jax.data.kernel_files import parse_kernel_spec
from sr_jax.ops.degrade import RESIZE_REACH, degrade, quantize
from sr_jax.ops.scales import rational

# JPEG compresses blocks of this many pixels a side.
_JPEG_BLOCK = 8


@dataclasses.dataclass(frozen=True)
class Degradation:
  """How LR images are made from HR images; rounded to 8 bit as files are.

  Attributes:
    degradation: 'bicubic', 'direct' or 'blur-bicubic', see `ops.degrade`.
    kernel: SPEC of the blur as `parse_kernel_spec` reads it, or None.
    noise_sigma: Standard deviation of Gaussian noise in grey levels of 255.
    jpeg_quality: 1..100, or None for no JPEG.
    seed: Seed of the noise of files; each image draws its own by its name.

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
    self.of_file(np.zeros((8, 8, 1)), '', 2)

  @classmethod
  def from_config(cls, section: Mapping[str, Any]) -> Degradation:
    """The degradation that `config.degradation` describes.

    Raises:
      UserError: the kernel cannot be read, or the parts do not suit each other.
    """
    return cls(
      degradation=section['name'],
      kernel=section['kernel'],
      noise_sigma=section['noise_sigma'],
      jpeg_quality=section['jpeg_quality'] or None,
    )

  @functools.cached_property
  def taps(self) -> np.ndarray | None:
    """The kernel's `[K1, K2]` taps; None where nothing is blurred."""
    return None if self.kernel is None else parse_kernel_spec(self.kernel)

  def of_file(
    self, hr: np.ndarray, name: str, scale: float, dtype: Any = np.uint8
  ) -> np.ndarray:
    """LR of `hr` `[H, W, C]` in [0, 1] on the levels of a type, float64.

    Args:
      hr: The image.
      name: Name of the image, from which its noise is drawn.
      scale: Reduction factor.
      dtype: Type whose levels the result has, see `ops.degrade.quantize`.
    """
    digest = hashlib.sha256(f'{self.seed}:{name}'.encode()).digest()
    return self._degrade(int.from_bytes(digest[:8]), hr, scale, dtype)

  def on_device(
    self,
    key: jax.Array | None,
    hr: jax.Array,
    scale: float,
    dtype: Any = np.uint8,
  ) -> jax.Array:
    """LR of `hr` `[B, H, W, C]` in [0, 1], rounded to levels; traceable.

    Args:
      key: PRNG key of the noise; None without noise.
      hr: The images.
      scale: Reduction factor.
      dtype: Type whose levels the result has, see `ops.degrade.quantize`; that
        of the file which HR comes from.
    """
    return self._degrade(key, hr, scale, dtype)

  def _degrade(
    self, key: Any, hr: Any, scale: float, dtype: Any = np.uint8
  ) -> Any:
    lr = degrade(
      key,
      hr,
      scale=scale,
      degradation=self.degradation,
      kernel=self.taps,
      noise_sigma=self.noise_sigma,
      jpeg_quality=self.jpeg_quality,
    )
    return quantize(lr, dtype)

  def margin(self, scale: float) -> int:
    """LR pixels beside a crop that the LR pixels within it depend on.

    LR of a crop alone differs from the same part of the photograph's LR near
    the crop's border, because blur and resizing mirror what lies beyond it.
    LR of a crop that is wider by this margin on every side, cut afterwards,
    does not.

    Args:
      scale: Reduction factor.

    Returns:
      The margin; it covers a whole number of HR pixels. 0 where no small one
      does, at scales such as 2.71828.
    """
    reach = 0 if self.degradation == 'direct' else RESIZE_REACH * scale
    if self.taps is not None:
      reach += max(self.taps.shape) // 2
    return covering_margin(
      reach, scale, _JPEG_BLOCK if self.jpeg_quality else 1
    )

  def __str__(self) -> str:
    words = [self.degradation]
    if self.kernel is not None:
      words.append(f'kernel {self.kernel}')
    if self.noise_sigma:
      words.append(f'noise {self.noise_sigma:g} (seed {self.seed})')
    if self.jpeg_quality is not None:
      words.append(f'JPEG {self.jpeg_quality}')
    return ', '.join(words)


# A margin of more LR pixels than this beyond what is needed is not worth it.
_MOST_SPARE = 20


def covering_margin(reach: float, scale: float, *steps: float) -> int:
  """The smallest LR margin that covers `reach` HR pixels.

  Args:
    reach: HR pixels to cover on every side.
    scale: Reduction factor.
    *steps: The margin is a multiple of each of these.

  Returns:
    LR pixels, whose enlargement is a whole number of HR pixels; 0 where that
    takes many more than needed.
  """
  needed = math.ceil(reach / scale)
  step = math.lcm(
    rational(scale).denominator, *(rational(s).numerator for s in steps)
  )
  margin = -(-needed // step) * step
  return margin if margin <= needed + _MOST_SPARE else 0
