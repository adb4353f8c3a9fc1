# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How long work takes: a line of seconds over its amount, fitted to steps."""

import dataclasses
import math

from antjax.elastic.view import StepMoments


@dataclasses.dataclass(frozen=True)
class Cost:
  """Seconds of x units of work: alpha_s + beta_s * x.

  Attributes:
    alpha_s: Seconds whatever x is.
    beta_s: Seconds of a unit.
  """

  alpha_s: float
  beta_s: float

  def __post_init__(self) -> None:
    if not (
      0 <= self.alpha_s < math.inf
      and 0 <= self.beta_s < math.inf
      and self.alpha_s + self.beta_s > 0
    ):
      raise ValueError(
        f'Cost: alpha_s={self.alpha_s} and beta_s={self.beta_s} must be finite,'
        ' not negative and not both zero'
      )

  def __call__(self, x: float) -> float:
    return self.alpha_s + self.beta_s * x if x else 0.0


def fit(moments: StepMoments) -> Cost | None:
  """Least-squares line of busy seconds over work; None: no steps.

  Where all steps did the same amount of work nothing tells fixed from
  proportional time, and all counts as proportional. Negative parts are put at
  zero and the line is fitted again without them.
  """
  if moments.num == 0 or moments.x <= 0 or moments.t <= 0:
    return None
  through_zero = Cost(0.0, moments.xt / moments.xx)
  # num^2 times the variance of the work.
  spread = moments.num * moments.xx - moments.x**2
  if spread <= 1e-9 * moments.x**2:
    return through_zero
  beta = (moments.num * moments.xt - moments.x * moments.t) / spread
  alpha = (moments.t - beta * moments.x) / moments.num
  if alpha < 0:
    return through_zero
  if beta < 0:
    return Cost(moments.t / moments.num, 0.0)
  return Cost(alpha, beta)
