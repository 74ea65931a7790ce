"""Training with references that the network warps onto the image (CrossNet).

A batch holds HR and references of the same size. Without references, the
enlarged LR image is its own reference. The loss is `config.loss` between SR and
HR. If `warp_weight` is not 0, the loss between the warped reference and HR is
added at the scale of each flow, because the loss of SR alone trains the flow
slowly.

The network corrects LR after another network, which is frozen, has enlarged it.
`config.method.sisr` describes this other network as a section `model` without
scale, and `sisr_from` is its checkpoint; bicubic needs none. HR is not an input
of the network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sr_jax import checkpoints, models, optimizers
from sr_jax.errors import SECTION, TEXT, Range, Rules, UserError, check
from sr_jax.methods import (
  COMMON_RULES,
  Inference,
  Method,
  Referring,
  _losses,
  supervised,
)
from sr_jax.models import crossnet
from sr_jax.models.parts.parameters import check_parameters, shapes_of
from sr_jax.ops.levels import to_unit
from sr_jax.ops.resize import imresize
from sr_jax.ops.warp import warp
from sr_jax.state import EMPTY, TrainState, check_frozen, start_from
from sr_jax.typing import Network

# Allowed keys and values of `config.method`.
_RULES: Rules = {
  **COMMON_RULES,
  'warp_weight': Range(),
  'sisr': SECTION,
  'sisr_from': TEXT,
}
# Slots of the frozen network, and of the reference at inference.
SISR = 'sisr'
_REFERENCES = 'references'
# Side in LR pixels of the windows that are compared. The variance of noise of
# one grey level is added to those of the windows, so that flat windows do not
# divide by zero.
_WINDOW, _NOISE = 9, 1 / 255**2


class _Training(NamedTuple):
  """Networks and settings that the functions of the method share.

  Attributes:
    network: The trained network, which corrects the enlarged LR.
    sisr: The frozen network that enlarges LR; None for bicubic.
    tx: The optimizer.
    rate: The learning rate.
    distance: Pixel loss of two images.
    warp_weight: Weight of the warped reference in the loss.
    degrader: Makes the (lr, hr) pairs of a batch.
  """

  network: Network
  sisr: Any
  tx: optax.GradientTransformation
  rate: optax.Schedule
  distance: Callable[..., jax.Array]
  warp_weight: float
  degrader: supervised.Degrader


def make(config: Mapping[str, Any]) -> Method:
  """Makes the training of `config['model']` with references.

  Sections used: `method`, `model`, `loss`, `degradation`, `optimizer`, `steps`.

  Raises:
    UserError: References have another size than HR, or the value of a section
      is refused.
  """
  section = config['method']
  check('config.method', section, _RULES)
  if config['data']['reference_size']:
    raise UserError(
      'config.data.reference_size: references have the size of HR here; leave'
      ' it 0'
    )
  network, sisr = _networks(config)
  tx, rate = optimizers.make(steps=config['steps'], **config['optimizer'])
  degrader = supervised.degrader(config)
  training = _Training(
    *(network, sisr, tx, rate),
    distance=_losses.pixel_loss(config),
    warp_weight=section['warp_weight'],
    degrader=degrader,
  )
  return Method(
    init=functools.partial(_init, training),
    train_step=functools.partial(_train_step, training),
    degrade=degrader.degradation.on_device,
    margin=degrader.margin,
    averaged=averaged,
    frozen=functools.partial(_frozen, sisr, section['sisr_from']),
    uses=frozenset({'reference'}),
  )


def inference(config: Mapping[str, Any]) -> Inference:
  """Applies the network; needs only the sections `method` and `model`.

  The parameters hold the reference that `look` added; without one LR is its own
  reference.
  """
  predict_one = functools.partial(predict, *_networks(config))
  return Inference(predict_one, referring=_REFERRING)


def _networks(config: Mapping[str, Any]) -> tuple[Any, Any]:
  """Creates the trained network, and the one that enlarges LR or None."""
  section = {k: v for k, v in config['method']['sisr'].items() if v != ''}
  network = models.create(config['model'])
  if section['name'] == 'bicubic':
    return network, None
  try:
    return network, models.create(
      {**section, 'scale': config['model']['scale']}
    )
  except UserError as error:
    raise UserError(f'config.method.sisr: {error}') from None


def _frozen(sisr: Any, path: str) -> dict[str, Any]:
  """Reads the weights of the network that enlarges LR.

  Raises:
    UserError: The config names no weights, or those of another network.
  """
  if sisr is None:
    if path:
      raise UserError(
        'config.method.sisr_from: bicubic has no weights; name the network of'
        ' this checkpoint in config.method.sisr'
      )
    return {}
  if not path:
    raise UserError(
      'config.method.sisr_from: give the checkpoint of config.method.sisr, or'
      ' set config.method.sisr.name=bicubic'
    )
  held = checkpoints.load_params(path).params
  slots = sisr_slots(held)
  try:
    check_parameters(sisr, slots)
  except UserError as error:
    raise UserError(
      f'config.method.sisr_from={path}: it is the checkpoint of another network'
      f' than config.method.sisr: {error}'
    ) from None
  return {SISR: slots}


def sisr_slots(held: Mapping[str, Any]) -> dict[str, Any]:
  """Selects the slots of a checkpoint that enlarge LR."""
  return {k: held[k] for k in ('generator', 'batch_stats') if k in held}


def _init(
  training: _Training,
  key: jax.Array,
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  frozen: Mapping[str, Any],
  scale: float,
  pretrained: Mapping[str, Any] = EMPTY,
) -> TrainState:
  del shapes, scale
  check_frozen(frozen, () if training.sisr is None else (SISR,))
  init_key, state_key = jax.random.split(key)
  network = training.network
  lr = jnp.zeros((1, 8, 8, network.channels))
  fresh = {'generator': network.init(init_key, lr)['params']}
  given = {k: v for k, v in pretrained.items() if k in fresh}
  params = start_from(fresh, given)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params=params,
    opt_state={'generator': training.tx.init(params['generator'])},
    frozen=dict(frozen),
  )


def _enlarged(
  sisr: Any, slots: Mapping[str, Any], lr: jax.Array
) -> jax.Array | None:
  """Enlarges LR by the frozen network; None for bicubic."""
  if sisr is None:
    return None
  return jax.lax.stop_gradient(supervised.predict(sisr, slots[SISR], lr))


def _loss(
  distance: Callable[..., jax.Array],
  warp_weight: float,
  sr: jax.Array,
  hr: jax.Array,
  reference: jax.Array | None,
  flows: Sequence[jax.Array],
) -> jax.Array:
  """Loss of SR and of the warped reference (CrossNet++ warps at scale 1)."""
  total = distance(sr, hr)
  if warp_weight and reference is not None:
    for i, flow in enumerate(flows):
      seen, wanted = (imresize(x, scale=1 / 2**i) for x in (reference, hr))
      total += warp_weight * distance(warp(seen, flow), wanted)
  return total


def _train_step(
  training: _Training,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
  lr, hr = training.degrader.pair(state.step_key(), batch, scale)
  reference = to_unit(batch['ref']) if 'ref' in batch else None
  enlarged = _enlarged(training.sisr, state.frozen, lr)
  loss = functools.partial(_loss, training.distance, training.warp_weight)

  def objective(params: Any) -> tuple[jax.Array, jax.Array]:
    sr, aux = training.network.apply(
      {'params': params}, lr, reference, enlarged, train=True
    )
    motion = jnp.abs(aux['flows'][0]).mean()
    return loss(sr, hr, reference, aux['flows']), motion

  old = state.params['generator']
  (value, motion), grads = jax.value_and_grad(objective, has_aux=True)(old)
  state, metrics = optimizers.step_slots(
    training.tx, training.rate, state, {'generator': grads}
  )
  # `motion` is the mean length of the flow per axis, in HR pixels.
  return state, metrics | {'loss': value, 'motion': motion}


def averaged(state: TrainState) -> dict[str, Any]:
  """`supervised.averaged`, with the slots of the network that enlarges LR."""
  return supervised.averaged(state) | state.frozen


def predict(
  network: Network,
  sisr: Any,
  params: Mapping[str, Any],
  lr: jax.Array,
  mask: None = None,
) -> jax.Array:
  """`Inference.predict` of a network; images cannot be padded."""
  del mask
  reference = None
  if _REFERENCES in params:
    reference = _fitted(params[_REFERENCES], lr, network.scale)
  sr, _ = network.apply(
    {'params': params['generator']}, lr, reference, _enlarged(sisr, params, lr)
  )
  return jnp.clip(sr, 0, 1)


def _fitted(reference: jax.Array, lr: jax.Array, scale: float) -> jax.Array:
  """Crops or mirrors a reference by less than an LR pixel to SR's size.

  Raises:
    UserError: The reference has another size.
  """
  height, width = (round(scale * n) for n in lr.shape[1:3])
  rows, columns = reference.shape[1:3]
  if max(abs(rows - height), abs(columns - width)) >= scale:
    raise UserError(
      f'the reference has {columns}x{rows} pixels, but SR {width}x{height}: a'
      ' network that warps takes a reference of the size of SR, and the whole'
      ' image instead of tiles'
    )
  more = ((0, 0), (0, max(0, height - rows)), (0, max(0, width - columns)))
  reference = jnp.pad(reference, (*more, (0, 0)), 'symmetric')
  reference = reference[:, :height, :width]
  shape = (lr.shape[0], *reference.shape[1:])
  return jnp.broadcast_to(reference, shape)


def look(
  params: Mapping[str, Any], references: Sequence[jax.Array]
) -> dict[str, Any]:
  """Adds a reference to parameters.

  Args:
    params: Parameters by slot.
    references: A list of one reference, `[B, H, W, 3]` in [0, 1].

  Raises:
    UserError: There are several references.
  """
  if len(references) != 1:
    raise UserError(
      f'a network that warps takes one reference, not {len(references)}'
    )
  return {**params, _REFERENCES: references[0]}


def _itself(params: Mapping[str, Any], lr: jax.Array) -> dict[str, Any]:
  """Returns the parameters: without a reference, LR is its own reference."""
  del lr
  return dict(params)


def _similarity(params: Mapping[str, Any], lr: jax.Array) -> jax.Array:
  """Correlation of LR and the warped reference around each pixel."""
  if _REFERENCES not in params:
    return jnp.ones(lr.shape[:3])
  scale = round(params[_REFERENCES].shape[1] / lr.shape[1])
  options = crossnet.recognise(shapes_of(params['generator']))
  network = crossnet.Model(scale=scale, **options)
  reference = _fitted(params[_REFERENCES], lr, scale)
  outputs: Any = network.apply({'params': params['generator']}, lr, reference)
  warped = warp(reference, outputs[1]['flows'][0])
  return _correlation(lr, imresize(warped, scale=1 / scale))


def _correlation(a: jax.Array, b: jax.Array) -> jax.Array:
  """Correlation `[B, H, W]` of two images around each pixel, at least 0."""
  window = (1, _WINDOW, _WINDOW, 1)
  # Number of pixels in each window. NumPy counts them, because XLA would take
  # seconds to fold a sum of ones.
  rows, columns = (_inside(n) for n in a.shape[1:3])
  count = np.outer(rows, columns)[None, :, :, None].astype(np.float32)

  def mean(x: jax.Array) -> jax.Array:
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1,) * 4, 'SAME')
    return total / count

  def covariance(a: jax.Array, b: jax.Array) -> jax.Array:
    return (mean(a * b) - mean(a) * mean(b)).mean(-1)

  scales = (covariance(a, a) + _NOISE) * (covariance(b, b) + _NOISE)
  return jnp.maximum(covariance(a, b) + _NOISE, 0) / jnp.sqrt(scales)


def _inside(size: int) -> np.ndarray:
  """Number of rows (or columns) of each window that lie inside the image."""
  before = np.minimum(np.arange(size), _WINDOW // 2)
  return before + before[::-1] + 1


_REFERRING = Referring(
  look=look,
  itself=_itself,
  similarity=_similarity,
  halo=0,
  least=1,
  turned=False,
)
