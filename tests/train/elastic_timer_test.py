# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What counts as computation of a step, on a clock that the test turns."""

import pytest

from antjax.train.elastic_timer import StepTimer


class Devices:
  """Runs micro-batches one after the other; the host waits in no other way."""

  def __init__(self):
    self.now = 100.0
    self._free_at = 0.0

  def clock(self):
    return self.now

  def run(self, seconds):
    self._free_at = max(self._free_at, self.now) + seconds
    return Result(self, self._free_at)


class Result:
  def __init__(self, devices, done_at):
    self._devices, self._done_at = devices, done_at

  def is_ready(self):
    return self._devices.now >= self._done_at

  def block_until_ready(self):
    self._devices.now = max(self._devices.now, self._done_at)


def step(devices, timer, num, compute, pull, deadline_s=0.0):
  """One step; returns (micro-batches, compute_s, done_at - begin)."""
  timer.pulling()
  devices.now += pull
  timer.dispatch(lambda: devices.run(compute))
  timer.begin(is_late=True)
  begun, done = devices.now, 1
  while done < num and timer.may_pull(deadline_s):
    devices.now += pull
    timer.dispatch(lambda: devices.run(compute))
    done += 1
  compute_s, done_at = timer.end()
  devices.now += 7.0  # The exchange.
  return done, compute_s, done_at - begun


@pytest.mark.parametrize('num', [1, 2, 5])
@pytest.mark.parametrize('pull', [0.0, 0.5, 0.9])
def test_input_that_comes_in_time_is_hidden(num, pull):
  devices = Devices()
  timer = StepTimer(devices.clock)
  for _ in range(3):
    done, compute_s, whole_s = step(devices, timer, num, 1.0, pull)
    assert done == num
    assert compute_s == pytest.approx(num)
    assert whole_s == pytest.approx(num)


@pytest.mark.parametrize('pull', [1.5, 4.0, 60.0])
def test_waiting_for_input_is_no_computation(pull):
  devices = Devices()
  timer = StepTimer(devices.clock)
  step(devices, timer, 4, 1.0, pull)  # Nothing is known of the speed yet.
  for _ in range(3):
    _, compute_s, whole_s = step(devices, timer, 4, 1.0, pull)
    assert compute_s == pytest.approx(4.0)
    assert whole_s == pytest.approx(3 * pull + 1.0)


def test_no_micro_batch_is_no_computation():
  devices = Devices()
  timer = StepTimer(devices.clock)
  timer.pulling()
  devices.now += 3.0
  timer.begin(is_late=False)
  assert timer.end() == (0.0, devices.now)


def test_a_deadline_ends_the_step_between_micro_batches():
  devices = Devices()
  timer = StepTimer(devices.clock)
  step(devices, timer, 2, 1.0, 0.1)  # The speed is known from here on.
  done, compute_s, _ = step(devices, timer, 100, 1.0, 0.1, deadline_s=3.5)
  # The one that begins at 3.0 is the last.
  assert (done, compute_s) == (4, pytest.approx(4.0))
  # At least one, however slow.
  done, compute_s, _ = step(devices, timer, 100, 50.0, 0.1, deadline_s=3.5)
  assert done <= 2
  done, compute_s, _ = step(devices, timer, 100, 50.0, 0.1, deadline_s=3.5)
  assert (done, compute_s) == (1, pytest.approx(50.0))
