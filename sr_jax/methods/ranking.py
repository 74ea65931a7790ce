"""Training of a ranker on pairs (RankSRGAN, Zhang et al., ICCV 2019).

The network scores both images of a pair. A margin-ranking loss demands a higher
score for the image that is worse by a perceptual metric. A pair consists of the
same crop of two generators' patches, from a folder of `sr-jax rank-data`
(`config.data.source=ranked:DIR`). With the source `embedded` pairs are
photographs and their bicubic enlargements, for trials.

Batch statistics are computed separately for the first and second images of the
pairs, as in the released code. There the first image always comes from the more
perceptual generator, so that the statistics may reveal the order. Here the
order is random.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sr_jax import models, optimizers
from sr_jax.data.degradation import Degradation
from sr_jax.errors import TEXT, OneOf, Range, Rules, check
from sr_jax.losses import ranking
from sr_jax.methods import COMMON_RULES, Inference, Method, supervised
from sr_jax.ops.levels import to_unit
from sr_jax.ops.resize import imresize
from sr_jax.state import EMPTY, TrainState, check_frozen, start_from

# Scale of the bicubic enlargements that replace generators in trials.
_STAND_IN = 4
# Allowed keys and values of `config.method`.
_RULES: Rules = {
  **COMMON_RULES,
  'metric': TEXT,
  'better': OneOf(('lower', 'higher')),
  'margin': Range(),
  'l2_weight': Range(),
}


class _Training(NamedTuple):
  """Network and settings that the functions of the method share.

  Attributes:
    ranker: The Linen module.
    tx: The optimizer.
    rate: The learning rate.
    margin: Difference by which the worse image should score higher.
    l2_weight: Weight of the squared norm of the parameters in the loss.
    make_lr: `Method.degrade`.
  """

  ranker: Any
  tx: optax.GradientTransformation
  rate: optax.Schedule
  margin: float
  l2_weight: float
  make_lr: Callable[..., jax.Array]


def make(config: Mapping[str, Any]) -> Method:
  """Makes the training of `config['model']`, a ranker.

  Sections used: `method`, `model`, `degradation`, `optimizer`, `steps`.

  Raises:
    UserError: The value of a section is refused.
  """
  section = config['method']
  check('config.method', section, _RULES)
  ranker = models.create(config['model'])
  tx, rate = optimizers.make(steps=config['steps'], **config['optimizer'])
  make_lr = Degradation.from_config(config['degradation']).on_device
  training = _Training(
    *(ranker, tx, rate, section['margin'], section['l2_weight'], make_lr)
  )
  return Method(
    init=functools.partial(_init, training),
    train_step=functools.partial(_train_step, training),
    degrade=make_lr,
    averaged=supervised.averaged,
    uses=frozenset({'ranked'}),
    judges='pairs',
  )


def inference(config: Mapping[str, Any]) -> Inference:
  """Scores images `[B, H, W, C]` as `[B]`, higher is worse."""
  return Inference(functools.partial(score, models.create(config['model'])))


def score(
  ranker: Any, params: Mapping[str, Any], images: jax.Array
) -> jax.Array:
  """Scores images with running statistics; `params` are by slot."""
  variables = {
    'params': params['generator'],
    'batch_stats': params['batch_stats'],
  }
  return ranker.apply(variables, images)[:, 0]


def _init(
  training: _Training,
  key: jax.Array,
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  frozen: Mapping[str, Any],
  scale: int,
  pretrained: Mapping[str, Any] = EMPTY,
) -> TrainState:
  del scale  # a ranker does not change the size of images
  check_frozen(frozen, ())
  init_key, state_key = jax.random.split(key)
  shape = shapes['first' if 'first' in shapes else 'hr'].shape
  variables = dict(training.ranker.init(init_key, jnp.zeros((1, *shape[1:]))))
  slots = {'generator': variables.pop('params'), **variables}
  slots = start_from(slots, pretrained)
  params = slots.pop('generator')
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params={'generator': params},
    opt_state={'generator': training.tx.init(params)},
    model_state={'generator': slots},
  )


def pairs(
  make_lr: Callable[..., jax.Array],
  key: jax.Array,
  batch: Mapping[str, Any],
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """Makes pairs: images `[B, H, W, C]` in [0, 1] and labels `[B]`, two each."""
  if 'first' in batch:
    first, second = (to_unit(batch[side]) for side in ('first', 'second'))
    return (first, second), (batch['score_first'], batch['score_second'])
  hr = to_unit(batch['hr'])
  lr = make_lr(key, hr, _STAND_IN)
  blurred = imresize(lr, scale=_STAND_IN, shape=hr.shape[1:3]).clip(0, 1)
  # The order alternates: batch statistics must not reveal which one is blurred.
  swapped = jnp.arange(len(hr)) % 2 == 1
  turn = swapped[:, None, None, None]
  images = jnp.where(turn, blurred, hr), jnp.where(turn, hr, blurred)
  return images, (swapped.astype(jnp.float32), 1.0 - swapped)


def _train_step(
  training: _Training,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  del scale
  images, labels = pairs(training.make_lr, state.step_key(), batch)

  def objective(params: Any) -> tuple[jax.Array, Any]:
    stats = state.model_state['generator']

    def judge(image: jax.Array, stats: Any) -> tuple[jax.Array, Any]:
      return training.ranker.apply(
        {'params': params, **stats}, image, train=True, mutable=list(stats)
      )

    first, stats = judge(images[0], stats)
    second, stats = judge(images[1], stats)
    scores = first[:, 0], second[:, 0]
    loss = ranking.order(*scores, *labels, training.margin)
    # The L2 term is a part of the loss, not a decay as in AdamW.
    decay = training.l2_weight / 2 * optax.tree.norm(params, squared=True)
    return loss + decay, (stats, loss, scores)

  params = state.params['generator']
  (_, aux), grads = jax.value_and_grad(objective, has_aux=True)(params)
  stats, loss, (first, second) = aux
  state, metrics = optimizers.step_slots(
    training.tx, training.rate, state, {'generator': grads}
  )
  right = (first >= second) == (labels[0] >= labels[1])
  metrics |= {'loss': loss, 'accuracy': right.mean()}
  return state.with_statistics({'generator': stats}), metrics
