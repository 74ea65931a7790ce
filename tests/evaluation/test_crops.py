"""Evaluation during training: the score of images that cannot be scored."""

import math

import numpy as np
import pytest

from sr_jax.errors import UserError
from sr_jax.evaluation import crops
from sr_jax.metrics.protocol import PSNR, RMSE, SSIM, Metric


def refusing(name):
  def score(views):
    raise UserError('no score')

  return Metric(name, name, score)


@pytest.mark.parametrize(
  ('name', 'worst'),
  [
    *(('psnr', -math.inf), ('ssim', -math.inf), ('ma', -math.inf)),
    *(('niqe', math.inf), ('lpips', math.inf), ('rmse', math.inf)),
    ('pi', math.inf),
  ],
)
def test_image_without_a_score_counts_as_the_worst(name, worst, monkeypatch):
  """B11: a failed metric scored +inf, which is the best PSNR there is."""
  evaluation = object.__new__(crops.PeriodicEvaluation)
  evaluation._metrics = [refusing(name)]
  evaluation.protocol = crops.get_protocol('rgb')
  hr = np.zeros((2, 16, 16, 3))
  test = crops._Test({'model': {'scale': 2}}, None, hr, hr, None)
  assert evaluation._mean_scores(test, hr) == {name: worst}


def test_direction_stands_in_one_place():
  assert [m.lower_is_better for m in (PSNR, SSIM, RMSE)] == [False, False, True]
