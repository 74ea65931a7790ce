"""Which checkpoints of a run are kept: the newest, and the best by scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_log = logging.getLogger(__name__)


class KeepNewestAndBest(NamedTuple):
  """Which checkpoints Orbax keeps: a preservation policy.

  Orbax's own policies read all scores when a folder is opened: one damaged file
  there would block a run, and one NaN would count as the best score.

  Attributes:
    keep: How many of the newest.
    keep_best: How many of the best for each of `best_by`.
    best_by: Names of scores; true where lower is better.
    scores: Scores of each step, of those that have any.
  """

  keep: int
  keep_best: int
  best_by: Mapping[str, bool]
  scores: dict[int, dict[str, float]]

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """One answer for each checkpoint, which come oldest first."""
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    kept = set(steps[-self.keep :])
    for name in self.best_by:
      kept.update(self._best(name, steps))
    return [step in kept for step in steps]

  def add(self, step: int, scores: Mapping[str, float]) -> None:
    """Notes the scores of a new checkpoint."""
    self.scores[step] = dict(scores)
    for name in self.best_by:
      if name in scores and self._rank(name, scores) is None:
        _log.warning(
          'step %d: %s is %s and cannot be the best', step, name, scores[name]
        )

  def would_be_best(self, scores: Mapping[str, float]) -> bool:
    """Whether these scores are among the best of one of `best_by`."""
    new = max(self.scores, default=0) + 1
    after = self._replace(scores={**self.scores, new: dict(scores)})
    return any(new in after._best(n, list(after.scores)) for n in self.best_by)

  def _best(self, name: str, steps: Sequence[int]) -> list[int]:
    """The steps with the best values of one score; of equals the newest."""
    ranked = [
      (rank, step)
      for step in steps
      if (rank := self._rank(name, self.scores.get(step, {}))) is not None
    ]
    ranked.sort()
    best = ranked[max(0, len(ranked) - self.keep_best) :]
    return [step for _, step in best]

  def _rank(self, name: str, scores: Mapping[str, float]) -> float | None:
    """A number that is higher for better scores; None without a real score."""
    value = scores.get(name)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
      return None
    return -value if self.best_by[name] else value
