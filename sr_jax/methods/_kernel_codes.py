"""What the two trainings of IKC share: random blurs, their codes, inference.

LR images are made from HR on the device. Every image is blurred by an isotropic
Gaussian of its own, whose standard deviation is drawn from the key of the step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax import models
from sr_jax.data.degradation import covering_margin
from sr_jax.errors import (
  TEXT,
  Many,
  Optional,
  Range,
  Rules,
  Section,
  UserError,
  whole,
)
from sr_jax.methods import COMMON_RULES, Assumed, Fitting, supervised
from sr_jax.models.ikc import SFTMD
from sr_jax.models.parts.masking import masked_apply
from sr_jax.models.parts.options import Odd
from sr_jax.ops.degrade import (
  RESIZE_REACH,
  add_noise,
  quantize,
  reduction_tables,
)
from sr_jax.ops.kernel_codes import encode, fitted, gaussian_basis, side_of
from sr_jax.ops.levels import to_unit
from sr_jax.ops.precision import einsum
from sr_jax.typing import Conditioned

# Slots of the basis of the codes, and of the code of one image.
CODES, CODE = 'codes', 'code'
# Allowed values of the keys of `config.method` that describe the blurs.
RULES: Rules = {
  **COMMON_RULES,
  'min_sigma': Range(0.05, 100),
  'max_sigma': Range(0.05, 100),
  'kernel_size': Odd(63),
  # For evaluations during training: the kernels, and numbers of corrections.
  'test': Optional(
    Section(
      {
        'kernels': Many(TEXT, least=1),
        'steps': Optional(Many(whole(0, 1000), least=1)),
      }
    )
  ),
}
# Largest side in LR pixels of the part of an image from which its kernel is
# estimated.
_SIDE = 512
_BLURRED = 'blur-bicubic'


class Blurs(NamedTuple):
  """How the LR images of a training are made.

  Attributes:
    min_sigma: Smallest standard deviation of the blur, in HR pixels.
    max_sigma: Largest standard deviation.
    kernel_size: Number of taps per axis.
    degradation: 'blur-bicubic' or 'direct'.
    noise_sigma: Standard deviation of the noise of LR, in grey levels of 255.
    wide: Whether HR crops have a margin that is removed after the degradation.
  """

  min_sigma: float
  max_sigma: float
  kernel_size: int
  degradation: str
  noise_sigma: float
  wide: bool

  def margin(self, scale: float) -> int:
    """Margin of the crops of a batch on every side, in LR pixels."""
    if not self.wide:
      return 0
    resize = RESIZE_REACH * scale if self.degradation == _BLURRED else 0
    return covering_margin(self.kernel_size // 2 + resize, scale)

  def basis(self, codes: int) -> np.ndarray:
    """Computes the basis in which the kernels of these blurs are encoded."""
    return gaussian_basis(
      self.min_sigma, self.max_sigma, size=self.kernel_size, codes=codes
    ).astype(np.float32)

  def draw(
    self,
    key: jax.Array,
    batch: Mapping[str, jax.Array],
    scale: float,
    basis: jax.Array,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Makes LR images of a batch.

    Args:
      key: PRNG key of the blurs and the noise.
      batch: HR crops `[B, H, W, C]` with their margin.
      scale: Reduction factor.
      basis: The basis of the codes.

    Returns:
      LR and HR without the margin, in [0, 1], and the codes `[B, codes]`.
    """
    sigma_key, noise_key = jax.random.split(key)
    wide = to_unit(batch['hr'])
    sigmas = jax.random.uniform(
      sigma_key, (len(wide),), minval=self.min_sigma, maxval=self.max_sigma
    )
    profiles = self._profiles(sigmas)
    rows, columns = (
      einsum('bk,khi->bhi', profiles, self._reductions(n, scale))
      for n in wide.shape[1:3]
    )
    lr = einsum('bhi,bijc->bhjc', rows, wide)
    lr = einsum('bwj,bhjc->bhwc', columns, lr)
    if self.noise_sigma:
      lr = add_noise(noise_key, lr, self.noise_sigma)
    lr = quantize(lr, batch['hr'].dtype)
    kernels = profiles[:, :, None] * profiles[:, None, :]
    margin = self.margin(scale)
    return (
      supervised.cut(lr, margin),
      supervised.cut(wide, round(margin * scale)),
      encode(kernels, basis),
    )

  def _profiles(self, sigmas: jax.Array) -> jax.Array:
    """Gaussians along one axis, `[B, K]`; kernels are their outer products."""
    offsets = jnp.arange(self.kernel_size) - self.kernel_size // 2
    taps = jnp.exp(-0.5 * (offsets[None] / sigmas[:, None]) ** 2)
    return taps / taps.sum(1, keepdims=True)

  def _reductions(self, size: int, scale: float) -> np.ndarray:
    """Makes the matrices that blur and reduce along one axis, one per tap.

    Returns:
      `[K, size / scale, size]` float32. The sum of these matrices, each
      multiplied by its tap, blurs with mirrored borders and reduces.
    """
    (down,), _ = reduction_tables(size, (scale,), self.degradation)
    mirrored = np.pad(np.arange(size), self.kernel_size // 2, 'symmetric')
    moved = [
      down @ np.eye(size)[mirrored[k : k + size]]
      for k in range(self.kernel_size)
    ]
    return np.stack(moved).astype(np.float32)


def blurs_of(config: Mapping[str, Any]) -> Blurs:
  """Reads the blurs from `config.method` and `config.degradation`.

  Raises:
    UserError: Values do not suit each other.
  """
  section, degradation = config['method'], config['degradation']
  least, most = section['min_sigma'], section['max_sigma']
  if least >= most:
    raise UserError(
      f'config.method.min_sigma={least}: give less than max_sigma, which is'
      f' {most}'
    )
  if degradation['name'] not in (_BLURRED, 'direct'):
    raise UserError(
      f'config.degradation.name={degradation["name"]!r}: this method draws a'
      " blur for each image; choose 'blur-bicubic' or 'direct'"
    )
  if degradation['jpeg_quality']:
    raise UserError(
      f'config.degradation.jpeg_quality={degradation["jpeg_quality"]}: images'
      ' are not compressed here; give 0'
    )
  for key in ('lr_folder', 'scales'):
    if config['data'].get(key):
      raise UserError(
        f'config.data.{key}={config["data"][key]!r}: LR is made from HR by'
        ' random blurs at one scale; leave it empty'
      )
  return Blurs(
    **{k: section[k] for k in ('min_sigma', 'max_sigma', 'kernel_size')},
    degradation=degradation['name'],
    noise_sigma=degradation['noise_sigma'],
    wide=config['data'].get('margin', False),
  )


def network_of(config: Mapping[str, Any]) -> Conditioned:
  """Makes the network that enlarges images with the help of kernel codes.

  Raises:
    UserError: The model is another one.
  """
  network = models.create(config['model'])
  if not isinstance(network, SFTMD):
    raise UserError(
      f'config.model.name={config["model"]["name"]!r}:'
      f' {config["method"]["name"]} trains ikc'
    )
  return network


def check_codes(network: Conditioned, params: Mapping[str, Any]) -> None:
  """Refuses parameters without a basis that suits the network.

  Raises:
    UserError: The basis is missing, or has another shape.
  """
  basis = params.get(CODES, {}).get('basis')
  if basis is None:
    raise UserError(f'it holds no basis of kernel codes (slot {CODES!r})')
  side = side_of(basis)
  if basis.shape != (side**2, network.codes) or side % 2 == 0:
    raise UserError(
      f'its basis of kernel codes is {basis.shape}, not (K * K,'
      f' {network.codes}) with an odd K'
    )


def enlarge(
  network: Conditioned,
  params: Mapping[str, Any],
  lr: jax.Array,
  code: jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """SR of images `[B, H, W, C]` with codes `[B, codes]`, in [0, 1]."""
  sr = masked_apply(network, params['generator'], lr, mask, None, code)
  return jnp.clip(sr, 0, 1)


@functools.lru_cache(maxsize=32)
def predictor_of(network: Conditioned) -> Callable[..., jax.Array]:
  """`Inference.predict` for parameters with the code of the image.

  If the parameters hold no code, the image is treated as not blurred.
  """

  def predict(
    params: Mapping[str, Any], lr: jax.Array, mask: jax.Array | None = None
  ) -> jax.Array:
    code = params[CODE] if CODE in params else _no_blur(params)
    codes = jnp.broadcast_to(code, (lr.shape[0], network.codes))
    return enlarge(network, params, lr, codes, mask)

  return predict


def _no_blur(params: Mapping[str, Any]) -> jax.Array:
  """The code of a kernel that changes nothing: one tap."""
  basis = params[CODES]['basis']
  return basis[basis.shape[0] // 2]


def code_of(kernel: np.ndarray, params: Mapping[str, Any]) -> jax.Array:
  """The code `[codes]` of a kernel `[K1, K2]`.

  Raises:
    UserError: The kernel is far wider than those of the training.
  """
  basis = params[CODES]['basis']
  taps = fitted(np.asarray(kernel, np.float64), side_of(basis))
  return jnp.asarray(encode(taps, np.asarray(basis, np.float64)), jnp.float32)


def known_fitting(
  config: Mapping[str, Any], network: Conditioned, assumed: Assumed
) -> Fitting:
  """Makes a `Fitting` that gives the network the code of a known kernel.

  Raises:
    UserError: The images were degraded in another way than those of the
      training.
  """
  degradation = check_assumed(config, assumed)
  assert assumed.kernel is not None
  kernel = assumed.kernel

  def fit(params: Any, lr: Any, keys: Any) -> Any:
    del keys
    code = code_of(kernel, params)
    count = len(lr)
    return (
      {CODE: jnp.broadcast_to(code, (count, *code.shape))},
      {'steps': np.zeros(count, int)},
    )

  return fitting(network, fit, degradation, kernel)


def fitting(
  network: Conditioned,
  fit: Callable[..., Any],
  degradation: str,
  kernel: np.ndarray | None,
) -> Fitting:
  """Makes a `Fitting` whose result is the code of each image."""
  return Fitting(
    fit=fit,
    predict=predictor_of(network),
    halo=network.halo,
    side=_SIDE,
    ensemble=False,
    back_project=0,
    degradation=degradation,
    kernel=kernel,
  )


def check_assumed(config: Mapping[str, Any], assumed: Assumed) -> str:
  """Returns the degradation of the training, after a check of the images'.

  Raises:
    UserError: The images were degraded in another way.
  """
  trained_for = config.get('degradation', {}).get('name', _BLURRED)
  if assumed.degradation not in (None, 'bicubic', trained_for):
    raise UserError(
      f'its weights were trained for {trained_for!r} images, not'
      f' {assumed.degradation!r}: choose other weights'
    )
  trained_noise = config.get('degradation', {}).get('noise_sigma', 0)
  if assumed.noise_sigma not in (0, trained_noise):
    raise UserError(
      f'its weights were trained for noise of {trained_noise:g} grey levels:'
      ' leave the noise out'
    )
  return trained_for
