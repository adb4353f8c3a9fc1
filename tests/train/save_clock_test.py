# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""When the next checkpoint is due, by the clock."""

import math
from unittest import mock

import pytest

from antjax.elastic.pulse import Pulse
from antjax.train.fit_options import FitOptions
from antjax.train.save_clock import SaveClock


class Run:
  """A loop whose steps take what a test says."""

  def __init__(self, **options):
    self.now, self.number, self.saved, self.looks = 0.0, 0, [], 0
    options = FitOptions(checkpoint_dir='/runs', **options)
    self.clock = SaveClock(options, 0, lambda: self.now)

  def steps(self, count, step_s, save_s=0.0):
    for _ in range(count):
      self.now += step_s
      self.number += 1
      self.looks += self.clock.is_look(self.number)
      if self.clock.look(self.number):
        with self.clock.saving():
          self.now += save_s
        self.saved.append(self.now)


def test_checkpoints_come_by_time_and_few_looks_are_needed():
  run = Run(checkpoint_every_s=10.0)
  run.steps(1000, 0.1)
  assert len(run.saved) == pytest.approx(10, abs=1)
  gaps = [b - a for a, b in zip(run.saved, run.saved[1:])]
  assert gaps == pytest.approx([10.0] * len(gaps), rel=0.05)
  assert run.looks < 100
  # Slower steps are noticed half-way.
  before = len(run.saved)
  run.steps(200, 0.5)
  assert len(run.saved) - before == pytest.approx(9, abs=2)


def test_without_an_interval_the_clock_is_not_asked():
  run = Run()
  run.steps(100, 1e6)
  assert run.looks == 0 and run.clock.interval_s == math.inf
  with pytest.raises(ValueError, match='checkpoint_every_s=-1'):
    FitOptions(checkpoint_every_s=-1)


def test_under_agents_the_interval_is_youngs():
  pulse = mock.Mock(spec=Pulse, mtbf_s=5000.0)
  elastic = mock.Mock(
    checkpoint_every_s=lambda s: Pulse.checkpoint_every_s(pulse, s)
  )
  before_save = mock.Mock()
  run = Run(elastic=elastic, before_save=before_save)
  run.steps(400, 1.0, save_s=4.0)
  assert run.clock.interval_s == pytest.approx(200.0)  # sqrt(2 x 4 x 5000).
  assert before_save.call_count == len(run.saved)
  pulse.mtbf_s = 0.0  # None was seen: 6 hours.
  assert Pulse.checkpoint_every_s(pulse, 2.0) == pytest.approx(293.9, abs=0.1)
  assert Run(elastic=elastic, checkpoint_every_s=7.0).clock.interval_s == 7.0
