"""Which checkpoints of a run are kept: the newest, and the best by scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_log = logging.getLogger(__name__)


class KeepNewestAndBest(NamedTuple):
  """An Orbax preservation policy that keeps the newest and best checkpoints.

  Orbax's own policies read all score files when a folder is opened. One damaged
  file would prevent a run from resuming, and one NaN would count as the best
  score.

  Attributes:
    keep: Number of newest checkpoints to keep.
    keep_best: Number of best checkpoints to keep, for each score in `best_by`.
    best_by: For the name of each score that decides: whether lower is better.
    scores: Scores by step, for the steps that were evaluated.
  """

  keep: int
  keep_best: int
  best_by: Mapping[str, bool]
  scores: dict[int, dict[str, float]]

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Whether to keep each of the checkpoints, which are given oldest first."""
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    kept = set(steps[-self.keep :])
    for name in self.best_by:
      kept.update(self._best(name, steps))
    return [step in kept for step in steps]

  def add(self, step: int, scores: Mapping[str, float]) -> None:
    """Adds the scores of a new checkpoint."""
    self.scores[step] = dict(scores)
    for name in self.best_by:
      if name in scores and self._rank(name, scores) is None:
        _log.warning(
          'step %d: %s is %s and cannot be the best', step, name, scores[name]
        )

  def would_be_best(self, scores: Mapping[str, float]) -> bool:
    """Whether one of these scores would be among the best."""
    new = max(self.scores, default=0) + 1
    after = self._replace(scores={**self.scores, new: dict(scores)})
    return any(new in after._best(n, list(after.scores)) for n in self.best_by)

  def _best(self, name: str, steps: Sequence[int]) -> list[int]:
    """Steps with the best values of a score; newer steps win ties."""
    ranked = [
      (rank, step)
      for step in steps
      if (rank := self._rank(name, self.scores.get(step, {}))) is not None
    ]
    ranked.sort()
    best = ranked[max(0, len(ranked) - self.keep_best) :]
    return [step for _, step in best]

  def _rank(self, name: str, scores: Mapping[str, float]) -> float | None:
    """A number that is higher for better scores; None if not finite."""
    value = scores.get(name)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
      return None
    return -value if self.best_by[name] else value
