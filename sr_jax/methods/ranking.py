"""Training of a ranker on pairs (RankSRGAN, Zhang et al., ICCV 2019).

The network scores both images of a pair; a margin-ranking loss asks that the
worse one of a perceptual metric scores higher. Pairs are the same crop of two
generators' patches, out of a folder of `sr-jax rank-data`
(`config.data.source=ranked:DIR`). With the source `embedded` they are
photographs and their bicubic enlargements, which tries things out.

Batch statistics are those of each side of the pairs by itself, as in the
released code. There the first image of a pair is always of the more perceptual
generator, and the statistics alone may tell the sides apart; here sides are
drawn.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sr_jax import models, optimizers
from sr_jax.data import batches, opening, ranked
from sr_jax.data.degradation import Degradation
from sr_jax.errors import UserError
from sr_jax.losses import ranking
from sr_jax.methods import Method, supervised
from sr_jax.metric_writers import MetricWriter
from sr_jax.metrics.correlation import spearman
from sr_jax.ops.compilation import jit
from sr_jax.ops.resize import imresize
from sr_jax.state import TrainState, start_from

USES_RANKED = True
# Of the bicubic enlargements that stand in for generators.
_STAND_IN = 4
_TOGETHER = 8


def make(config: Mapping[str, Any]) -> Method:
  """Training of `config['model']`, a ranker.

  Sections used: `method`, `model`, `degradation`, `optimizer`, `steps`.

  Raises:
    UserError: another orientation than the metric's, or a section that its
      consumer refuses.
  """
  section = config['method']
  try:
    ranked.check_metric(section['metric'], section['better'])
  except UserError as error:
    raise UserError(f'config.method: {error}') from None
  ranker = models.create(config['model'])
  tx, rate = optimizers.make(steps=config['steps'], **config['optimizer'])
  make_lr = Degradation.from_config(config['degradation']).on_device
  return Method(
    init=functools.partial(_init, ranker, tx),
    train_step=functools.partial(
      *(_train_step, ranker, tx, rate, make_lr),
      section['margin'],
      section['l2_weight'],
    ),
    predict=predictor(config),
    degrade=make_lr,
    averaged=supervised.averaged,
  )


def predictor(config: Mapping[str, Any]) -> Callable[..., jax.Array]:
  """`(params, images [B, H, W, C]) -> scores [B]`, higher is worse."""
  return functools.partial(score, models.create(config['model']))


def score(
  ranker: Any, params: Mapping[str, Any], images: jax.Array
) -> jax.Array:
  """Scores by running statistics, of parameters by slot."""
  variables = {
    'params': params['generator'],
    'batch_stats': params['batch_stats'],
  }
  return ranker.apply(variables, images)[:, 0]


def _init(
  ranker: Any,
  tx: optax.GradientTransformation,
  key: jax.Array,
  batch: Mapping[str, jax.Array],
  pretrained: Mapping[str, Any],
  scale: int,
) -> TrainState:
  del scale  # a ranker sees images at their own size
  init_key, state_key = jax.random.split(key)
  shape = batch['first' if 'first' in batch else 'hr'].shape
  variables = dict(ranker.init(init_key, jnp.zeros((1, *shape[1:]))))
  slots = {'generator': variables.pop('params'), **variables}
  slots = start_from(slots, pretrained)
  params = slots.pop('generator')
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params={'generator': params},
    opt_state={'generator': tx.init(params)},
    model_state={'generator': slots},
  )


def _pairs(
  make_lr: Callable[..., jax.Array],
  key: jax.Array,
  batch: Mapping[str, Any],
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """Images `[B, H, W, C]` in [0, 1] and labels `[B]` of both sides."""
  if 'first' in batch:
    first, second = (
      batch[side].astype(jnp.float32) / 255 for side in ('first', 'second')
    )
    return (first, second), (batch['score_first'], batch['score_second'])
  hr = batch['hr'].astype(jnp.float32) / 255
  lr = make_lr(key, hr, _STAND_IN)
  blurred = imresize(lr, scale=_STAND_IN, shape=hr.shape[1:3]).clip(0, 1)
  # In turns: sides that differ would be told apart by their statistics.
  swapped = jnp.arange(len(hr)) % 2 == 1
  turn = swapped[:, None, None, None]
  images = jnp.where(turn, blurred, hr), jnp.where(turn, hr, blurred)
  return images, (swapped.astype(jnp.float32), 1.0 - swapped)


def _train_step(
  ranker: Any,
  tx: optax.GradientTransformation,
  rate: optax.Schedule,
  make_lr: Callable[..., jax.Array],
  margin: float,
  l2_weight: float,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  del scale
  images, labels = _pairs(make_lr, state.step_key(), batch)

  def objective(params: Any) -> tuple[jax.Array, Any]:
    stats = state.model_state['generator']

    def judge(image: jax.Array, stats: Any) -> tuple[jax.Array, Any]:
      return ranker.apply(
        {'params': params, **stats}, image, train=True, mutable=list(stats)
      )

    first, stats = judge(images[0], stats)
    second, stats = judge(images[1], stats)
    scores = first[:, 0], second[:, 0]
    loss = ranking.order(scores[0], scores[1], labels[0], labels[1], margin)
    # A part of the loss, not AdamW's decay.
    decay = l2_weight / 2 * optax.tree.norm(params, squared=True)
    return loss + decay, (stats, loss, scores)

  params = state.params['generator']
  (_, told), grads = jax.value_and_grad(objective, has_aux=True)(params)
  stats, loss, (first, second) = told
  state, metrics = optimizers.update(tx, rate, state, {'generator': grads})
  right = (first >= second) == (labels[0] >= labels[1])
  metrics |= {'loss': loss, 'accuracy': right.mean()}
  return state.with_statistics({'generator': stats}), metrics


def evaluation(config: Mapping[str, Any]) -> Evaluation:
  """What the train loop measures instead of SR images."""
  return Evaluation(config)


class Evaluation:
  """Pair accuracy and rank correlation on patches that training never sees.

  Attributes:
    rules: What the numbers mean, for the checkpoint.
    names: Of the scores that may choose a checkpoint.
  """

  names = ('accuracy', 'spearman')

  def __init__(self, config: Mapping[str, Any]):
    """Opens the held-out patches of `config.eval.source`.

    '' stands for those of the training data.

    Raises:
      UserError: there are none.
    """
    section = config['eval']
    source = opening.held_out_patches(config)
    self.rules = {
      'name': 'pairs',
      'metric': config['method']['metric'],
      'better': config['method']['better'],
      'images': section['source'] or config['data']['source'],
    }
    self._count = section['crops']
    self._predict = jit(predictor(config))
    if isinstance(source, ranked.RankedSource):
      self._batches = functools.partial(_of_patches, source, self._count)
      return
    hr = batches.fixed_crops(
      source, size=section['crop_size'], count=self._count, scale=1
    )['hr']
    make_lr = Degradation.from_config(config['degradation']).on_device
    images, labels = _pairs(make_lr, jax.random.key(0), {'hr': hr})
    pair = np.stack(images), np.stack(labels, axis=1)
    self._batches = lambda: iter([pair])

  def __call__(
    self, step: int, params: Mapping[str, Any], writer: MetricWriter
  ) -> dict[str, float]:
    """Measures parameters by slot, and writes what came out.

    Returns:
      `accuracy` over the pairs of levels of each patch, also pair by pair as
      `accuracy_0_1`, and `spearman` over all patches.
    """
    local = jax.device_get(params)
    scores, labels = [], []
    for images, known in self._batches():
      columns = [np.asarray(self._predict(local, level)) for level in images]
      scores.append(np.stack(columns, axis=1)[: len(known)])
      labels.append(known)
    found = agreement(np.concatenate(scores), np.concatenate(labels))
    writer.scalars(step, {f'held_out/{k}': v for k, v in found.items()})
    return found


def agreement(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """How well scores `[N, levels]` put labels `[N, levels]` in order."""
  pairs = list(itertools.combinations(range(labels.shape[1]), 2))
  right = {
    f'accuracy_{i}_{j}': float(
      np.mean((scores[:, i] >= scores[:, j]) == (labels[:, i] >= labels[:, j]))
    )
    for i, j in pairs
  }
  return {
    'accuracy': float(np.mean(list(right.values()))),
    'spearman': spearman(scores.ravel(), labels.ravel()),
    **right,
  }


def _of_patches(
  source: ranked.RankedSource, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Evenly spaced patches as `[levels, B, S, S, 3]`, and labels `[b, levels]`.

  The last batch is filled up with any patches: all have one shape.
  """
  count = min(count, len(source))
  chosen = [i * len(source) // count for i in range(count)]
  for start in range(0, count, _TOGETHER):
    part = chosen[start : start + _TOGETHER]
    full = np.resize(part, _TOGETHER)
    images = np.stack(
      [[source.image(i, level) for i in full] for level in range(source.levels)]
    )
    yield images.astype(np.float32) / 255, source.scores[part]
