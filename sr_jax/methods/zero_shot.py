"""Training a network on the image that it enlarges.

ZSSR (Shocher et al., CVPR 2018) trains fresh weights on thousands of pairs that
are cut from the image. The target of a pair is a piece of the image (the
father), and the input is its son: the piece reduced by the given blur. MZSR's
adaptation to an image is in `_gradient_fit`.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax import models
from sr_jax.errors import FLAG, OneOf, Rules, UserError, check
from sr_jax.losses import pixel
from sr_jax.methods import Assumed, Fitting, Inference, Method, supervised
from sr_jax.ops.compilation import jit
from sr_jax.ops.degrade import degrade, lr_offset
from sr_jax.transforms import meta
from sr_jax.transforms.self_training import (
  Augmentation,
  Policy,
  Training,
  draw_crop,
  train_on_fathers,
)
from sr_jax.typing import Refining

_log = logging.getLogger(__name__)

Channels = Literal['together', 'shared', 'each']

# Keys of `config.method` that a network needs to be trained on an image.
_RULES: Rules = {
  'gradual': FLAG,
  'channels': OneOf(('together', 'shared', 'each')),
}
# Side of ZSSR's fathers in LR pixels.
_CROP = 128
# Largest number of channels that one network is known to restore together.
_PICTURE_CHANNELS = 4
# Number of channels per father if one network restores each channel separately.
_TOGETHER = 2
# Largest number of channels on which the error of such a network is measured.
_TESTED = 8
# Largest side in LR pixels of the part of an image that is used for training.
_TRAINING_SIDE = 1024


def make_son(
  network: Refining,
  lr: jax.Array,
  key: jax.Array,
  *,
  degradation: str,
  kernel: jax.Array | None,
  noise_sigma: float,
) -> jax.Array:
  """Makes the son of an image: reduces it by its degradation, and enlarges it.

  Args:
    network: The network, whose `scale` and `enlarge` are used.
    lr: `[B, H, W, C]` in [0, 1].
    key: PRNG key of the noise.
    degradation: How LR images are made, see `ops.degrade`.
    kernel: Blur kernel of the degradation.
    noise_sigma: Standard deviation of the noise, in grey levels of 255.

  Returns:
    Input of `network.refine`, `[B, H, W, C]`; its target is `lr`.
  """
  son = degrade(
    key,
    lr,
    scale=network.scale,
    degradation=degradation,
    kernel=kernel,
    noise_sigma=noise_sigma,
  )
  return network.enlarge(son, (lr.shape[1], lr.shape[2]))


def whole_sons(lr: jax.Array, scale: float) -> jax.Array:
  """Crops `[..., H, W, C]` to a size that direct sampling divides evenly."""
  height, width = (_evenly_sampled(n, scale) for n in lr.shape[-3:-1])
  return lr[..., :height, :width, :]


def _evenly_sampled(size: int, scale: float) -> int:
  """Largest size up to `size` that the scale divides, or nearly divides.

  At other sizes direct sampling spreads its rows over the whole image, so that
  they drift by up to `scale` pixels from the positions of the enlargement.
  """
  most = int(size / scale + 1e-9)
  if not most:
    return size
  counts = range(most, max(most - 16, 3 * most // 4), -1)
  count = min(counts, key=lambda n: (n * scale + 1e-9) % 1)
  return int(count * scale + 1e-9)


def reconstruction_loss(
  network: Refining, pixel_loss: Callable[..., jax.Array] = pixel.l1
) -> meta.LossFn:
  """Makes the loss of pairs (enlarged, target), `[B, H, W, C]` each."""

  def loss(params: Any, pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    enlarged, target = pair
    refined = network.apply({'params': params}, enlarged, method='refine')
    return pixel_loss(refined, target)

  return loss


def make(config: Mapping[str, Any]) -> Method:
  """Refuses to train, because the network is trained on the image itself.

  Raises:
    UserError: Always.
  """
  raise UserError(
    f'config.method.name={config["method"]["name"]}: it trains on the image'
    ' that it enlarges; use sr-jax upscale --model zssr, or choose another'
    ' method'
  )


def inference(config: Mapping[str, Any]) -> Inference:
  """Applies a network that is trained on each image."""
  return supervised.inference(config)._replace(
    fitting=functools.partial(fitting, config)
  )


def fitting(
  config: Mapping[str, Any], assumed: Assumed, steps: int | str | None
) -> Fitting:
  """ZSSR: trains a network with random initial weights on each image.

  Without a kernel, images are assumed to be bicubic reductions, fathers are
  rotated and mirrored, and the result is the median of eight versions. With a
  kernel neither is done, because the kernel would be rotated as well (as in the
  released presets).

  `method.channels` chooses how channels are restored. 'together' gives all
  channels to one network, as in the paper. 'shared' restores each channel
  separately by one network that is trained on all channels. 'each' trains one
  network per channel. The last two do not compute the median, because there may
  be many channels.

  Args:
    config: Config with `model`, and `method` with `gradual` and `channels`.
    assumed: How the images were degraded.
    steps: Largest number of training steps; with None or 'auto' only the
      learning-rate policy ends the training.

  Raises:
    UserError: A key of `config.method` is missing, or the degradation does not
      suit the kernel.
  """
  section = {k: v for k, v in config['method'].items() if k in _RULES}
  check('config.method', section, _RULES)
  blurred = assumed.kernel is not None
  degradation = assumed.degradation or ('direct' if blurred else 'bicubic')
  if blurred != (degradation != 'bicubic'):
    raise UserError(
      f'degradation {degradation!r} {"takes no" if blurred else "needs a"}'
      ' kernel=SPEC'
    )
  model = dict(config['model'])
  if blurred:
    model['offset'] = lr_offset(model['scale'], degradation, assumed.kernel)
  recipe = Recipe(
    degradation=degradation,
    noise_sigma=assumed.noise_sigma,
    scales=_gradual(model['scale']) if section['gradual'] else (),
    augmentation=Augmentation(turn=not blurred),
    policy=_policy(steps),
    channels=section['channels'],
  )
  if recipe.scales and blurred:
    raise UserError(
      'gradual ZSSR needs a kernel for every intermediate scale: use model'
      ' zssr, or leave the kernel out'
    )
  kernel = np.asarray(assumed.kernel, np.float32) if blurred else None
  program = _training_program(tuple(model.items()), recipe)
  network = models.create_refining(model, 'zero_shot')
  return Fitting(
    fit=functools.partial(program, kernel),
    predict=predictor_of(network, recipe.channels),
    halo=network.halo,
    side=_TRAINING_SIDE,
    ensemble=not blurred and recipe.channels == 'together',
    back_project=2 if blurred else 10,
    degradation=degradation,
    kernel=assumed.kernel,
  )


def _policy(steps: int | str | None) -> Policy:
  return Policy(max_steps=steps) if isinstance(steps, int) else Policy()


class Recipe(NamedTuple):
  """Settings of ZSSR's training.

  Attributes:
    degradation: How sons are made from fathers, see `ops.degrade`.
    noise_sigma: Standard deviation of the sons' noise, in grey levels of 255.
    scales: Scales of further stages before the last one. Each stage starts from
      the weights of the stage before, and its result is added to the images
      from which fathers are cut.
    augmentation: How fathers are drawn.
    policy: When the learning rate falls and the training ends.
    channels: How channels are restored, see `fitting`.
  """

  degradation: str
  noise_sigma: float
  scales: tuple[float, ...]
  augmentation: Augmentation
  policy: Policy
  channels: Channels


def _gradual(scale: float) -> tuple[float, ...]:
  """Scales between 1 and `scale`, in equal ratios of at most 1.5."""
  count = math.ceil(math.log(scale) / math.log(1.5))
  return tuple(scale ** (i / count) for i in range(1, count))


@functools.lru_cache(maxsize=32)
def predictor_of(
  network: Refining, channels: Channels = 'together'
) -> Callable[..., jax.Array]:
  """Returns a function, always the same per network, to avoid recompilation."""
  return functools.partial(_PREDICT[channels], network)


def _predict(
  network: Refining,
  params: Mapping[str, Any],
  lr: jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """`Inference.predict` for the number of channels of `lr`."""
  return supervised.predict(
    network.clone(channels=lr.shape[-1]), params, lr, mask
  )


def _predict_channels(
  network: Refining,
  params: Mapping[str, Any],
  lr: jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Restores channel by channel, one after the other to save memory."""
  one = functools.partial(_predict, network, params, mask=mask)
  return _from_planes(jax.lax.map(one, _as_planes(lr)))


def _predict_each(
  network: Refining,
  params: Mapping[str, Any],
  lr: jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Restores channel by channel, with stacked parameters of all channels."""
  one = functools.partial(_predict, network, mask=mask)
  pairs = params, _as_planes(lr)
  return _from_planes(jax.lax.map(lambda pair: one(*pair), pairs))


_PREDICT = {
  'together': _predict,
  'shared': _predict_channels,
  'each': _predict_each,
}


def _as_planes(images: jax.Array) -> jax.Array:
  """Splits images `[..., C]` into C images `[C, ..., 1]`."""
  return jnp.moveaxis(images, -1, 0)[..., None]


def _from_planes(planes: jax.Array) -> jax.Array:
  return jnp.moveaxis(planes[..., 0], 0, -1)


@functools.lru_cache(maxsize=32)
def _training_program(
  model: tuple[tuple[str, Any], ...], recipe: Recipe
) -> Callable[..., Any]:
  """Compiles `(kernel, params, lr, keys) -> (params, report)` for images."""
  train = functools.partial(_train, dict(model), recipe)

  def fit_one(kernel: Any, image: jax.Array, key: jax.Array) -> Any:
    one = functools.partial(train, kernel)
    if recipe.channels != 'each':
      params, steps = one(image, key)
      return {'generator': params}, {'steps': steps}
    keys = jax.random.split(key, image.shape[-1])
    params, steps = jax.lax.map(lambda x: one(*x), (_as_planes(image), keys))
    return {'generator': params}, {'steps': steps.max()}

  def fit(kernel: Any, unused: Any, lr: jax.Array, keys: jax.Array) -> Any:
    del unused  # every image starts from random weights
    if recipe.channels == 'together' and lr.shape[-1] > _PICTURE_CHANNELS:
      _log.warning(
        'one network for %d channels at once seldom learns anything: try'
        ' zssr-shared',
        lr.shape[-1],
      )
    # Images are trained one after the other, because each ends at another step,
    # and because vmap would measure the error of whole images at every step.
    one = functools.partial(fit_one, kernel)
    return jax.lax.map(lambda pair: one(*pair), (lr, keys))

  return jit(fit)


def _train(
  model: Mapping[str, Any],
  recipe: Recipe,
  kernel: jax.Array | None,
  image: jax.Array,
  key: jax.Array,
) -> tuple[Any, jax.Array]:
  """Trains on `[H, W, C]`; returns parameters and the steps of all stages."""
  keys = jax.random.split(key, 2 + len(recipe.scales))
  together = recipe.channels == 'together'
  channels = image.shape[-1] if together else 1
  network = models.create_refining(model, 'zero_shot').clone(channels=channels)
  params = network.init(keys[0], image[None, :8, :8, :channels])['params']
  enlarge = _predict if together else _predict_channels
  pool, steps = [image], jnp.zeros((), jnp.int32)
  for scale, stage_key in zip(
    (*recipe.scales, network.scale), keys[1:], strict=True
  ):
    stage = network.clone(scale=scale)
    end = _train_stage(stage, recipe, kernel, pool, params, stage_key)
    params, steps = end.params, steps + end.step
    pool = [*pool, enlarge(stage, {'generator': params}, image[None])[0]]
  return params, steps


def _train_stage(
  network: Refining,
  recipe: Recipe,
  kernel: jax.Array | None,
  pool: Sequence[jax.Array],
  params: Any,
  key: jax.Array,
) -> Training:
  """Trains for one scale on fathers from a pool whose first image is LR.

  If channels are restored separately, a father holds some of the channels.
  """
  son_of = functools.partial(
    make_son,
    network,
    degradation=recipe.degradation,
    kernel=kernel,
    noise_sigma=recipe.noise_sigma,
  )
  side = _evenly_sampled(min(_CROP, *pool[0].shape[:2]), network.scale)
  together = recipe.channels == 'together'

  def cut(image: jax.Array, key: jax.Array) -> jax.Array:
    if together:
      return draw_crop(key, image, side, recipe.augmentation)[None]
    channel_key, crop_key = jax.random.split(key)
    count = image.shape[-1]
    picked = jax.random.randint(channel_key, (min(_TOGETHER, count),), 0, count)
    image = image[..., picked]
    return _as_planes(draw_crop(crop_key, image, side, recipe.augmentation))

  crops = [functools.partial(cut, image) for image in pool]

  def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    choice_key, crop_key, noise_key = jax.random.split(key, 3)
    index = jax.random.randint(choice_key, (), 0, len(crops))
    father = jax.lax.switch(index, crops, crop_key)
    return son_of(father, noise_key), father

  noise_key, train_key = jax.random.split(key)
  whole = whole_sons(pool[0], network.scale)
  tested = slice(None, None, math.ceil(whole.shape[-1] / _TESTED))
  whole = whole[None] if together else _as_planes(whole[..., tested])
  son = son_of(whole, noise_key)

  squared = reconstruction_loss(network, pixel.l2)
  return train_on_fathers(
    reconstruction_loss(network),
    lambda params: squared(params, (son, whole)),
    draw,
    params,
    train_key,
    recipe.policy,
  )
