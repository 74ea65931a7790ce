"""The description of how LR images are made from HR images.

Training, evaluation and the command line use the same description, so that a
model is trained and evaluated on LR images of the same kind.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.data import real_draws, real_presets
from sr_jax.data.kernel_files import parse_kernel_spec
from sr_jax.errors import UserError
from sr_jax.ops import realistic
from sr_jax.ops.degrade import RESIZE_REACH, degrade, quantize
from sr_jax.ops.realistic import Parameters
from sr_jax.ops.resize import resized_size
from sr_jax.ops.scales import rational

# Side of JPEG's blocks in pixels.
_JPEG_BLOCK = 8
# The degradation that draws its operations for each image.
REAL = 'real'
# Margin of 'real' in LR pixels. Blurs may reach further if the image is much
# reduced in between, but the pixels beyond the margin hardly have any weight.
_REAL_MARGIN = 4


@dataclasses.dataclass(frozen=True)
class Degradation:
  """How LR images are made from HR images, and rounded to 8 bits like files.

  Attributes:
    degradation: 'bicubic', 'direct' or 'blur-bicubic', see `ops.degrade`; or
      'real', which draws its operations for each image, see `ops.realistic`.
    kernel: SPEC of the blur for `parse_kernel_spec`, or None for no blur.
    noise_sigma: Standard deviation of Gaussian noise in grey levels of 255.
    jpeg_quality: 1..100, or None for no JPEG.
    seed: Seed of the noise of files, and of what 'real' draws; both also depend
      on the image's name.
    real: `preset` and changes of the ranges of 'real', see `real_presets`; None
      for other degradations.

  Raises:
    UserError: The values do not suit each other, see `ops.degrade`.
  """

  degradation: str = 'bicubic'
  kernel: str | None = None
  noise_sigma: float = 0.0
  jpeg_quality: int | None = None
  seed: int = 0
  real: Mapping[str, Any] | None = None

  def __post_init__(self) -> None:
    """Checks the values, by degrading a test image unless they are drawn."""
    if self.degradation == REAL:
      self._check_real()
      return
    self.of_file(np.zeros((8, 8, 1)), '', 2)

  @classmethod
  def from_config(cls, section: Mapping[str, Any]) -> Degradation:
    """Makes the degradation that `config.degradation` describes.

    Raises:
      UserError: The kernel cannot be read, or the values do not suit each
        other.
    """
    real = section.get('real')
    if section['name'] != REAL:
      if real_presets.changed(real):
        raise UserError(
          'config.degradation.real: only config.degradation.name='
          f'{REAL!r} uses it, the name is {section["name"]!r}'
        )
      real = None
    return cls(
      degradation=section['name'],
      kernel=section['kernel'],
      noise_sigma=section['noise_sigma'],
      jpeg_quality=section['jpeg_quality'] or None,
      real=real,
    )

  def _check_real(self) -> None:
    """Checks the ranges of 'real', and that nothing else is given with it."""
    for name, value in (
      ('kernel', self.taps is not None),
      ('noise', self.noise_sigma),
      ('JPEG quality', self.jpeg_quality),
    ):
      if value:
        raise UserError(
          f"degradation 'real' draws blur, noise and JPEG itself: give no"
          f' {name}'
        )
    self._ranges(2)

  def _ranges(self, scale: float) -> real_presets.Ranges:
    """The ranges of 'real' at a scale."""
    changes = dict(self.real or {})
    preset = changes.pop('preset', real_presets.DEFAULT)
    return real_presets.ranges(preset, changes, scale)

  @functools.cached_property
  def taps(self) -> np.ndarray | None:
    """The kernel's taps `[K1, K2]`; None without blur."""
    return None if self.kernel is None else parse_kernel_spec(self.kernel)

  @property
  def fixed(self) -> str | None:
    """Name of the degradation; None for 'real', which differs by image."""
    return None if self.degradation == REAL else self.degradation

  def of_file(
    self, hr: np.ndarray, name: str, scale: float, dtype: Any = np.uint8
  ) -> np.ndarray:
    """Makes the LR image of a file, as float64 on the levels of a type.

    Args:
      hr: The HR image, `[H, W, C]` in [0, 1].
      name: Name of the image, which seeds its noise.
      scale: Reduction factor.
      dtype: Type whose levels the result has, see `ops.degrade.quantize`.
    """
    if self.degradation == REAL:
      lr = self._apply(
        np.random.default_rng(self._seed_of(name)),
        np.asarray(hr, np.float64)[None],
        self._drawn_for(name, scale),
        scale,
      )
      return quantize(lr[0], dtype)
    return self._degrade(self._seed_of(name), hr, scale, dtype)

  def operations_of_file(self, name: str, scale: float) -> dict[str, Any]:
    """What 'real' does to the image of a file, as JSON can hold it."""
    return real_draws.described(self._drawn_for(name, scale), 0)

  def _seed_of(self, name: str) -> int:
    """The seed of the random numbers of a file."""
    digest = hashlib.sha256(f'{self.seed}:{name}'.encode()).digest()
    return int.from_bytes(digest[:8])

  def _drawn_for(self, name: str, scale: float) -> Parameters:
    """What 'real' draws for a file, on the host."""
    draw = _compiled_draw(json.dumps(self.real), scale)
    key = jax.random.key(self._seed_of(name) % 2**32)
    return jax.tree.map(np.asarray, draw(key))

  def _draw(self, key: jax.Array, count: int, scale: float) -> Parameters:
    """Draws the parameters of 'real'; traceable."""
    return real_draws.draw(
      key, count, scale, self._ranges(scale), self._ranges(scale / 2)
    )

  def _apply(
    self, key: Any, hr: Any, parameters: Parameters, scale: float
  ) -> Any:
    """Makes LR `[B, H, W, C]` with drawn parameters."""
    limits = real_presets.limits(self._ranges(scale))
    height, width = (resized_size(n, 1 / scale) for n in hr.shape[1:3])
    return realistic.degrade(key, hr, parameters, limits, (height, width))

  def on_device(
    self,
    key: jax.Array | None,
    hr: jax.Array,
    scale: float,
    dtype: Any = np.uint8,
  ) -> jax.Array:
    """Makes LR images on the device, rounded to levels; traceable.

    Args:
      key: PRNG key of the noise, and of what 'real' draws; None without.
      hr: The HR images, `[B, H, W, C]` in [0, 1].
      scale: Reduction factor.
      dtype: Type whose levels the result has, see `ops.degrade.quantize`:
        usually the type of the HR files.
    """
    if self.degradation == REAL:
      if key is None:
        raise ValueError("the degradation 'real' needs a key")
      draw_key, noise_key = jax.random.split(key)
      parameters = self._draw(draw_key, len(hr), scale)
      lr = self._apply(noise_key, jnp.asarray(hr), parameters, scale)
      return quantize(lr, dtype)
    return self._degrade(key, hr, scale, dtype)

  def of_task(self, key: jax.Array, hr: jax.Array, scale: float) -> jax.Array:
    """Makes LR images by 'real' with one draw for all, not rounded; traceable.

    The images of a task share their operations; their noise differs.
    """
    draw_key, noise_key = jax.random.split(key)
    parameters = jax.tree.map(
      lambda v: jnp.repeat(v, len(hr), 0), self._draw(draw_key, 1, scale)
    )
    return self._apply(noise_key, hr, parameters, scale)

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
    """Margin around a crop on which the LR pixels of the crop depend.

    Near its border, the LR of a crop differs from the photograph's LR, because
    blur and resizing mirror the crop at its border. If the crop is degraded
    with this margin on every side, and the margin is removed afterwards, there
    is no difference.

    Args:
      scale: Reduction factor.

    Returns:
      The margin in LR pixels, which is a whole number of HR pixels. 0 at scales
      such as 2.71828, at which no small margin is a whole number of HR pixels.
    """
    if self.degradation == REAL:
      return covering_margin(_REAL_MARGIN * scale, scale)
    reach = 0 if self.degradation == 'direct' else RESIZE_REACH * scale
    if self.taps is not None:
      reach += max(self.taps.shape) // 2
    return covering_margin(
      reach, scale, _JPEG_BLOCK if self.jpeg_quality else 1
    )

  def record(self) -> dict[str, Any]:
    """All values by name, as JSON can hold them; `real` only for 'real'."""
    values = dataclasses.asdict(self)
    if self.degradation != REAL:
      del values['real']
    return values

  def __str__(self) -> str:
    words = [self.degradation]
    if self.degradation == REAL:
      real = dict(self.real or {})
      preset = real.get('preset', real_presets.DEFAULT)
      return f'{REAL}, preset {preset}, seed {self.seed}'
    if self.kernel is not None:
      words.append(f'kernel {self.kernel}')
    if self.noise_sigma:
      words.append(f'noise {self.noise_sigma:g} (seed {self.seed})')
    if self.jpeg_quality is not None:
      words.append(f'JPEG {self.jpeg_quality}')
    return ', '.join(words)


# Largest number of LR pixels by which a margin may exceed the needed one.
_MOST_SPARE = 20


def covering_margin(reach: float, scale: float, *steps: float) -> int:
  """The smallest LR margin that covers `reach` HR pixels.

  Args:
    reach: HR pixels to cover on every side.
    scale: Reduction factor.
    *steps: The margin is a multiple of each of these numbers.

  Returns:
    The margin in LR pixels, which is a whole number of HR pixels; 0 if the
    margin would have to be much larger than needed.
  """
  needed = math.ceil(reach / scale)
  step = math.lcm(
    rational(scale).denominator, *(rational(s).numerator for s in steps)
  )
  margin = -(-needed // step) * step
  return margin if margin <= needed + _MOST_SPARE else 0


@functools.lru_cache(maxsize=8)
def _compiled_draw(real: str, scale: float) -> Callable[..., Parameters]:
  """Compiles what 'real' draws for one image."""
  made = Degradation(REAL, real=json.loads(real))
  return jax.jit(functools.partial(made._draw, count=1, scale=scale))
