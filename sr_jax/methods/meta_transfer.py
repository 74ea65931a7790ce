"""MZSR's meta-training (Soh et al., CVPR 2020, Algorithm 1, stage 2).

A task is a blur kernel and a scale, with support images to adapt to and query
images to evaluate the adapted network, all degraded by that kernel. The inner
loop adapts the network to the support images by gradient descent. The outer
loss is the query loss along the inner loop. Stage 1 is supervised training on
bicubic pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sr_jax import models, optimizers, sharding
from sr_jax.data.degradation import REAL, Degradation, covering_margin
from sr_jax.errors import (
  FLAG,
  TEXT,
  Many,
  OneOf,
  Optional,
  Range,
  Rules,
  Section,
  UserError,
  check,
  whole,
)
from sr_jax.methods import (
  COMMON_RULES,
  Inference,
  Method,
  _losses,
  supervised,
  zero_shot,
)
from sr_jax.methods._gradient_fit import ADAPT_RULES, gradient_fitting
from sr_jax.ops.blur_kernels import random_gaussian
from sr_jax.ops.degrade import (
  RESIZE_REACH,
  add_noise,
  correlate,
  reduction_tables,
)
from sr_jax.ops.levels import to_unit
from sr_jax.ops.resize import apply_matrices, imresize
from sr_jax.state import EMPTY, TrainState, check_frozen, start_from
from sr_jax.transforms import meta
from sr_jax.typing import Network

# Allowed keys and values of `config.method`.
_RULES: Rules = {
  **COMMON_RULES,
  'tasks': whole(1),
  'support': whole(1),
  'query': whole(1),
  'scales': Many(Range(1, 100), least=1),
  'kernel_size': whole(1, 255),
  'min_variance': Range(0, 1000, open='left'),
  'max_variance': Range(0, 1000, open='left'),
  'inner': Section(
    {
      'steps': whole(1, 10_000),
      'rate': Range(0, 1000),
      'learned_rates': OneOf(('', 'layer', 'weight')),
      'unroll': FLAG,
    }
  ),
  'outer': Section(
    {
      'weights': OneOf(('annealed', 'uniform')),
      'saturate_at': Range(0, open='left'),
      'exact_from': whole(),
      'task_axis': OneOf(('auto', 'map', 'vmap', 'unroll')),
    }
  ),
  # Settings of adapting to an image, and of evaluations during training.
  'adapt': Optional(Section(ADAPT_RULES)),
  'test': Optional(
    Section(
      {
        'steps': Many(ADAPT_RULES['steps'], least=1),
        'kernels': Many(TEXT, least=1),
      }
    )
  ),
}
# Unrolled steps are faster only if all activations are kept.
_KEEP_ALL = {'unroll': True, 'policy': None}


class Tasks(NamedTuple):
  """Distribution of the tasks; see `configs/mzsr.py` for the figures.

  Attributes:
    tasks: Number of tasks per outer step.
    support: Number of images of the inner loop, per task.
    query: Number of images of the outer loss, per task.
    scales: Scales, one of which is drawn uniformly for each task.
    kernel_size: Number of taps per axis.
    min_variance: Smallest variance of the kernels, in HR pixels squared.
    max_variance: Largest variance per unit of scale, in HR pixels squared.
    degradation: 'direct' or 'blur-bicubic', with a random kernel; or 'real'.
    noise_sigma: Standard deviation of the noise of LR, in grey levels of 255.
    wide: Whether images have a margin that is removed after the degradation.
    real: What draws the operations of a task of 'real'; None for the others.
  """

  tasks: int
  support: int
  query: int
  scales: Sequence[float]
  kernel_size: int
  min_variance: float
  max_variance: float
  degradation: str
  noise_sigma: float
  wide: bool = False
  real: Degradation | None = None

  @property
  def images(self) -> int:
    """Number of images per outer step."""
    return self.tasks * (self.support + self.query)

  def margin(self, scale: float) -> int:
    """Margin of the images of a batch on every side, in LR pixels.

    The margin is as wide as blur, reduction and enlargement reach at every
    scale of the tasks.

    Args:
      scale: Number of HR pixels per LR pixel of the batch.
    """
    if not self.wide:
      return 0
    if self.real is not None:
      reach = max(s * (self.real.margin(s) + RESIZE_REACH) for s in self.scales)
      return round(covering_margin(reach, 1, scale, *self.scales) / scale)
    resizes = 1 if self.degradation == 'direct' else 2
    reach = self.kernel_size // 2 + resizes * RESIZE_REACH * max(self.scales)
    margin = covering_margin(reach, 1, scale, *self.scales)
    return round(margin / scale)


class Inner(NamedTuple):
  """Settings of the inner loop.

  Attributes:
    steps: Number of gradient steps.
    rate: Learning rate of all steps.
    learned_rates: '' for constant rates; 'layer' or 'weight' trains one rate
      for each layer or weight.
    unroll: Whether the loop is unrolled and keeps all activations, instead of a
      scan. This is faster; the memory grows with the number of steps.
  """

  steps: int
  rate: float
  learned_rates: Literal['', 'layer', 'weight']
  unroll: bool


class Outer(NamedTuple):
  """Settings of the outer loss.

  Attributes:
    weights: 'annealed' or 'uniform' weights of the inner steps.
    saturate_at: Step after which annealed weights no longer change.
    exact_from: First step at which the outer gradient is of second order.
    task_axis: How tasks are mapped: 'map', 'vmap', 'unroll', or 'auto', which
      chooses for the backend.
  """

  weights: str
  saturate_at: float
  exact_from: int
  task_axis: str


class _Training(NamedTuple):
  """Network and settings that the functions of the method share.

  Attributes:
    network: The network, which refines an enlarged image.
    tx: The optimizer of each slot.
    rate: The learning rate of the outer steps.
    loss: `(params, (enlarged, hr)) -> value`, the inner and outer loss.
    tasks: Distribution of the tasks.
    inner: Settings of the inner loop.
    outer: Settings of the outer loss.
  """

  network: Network
  tx: optax.GradientTransformation
  rate: optax.Schedule
  loss: meta.LossFn
  tasks: Tasks
  inner: Inner
  outer: Outer


def make(config: Mapping[str, Any]) -> Method:
  """Makes the meta-training of `config['model']`.

  Sections used: `method`, `model`, `loss`, `degradation`, `optimizer`, `data`
  (the batch size), `steps`.

  Raises:
    UserError: The value of a section is refused, or the batch size is not that
      of the tasks.
  """
  tasks, inner, outer = _sections(config)
  network = models.create_refining(config['model'], 'meta_transfer')
  tx, rate = optimizers.make(steps=config['steps'], **config['optimizer'])
  loss = zero_shot.reconstruction_loss(network, _losses.pixel_loss(config))
  training = _Training(network, tx, rate, loss, tasks, inner, outer)
  return Method(
    init=functools.partial(_init, training),
    train_step=functools.partial(_train_step, training),
    degrade=supervised.degrader(config).degradation.on_device,
    margin=tasks.margin,
    averaged=supervised.averaged,
  )


def inference(config: Mapping[str, Any]) -> Inference:
  """Applies the network, which adapts to images whose blur is known."""
  return supervised.inference(config)._replace(
    fitting=functools.partial(gradient_fitting, config), needs_kernel=True
  )


def _sections(config: Mapping[str, Any]) -> tuple[Tasks, Inner, Outer]:
  """Reads and checks the settings of tasks, inner loop and outer loss."""
  section, degradation = config['method'], config['degradation']
  of_degradation = {
    'degradation': degradation['name'],
    'noise_sigma': degradation['noise_sigma'],
    'wide': config['data'].get('margin', False),
    'real': (
      Degradation.from_config(degradation)
      if degradation['name'] == REAL
      else None
    ),
  }
  check('config.method', section, _RULES)
  tasks = Tasks(**{k: (section | of_degradation)[k] for k in Tasks._fields})
  inner, outer = Inner(**section['inner']), Outer(**section['outer'])
  least = section['min_variance']
  if least > section['max_variance'] * min(section['scales']):
    raise UserError(
      f'config.method.min_variance={least}: give no more than max_variance'
      ' times the least scale'
    )
  if tasks.degradation not in ('direct', 'blur-bicubic', REAL):
    raise UserError(
      f'config.degradation.name={tasks.degradation!r}: every task draws a blur;'
      " choose 'direct', 'blur-bicubic' or 'real'"
    )
  if degradation['jpeg_quality']:
    raise UserError(
      f'config.degradation.jpeg_quality={degradation["jpeg_quality"]}: tasks'
      ' are not compressed; give 0'
    )
  if config['data']['scales']:
    raise UserError(
      f'config.data.scales={config["data"]["scales"]}: tasks draw from'
      ' config.method.scales; leave it empty'
    )
  if config['data']['batch_size'] != tasks.images:
    raise UserError(
      f'config.data.batch_size={config["data"]["batch_size"]}: {tasks.tasks}'
      f' tasks of {tasks.support}+{tasks.query} images need {tasks.images}'
    )
  return tasks, inner, outer


def _init(
  training: _Training,
  key: jax.Array,
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  frozen: Mapping[str, Any],
  scale: int,
  pretrained: Mapping[str, Any] = EMPTY,
) -> TrainState:
  del scale  # the network works on the enlarged image
  check_frozen(frozen, ())
  init_key, state_key = jax.random.split(key)
  image = jnp.zeros((1, 8, 8, shapes['hr'].shape[-1]))
  params = {'generator': training.network.init(init_key, image)['params']}
  inner = training.inner
  if inner.learned_rates:
    params['rates'] = meta.learned_rates(
      params['generator'], inner.steps, inner.rate, per=inner.learned_rates
    )
  known = {slot: tree for slot, tree in params.items() if slot in pretrained}
  params |= start_from(known, pretrained)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params=params,
    opt_state={slot: training.tx.init(tree) for slot, tree in params.items()},
  )


def _train_step(
  training: _Training,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  # Each task draws its own scale; the margin is that of the batch's scale.
  margin = round(training.tasks.margin(scale) * scale)
  means = _outer_gradient(training, state, batch['hr'], margin)
  state, metrics = optimizers.step_slots(
    training.tx, training.rate, state, means['grads']
  )
  return state, metrics | {
    'loss': means['loss'],
    'inner_loss': means['support'][0],
    'query_first': means['query'][0],
    'query_last': means['query'][-1],
  }


def _outer_gradient(
  training: _Training, state: TrainState, hr: jax.Array, margin: int
) -> dict[str, Any]:
  """Means over the tasks: loss, gradients, and losses along the inner loop."""
  _, _, _, loss, tasks, inner, outer = training
  keys = jax.random.split(state.step_key(), tasks.tasks)
  images = hr.reshape(tasks.tasks, -1, *hr.shape[1:])
  weights = _step_weights(outer, inner, state.step)

  def gradient(order: meta.Order) -> Callable[..., Any]:
    one = functools.partial(_one_task, loss, tasks, inner, order, margin)
    return meta.mean_over_tasks(
      one, axis=_task_axis(outer.task_axis), mesh=_task_mesh(tasks.tasks)
    )

  shared, stacked = (state.params, weights), (keys, images)
  if not outer.exact_from:
    return gradient('exact')(shared, stacked)
  return jax.lax.cond(
    state.step < outer.exact_from,
    gradient('first'),
    gradient('exact'),
    *(shared, stacked),
  )


def _one_task(
  loss: meta.LossFn,
  tasks: Tasks,
  inner: Inner,
  order: meta.Order,
  margin: int,
  shared: tuple[Any, jax.Array],
  task: tuple[jax.Array, jax.Array],
) -> dict[str, Any]:
  """The outer loss of one task, and its gradient in all slots."""
  params, weights = shared
  key, images = task
  wide = to_unit(images)
  enlarged, hr = (
    supervised.cut(image, margin)
    for image in (draw_task(key, wide, tasks), wide)
  )
  n = tasks.support

  def objective(params: Any) -> tuple[jax.Array, meta.Adapted]:
    return meta.meta_loss(
      loss,
      params['generator'],
      (enlarged[:n], hr[:n]),
      (enlarged[n:], hr[n:]),
      weights,
      learning_rates=params.get('rates', inner.rate),
      order=order,
      **_KEEP_ALL if inner.unroll else {},
    )

  (value, adapted), grads = jax.value_and_grad(objective, has_aux=True)(params)
  return {
    'loss': value,
    'grads': grads,
    'support': adapted.losses,
    'query': adapted.observed,
  }


def draw_task(key: jax.Array, hr: jax.Array, tasks: Tasks) -> jax.Array:
  """Degrades images by one random kernel and scale, and enlarges them again.

  A task of 'real' draws one sequence of operations in place of the kernel.

  Args:
    key: PRNG key of the task.
    hr: `[N, S, S, C]` in [0, 1].
    tasks: Distribution of the tasks.

  Returns:
    Inputs of the network `[N, S, S, C]`, not clipped; their target is `hr`.
  """
  scale_key, kernel_key, noise_key = jax.random.split(key, 3)
  size = hr.shape[1]
  index = jax.random.randint(scale_key, (), 0, len(tasks.scales))
  if tasks.real is not None:
    reduced_by = [
      functools.partial(_real_task, tasks.real, s) for s in tasks.scales
    ]
    return jax.lax.switch(index, reduced_by, kernel_key, hr)
  scale = jnp.asarray(tasks.scales, jnp.float32)[index]
  kernel = random_gaussian(
    kernel_key,
    scale=scale,
    size=tasks.kernel_size,
    min_variance=tasks.min_variance,
    max_variance=tasks.max_variance,
  )
  tables = reduction_tables(size, tasks.scales, tasks.degradation)
  down, up = (jnp.asarray(table, hr.dtype)[index] for table in tables)
  lr = apply_matrices(down, down, correlate(hr, kernel))
  if tasks.noise_sigma:
    lr = add_noise(noise_key, lr, tasks.noise_sigma)
  return apply_matrices(up, up, lr)


def _real_task(
  real: Degradation, scale: float, key: jax.Array, hr: jax.Array
) -> jax.Array:
  """Inputs of the network for a task of 'real' at one scale."""
  lr = real.of_task(key, hr, scale)
  height, width = hr.shape[1:3]
  return imresize(lr, scale=scale, shape=(height, width))


def _step_weights(outer: Outer, inner: Inner, step: jax.Array) -> jax.Array:
  if outer.weights == 'annealed':
    return meta.multi_step_weights(
      step, inner.steps, saturate_at=outer.saturate_at
    )
  return meta.uniform_weights(inner.steps)


def _task_axis(name: str) -> Any:
  return 'map' if name == 'auto' else name


def _task_mesh(tasks: int) -> Any:
  """The devices that share the tasks; None if each device computes all."""
  mesh = sharding.make_mesh()
  return mesh if mesh.size > 1 and tasks % mesh.size == 0 else None
