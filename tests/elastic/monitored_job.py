# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A job on a clock of numbers that tells a Monitor of itself."""

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.monitor import Monitor
from antjax.elastic.view import StepMoments
from antjax.elastic.windows import MonitorConfig

CONFIG = MonitorConfig(
  short_s=20.0, long_s=100.0, min_steps=3, num_warmup_steps=1
)


class Job:
  """A job in lock step that tells a Monitor of itself; a step takes a second.

  Args:
    config: Configuration of the Monitor.
    workers: Names.
  """

  def __init__(self, config=CONFIG, workers=('a', 'b', 'c', 'd')):
    self.monitor = Monitor(config)
    self.workers = list(workers)
    self.now = 0.0
    self.step = 0
    self.generation = 1
    self.counts = {}
    self.kinds = {}
    self.plan_version = 0

  def beat(self, worker, times=(), **fields):
    self.monitor.record_heartbeat(
      pb.HeartbeatRequest(
        head=pb.Head(job='job', client=worker, generation=self.generation),
        step=self.step,
        device_kind=self.kinds.get(worker, 'cpu'),
        plan_version=self.plan_version,
        batch_times=times,
        **fields,
      ),
      self.now,
    )

  def run(self, num_steps, slow=None, input_s=None, period_s=1.0):
    """Makes steps: 0.1 s a micro-batch of 10 samples, times `slow`."""
    for _ in range(num_steps):
      self.step += 1
      self.now += period_s
      for at, worker in enumerate(self.workers):
        count = self.counts.get(worker, 2)
        compute_s = 0.1 * count * (slow or {}).get(worker, 1.0)
        late_s = (input_s or {}).get(worker, 0.0)
        time = pb.BatchTime(
          step=self.step,
          end_unix_s=1e9 + 1e5 * at + self.now,
          compute_s=compute_s,
          wait_s=max(0.0, period_s - compute_s - late_s),
          num_micro_batches=count,
          num_samples=10 * count,
        )
        self.beat(worker, [time])
    return self.view()

  def plan(self, counts, **fields):
    self.plan_version += 1
    self.counts.update(counts)
    self.monitor.note_plan(
      'job',
      pb.Plan(version=self.plan_version, num_micro_batches=counts, **fields),
      self.now,
    )

  def restart(self, seconds=5.0):
    self.generation += 1
    self.now += seconds

  def view(self):
    return self.monitor.view('job', self.now)

  def states(self):
    return {w.worker: w.state for w in self.view().workers}


def of(view, worker):
  return next(w for w in view.workers if w.worker == worker)


def moments(steps):
  """Sums over steps, each (work, busy seconds)."""
  return StepMoments.total(StepMoments.of(*step) for step in steps)
