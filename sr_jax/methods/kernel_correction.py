"""Training of IKC's predictor and corrector (Gu et al., CVPR 2019).

SFTMD, slot `generator`, does not change. It comes from the checkpoint that
`config.checkpoint.init_from` names, with the basis of its codes. In every step
the predictor is updated once. Then, as often as at inference, SFTMD enlarges
the images with the latest code and the corrector is updated to correct this
code. No gradient passes from one correction to the one before.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sr_jax import optimizers
from sr_jax.errors import Rules, UserError, check, whole
from sr_jax.methods import Assumed, Fitting, Inference, Method, supervised
from sr_jax.methods import _kernel_codes as kernel_codes
from sr_jax.methods._kernel_codes import CODE, CODES, Blurs
from sr_jax.models import ikc
from sr_jax.models.parts.parameters import shapes_of
from sr_jax.ops.compilation import jit
from sr_jax.state import EMPTY, TrainState, check_frozen, start_from
from sr_jax.typing import Conditioned

_log = logging.getLogger(__name__)

# Number of corrections in the released code.
RELEASED = 7
_MOST = 1000
# Allowed keys and values of `config.method`.
_RULES: Rules = {
  **kernel_codes.RULES,
  'corrections': whole(1, _MOST),
  'predictor_features': whole(1, 4096),
  'corrector_features': whole(1, 4096),
}
# iterations='auto' stops after the first correction that changes the code by
# less than this share of its length.
_LEAST_CHANGE = 0.02
_SLOTS = ('predictor', 'corrector')


# A code `[1, codes]`, its corrections so far, and the change by the last one.
_Estimate = tuple[jax.Array, jax.Array, jax.Array]


class _Optimizer(NamedTuple):
  """The optimizer of one network; each counts its own updates."""

  tx: optax.GradientTransformation
  rate: optax.Schedule


class Training(NamedTuple):
  """Networks and settings that the functions of the method share.

  Attributes:
    network: The network that enlarges by a code; it is not trained.
    predictor: The network that estimates the code from LR.
    corrector: The network that corrects the code.
    optimizers: Optimizers of the predictor and the corrector, by slot.
    corrections: Number of updates of the corrector in a step.
    blurs: How LR is made.
  """

  network: Conditioned
  predictor: ikc.Predictor
  corrector: ikc.Corrector
  optimizers: Mapping[str, _Optimizer]
  corrections: int
  blurs: Blurs


def training_of(config: Mapping[str, Any]) -> Training:
  """Makes the networks and settings that a config describes.

  Raises:
    UserError: The model is another one, or the value of a section is refused.
  """
  section = config['method']
  check('config.method', section, _RULES)
  network, times = kernel_codes.network_of(config), section['corrections']
  updates = {'predictor': 1, 'corrector': times}
  return Training(
    network,
    ikc.Predictor(
      section['predictor_features'], network.codes, network.channels
    ),
    ikc.Corrector(
      section['corrector_features'], network.codes, network.channels
    ),
    {
      slot: _Optimizer(
        *optimizers.make(steps=config['steps'] * count, **config['optimizer'])
      )
      for slot, count in updates.items()
    },
    times,
    kernel_codes.blurs_of(config),
  )


def make(config: Mapping[str, Any]) -> Method:
  """Makes the training of the predictor and corrector of `config['model']`.

  Sections used: `method`, `model`, `degradation`, `data`, `optimizer`, `steps`.

  Raises:
    UserError: As for `training_of`.
  """
  training = training_of(config)
  return Method(
    init=functools.partial(_init, training),
    train_step=functools.partial(_train_step, training),
    degrade=supervised.degrader(config).degradation.on_device,
    averaged=_averaged,
    margin=training.blurs.margin,
  )


def inference(config: Mapping[str, Any]) -> Inference:
  """Estimates the code of each image and corrects it, or encodes a kernel."""
  network = kernel_codes.network_of(config)
  count = config['method'].get('corrections', RELEASED)
  check(
    'config.method',
    {'corrections': count},
    {'corrections': _RULES['corrections']},
  )
  return Inference(
    _blind_predict(network, count),
    fitting=functools.partial(_fitting, config, network, count),
    iterations=count,
    check=functools.partial(_check, network),
  )


def _check(network: Conditioned, params: Mapping[str, Any]) -> None:
  """Refuses parameters that lack a network, or whose codes differ in length.

  Raises:
    UserError: A slot is missing or does not suit the others.
  """
  kernel_codes.check_codes(network, params)
  for slot in _SLOTS:
    if slot not in params:
      raise UserError(f'it holds no {slot}')
    try:
      part = _part(params, slot)
      fresh = jax.eval_shape(
        part.init, jax.random.key(0), *part.example_inputs
      )['params']
    except (LookupError, ValueError, TypeError) as error:
      raise UserError(f'its {slot} is no {slot} of ikc') from error
    alike = shapes_of(params[slot]) == shapes_of(fresh)
    widths = part.codes, part.channels
    if not alike or widths != (network.codes, network.channels):
      raise UserError(
        f'its {slot} does not suit {network.codes} codes and'
        f' {network.channels} channels'
      )


def _part(params: Mapping[str, Any], slot: str) -> Any:
  """Makes the predictor or the corrector that has these parameters."""
  companion = ikc.COMPANIONS[slot]
  return companion.Model(**companion.recognise(shapes_of(params[slot])))


def predicted(params: Mapping[str, Any], lr: jax.Array) -> jax.Array:
  """Codes `[B, codes]` that the predictor estimates from `[B, H, W, C]`."""
  return _part(params, 'predictor').apply({'params': params['predictor']}, lr)


def corrected(
  network: Conditioned,
  params: Mapping[str, Any],
  lr: jax.Array,
  code: jax.Array,
) -> jax.Array:
  """Corrects codes once, judging by the images that SFTMD makes with them."""
  sr = kernel_codes.enlarge(network, params, lr, code)
  corrector = _part(params, 'corrector')
  return corrector.apply({'params': params['corrector']}, sr, code)


@functools.lru_cache(maxsize=32)
def _blind_predict(
  network: Conditioned, count: int
) -> Callable[..., jax.Array]:
  """`Inference.predict` that estimates the code of each image of a batch."""
  with_code = kernel_codes.predictor_of(network)

  def predict(
    params: Mapping[str, Any], lr: jax.Array, mask: jax.Array | None = None
  ) -> jax.Array:
    if CODE in params:
      return with_code(params, lr, mask)
    if mask is not None:
      raise ValueError('a kernel is estimated from images without padding')
    code = jax.lax.fori_loop(
      0,
      count,
      lambda _, code: corrected(network, params, lr, code),
      predicted(params, lr),
    )
    return kernel_codes.enlarge(network, params, lr, code)

  return predict


def _fitting(
  config: Mapping[str, Any],
  network: Conditioned,
  most: int,
  assumed: Assumed,
  iterations: int | str | None,
) -> Fitting:
  """Makes the code of a given kernel, or estimates the code of each image.

  Args:
    config: Config of the checkpoint.
    network: The network that enlarges by a code.
    most: The checkpoint's number of corrections.
    assumed: How the images were degraded; without a kernel it is estimated.
    iterations: Number of corrections; 'auto' and None make at most `most` of
      them, and stop when the code hardly changes.

  Raises:
    UserError: A kernel and a number of corrections are given, or the images
      were degraded in another way than those of the training.
  """
  if assumed.kernel is not None:
    if iterations is not None:
      raise UserError(
        'a given kernel is not corrected: leave iterations=N or kernel=SPEC out'
      )
    return kernel_codes.known_fitting(config, network, assumed)
  degradation = kernel_codes.check_assumed(config, assumed)
  count = iterations if isinstance(iterations, int) else most
  program = estimation(network, count, auto=count is not iterations)
  return kernel_codes.fitting(network, program, degradation, None)


@functools.lru_cache(maxsize=32)
def estimation(
  network: Conditioned, count: int, *, auto: bool
) -> Callable[..., Any]:
  """Compiles `(params, lr, keys) -> (code of each image, report)`.

  Args:
    network: The network that enlarges by a code.
    count: Number of corrections.
    auto: Whether to stop earlier, when the code hardly changes.
  """

  def changing(now: _Estimate) -> jax.Array:
    _, step, change = now
    return (step < count) & (change >= (_LEAST_CHANGE if auto else 0))

  def one(params: Any, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    lr = image[None]

    def correct(now: _Estimate) -> _Estimate:
      code, step, _ = now
      new = corrected(network, params, lr, code)
      change = jnp.linalg.norm(new - code) / jnp.linalg.norm(new)
      return new, step + 1, change

    start = predicted(params, lr)
    state = start, jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf)
    code, steps, _ = jax.lax.while_loop(changing, correct, state)
    return code[0], steps

  @jit
  def fit(params: Any, lr: jax.Array, keys: Any) -> Any:
    del keys
    codes, steps = jax.lax.map(functools.partial(one, params), lr)
    return {CODE: codes}, {'steps': steps}

  return fit


def _init(
  training: Training,
  key: jax.Array,
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  frozen: Mapping[str, Any],
  scale: int,
  pretrained: Mapping[str, Any] = EMPTY,
) -> TrainState:
  check_frozen(frozen, ())
  network, blurs = training.network, training.blurs
  keys = jax.random.split(key, 4)
  lr = jnp.zeros((1, 8, 8, shapes['hr'].shape[-1]))
  sr = jnp.zeros((1, 8 * scale, 8 * scale, lr.shape[-1]))
  code = jnp.zeros((1, network.codes))
  fresh = {
    'generator': network.init(keys[0], lr)['params'],
    'predictor': training.predictor.init(keys[1], lr)['params'],
    'corrector': training.corrector.init(keys[2], sr, code)['params'],
    CODES: {'basis': jnp.asarray(blurs.basis(network.codes))},
  }
  if 'generator' not in pretrained:
    _log.warning(
      'config.checkpoint.init_from is empty: the network that enlarges stays'
      ' untrained, and the codes mean nothing; name a run of'
      ' configs/ikc_sftmd.py'
    )
  given = {slot: tree for slot, tree in fresh.items() if slot in pretrained}
  params = fresh | start_from(given, pretrained)
  codes = params.pop(CODES)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=keys[3],
    params=params,
    opt_state={
      slot: training.optimizers[slot].tx.init(params[slot]) for slot in _SLOTS
    },
    model_state={CODES: codes},
  )


def _averaged(state: TrainState) -> dict[str, Any]:
  averaged = {
    slot: optimizers.averaged_params(state.opt_state[slot], state.params[slot])
    for slot in _SLOTS
  }
  codes = state.model_state[CODES]
  return {'generator': state.params['generator'], **averaged, CODES: codes}


def _train_step(
  training: Training,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
  basis = state.model_state[CODES]['basis']
  lr, _, code = training.blurs.draw(state.step_key(), batch, scale, basis)
  return update(training, state, lr, code)


def update(
  training: Training, state: TrainState, lr: jax.Array, code: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Updates the predictor once, and the corrector once per correction.

  Args:
    training: Networks and settings.
    state: State of the training.
    lr: Images `[B, H, W, C]` in [0, 1].
    code: Their true codes `[B, codes]`.
  """
  params, opt_state = dict(state.params), dict(state.opt_state)

  def moved(slot: str, grads: Any, old: Any, opt: Any) -> tuple[Any, Any]:
    updates, opt = training.optimizers[slot].tx.update(grads, opt, old)
    return optax.apply_updates(old, updates), opt

  def of_predictor(tree: Any) -> tuple[jax.Array, jax.Array]:
    found: Any = training.predictor.apply({'params': tree}, lr)
    return _distance(found, code), found

  (first, found), grads = jax.value_and_grad(of_predictor, has_aux=True)(
    params['predictor']
  )
  params['predictor'], opt_state['predictor'] = moved(
    'predictor', grads, params['predictor'], opt_state['predictor']
  )

  def correct(carry: Any, _: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    tree, opt, found = carry
    sr = kernel_codes.enlarge(training.network, params, lr, found)

    def of_corrector(tree: Any) -> tuple[jax.Array, jax.Array]:
      new: Any = training.corrector.apply({'params': tree}, sr, found)
      return _distance(new, code), new

    (value, new), grads = jax.value_and_grad(of_corrector, has_aux=True)(tree)
    tree, opt = moved('corrector', grads, tree, opt)
    return (tree, opt, new), (value, optax.tree.norm(grads))

  start = params['corrector'], opt_state['corrector'], found
  end, (losses, norms) = jax.lax.scan(
    correct, start, None, length=training.corrections
  )
  params['corrector'], opt_state['corrector'], _ = end
  metrics = optimizers.step_metrics(
    training.optimizers['predictor'].rate,
    grads,
    opt_state,
    slot='predictor',
  )
  state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
  return state, metrics | {
    'loss': losses.mean(),
    'predicted': first,
    'corrected_first': losses[0],
    'corrected_last': losses[-1],
    'corrector_norm': norms.mean(),
  }


def _distance(found: jax.Array, code: jax.Array) -> jax.Array:
  """Mean squared error of codes."""
  return ((found - code) ** 2).mean()
