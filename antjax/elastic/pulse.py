# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A worker's heartbeat: a thread that reports state and receives commands."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import json
import math
import os
import threading
import time
from typing import Any

from absl import logging
import psutil

from antjax import paths
from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.client import (
  CoordinatorClient,
  CoordinatorGoneError,
  StaleError,
)

EXIT_STALE = 75  # Exit code of a process that is fenced off.
_GOODBYE_S = 5.0
_MTBF_S = 6 * 3600.0  # Between faults, until one was seen.
_LEAST_CHECKPOINT_S = 20.0
_MAX_LOSS = 1e30  # That the coordinator takes.
_MAX_BATCH_TIMES = 1000  # Kept while the coordinator is away.


class StepLog:
  """Notes steps for the report (`train/timeline.py`); without a path none."""

  def __init__(
    self, path: str | os.PathLike[str] | None, worker: str, generation: int
  ):
    self._path = paths.local(path) if path else None
    self._worker, self._generation = worker, generation

  def add_steps(self, times: Iterable[pb.BatchTime]) -> None:
    self._write(
      {
        'step': one.step,
        'worker': self._worker,
        'end_unix_s': one.end_unix_s,
        'compute_s': one.compute_s,
        'wait_s': one.wait_s,
        'num_micro_batches': one.num_micro_batches,
      }
      for one in times
    )

  def add_mark(self, action: str, reason: str) -> None:
    """Notes that something happened to all workers; one of them says it."""
    mark = {'time': time.time(), 'action': action, 'reason': reason}
    self._write([{**mark, 'generation': self._generation}])

  def _write(self, entries: Iterable[dict[str, object]]) -> None:
    lines = [json.dumps(entry) + '\n' for entry in entries]
    if self._path is not None and lines:
      with self._path.open('a', encoding='utf-8') as file:
        file.writelines(lines)


@dataclasses.dataclass(kw_only=True, eq=False)
class Pulse:
  """Heartbeats of one worker, and the commits that go out before them.

  Where the coordinator says that this process is fenced off, `check` raises;
  if the process is still there `grace_s` later, as in a collective that never
  ends, it exits with code 75. Nothing is sent before `start`.
  """

  client: CoordinatorClient  # Closed by `stop`.
  log: StepLog  # Of steps and, if it `keeps_marks`, of plans.
  keeps_marks: bool  # One worker of all does.
  before_beat: Callable[[], None]  # Called in the thread before each heartbeat.
  heartbeat_s: float  # Between heartbeats.
  grace_s: float
  exit_process: Callable[[int], None]
  plan: pb.Plan = dataclasses.field(  # The newest known; do not change it.
    default_factory=lambda: pb.Plan(lr_scale=1.0)
  )
  mtbf_s: float = 0.0  # Mean time between faults; 0: none was seen.
  is_stopping: bool = False  # The coordinator wants the run to save and end.
  is_ending: bool = False  # `end` was called.
  # Fields of the next heartbeats: what this worker is.
  description: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    self._lock = threading.Lock()
    self._delivering = threading.Lock()
    self._beat_now = threading.Event()
    self._thread: threading.Thread | None = None
    self._fatal: Exception | None = None
    self._step, self._num_samples = 0, 0
    self._loss: float | None = None
    self._asked_s = 0.0  # Between heartbeats, as the coordinator wants it.
    self._batch_times: deque[pb.BatchTime] = deque(maxlen=_MAX_BATCH_TIMES)
    self._commit: pb.CommitRequest | None = None
    self._process = psutil.Process()
    self._cores = psutil.cpu_count() or 1

  def start(self) -> None:
    self._process.cpu_percent()  # The first one is meaningless.
    self._thread = threading.Thread(
      target=self._run, name='heartbeat', daemon=True
    )
    self._thread.start()

  def check(self) -> None:
    """Raises what has ended this worker, if anything has."""
    if self._fatal is not None:
      raise self._fatal

  def note(self, times: pb.BatchTime) -> None:
    """Takes the times of a step, for the next heartbeat."""
    with self._lock:
      self._step = max(self._step, times.step)
      self._num_samples += times.num_samples
      self._batch_times.append(times)

  def note_loss(self, loss: float) -> None:
    """Takes the newest loss; one that is not finite is none."""
    self._loss = loss if abs(loss) <= _MAX_LOSS else None

  def checkpoint_every_s(self, save_s: float) -> float:
    """Seconds between checkpoints that lose least, after Young and Daly.

    `save_s` is how long a checkpoint holds training up.
    """
    mtbf_s = self.mtbf_s or _MTBF_S
    return max(_LEAST_CHECKPOINT_S, math.sqrt(2 * save_s * mtbf_s))

  def commit(self, request: pb.CommitRequest) -> None:
    """Sends it soon; a later one says all that an earlier one does."""
    with self._lock:
      self._commit = request
    self._beat_now.set()

  def end(self) -> None:
    """Ends the beats once the last commit is delivered.

    Raises:
      CoordinatorGoneError: It could not be delivered.
    """
    self.is_ending = True
    self._beat_now.set()
    if self._fatal is not None:
      self.client.close()  # Nobody waits any more.
      return
    try:
      self._deliver_commit()
    except StaleError:  # The next generation says what it restored.
      pass

  def stop(self) -> None:
    """Says good-bye and disconnects; `end` comes first."""
    if self._fatal is None and self._thread is not None:
      try:
        # Without one, a newer generation says it, or a timeout.
        self._beat(is_last=True, give_up_s=_GOODBYE_S)
      except (CoordinatorGoneError, StaleError) as error:
        logging.warning('Left without a good-bye: %s', error)
    self.client.close()
    if self._thread is not None:
      self._thread.join(self.grace_s)

  # --- The thread. -----------------------------------------------------------

  def _run(self) -> None:
    try:
      if self.keeps_marks:
        self.log.add_mark('START', f'generation {self.client.generation}')
      while not self.is_ending:
        self._beat_now.clear()
        self._deliver_commit()
        self.before_beat()
        self._beat()
        self._beat_now.wait(max(self.heartbeat_s, self._asked_s))
    except Exception as error:
      if self.is_ending:
        return
      self._fatal = error
      logging.error('This process ends: %s', error)
      self._end_unless_ending()

  def _end_unless_ending(self) -> None:
    """Leaves even if the main thread hangs, as in a collective."""
    deadline = time.monotonic() + self.grace_s
    while time.monotonic() < deadline and not self.is_ending:
      time.sleep(0.05)
    if not self.is_ending:
      self.exit_process(EXIT_STALE)

  def _beat(
    self, *, is_last: bool = False, give_up_s: float | None = None
  ) -> None:
    with self._lock:
      step, num_samples = self._step, self._num_samples
      times = list(self._batch_times)
      self._batch_times.clear()
    memory = psutil.virtual_memory()
    reply = self.client.call(
      'Heartbeat',
      pb.HeartbeatRequest(
        step=step,
        num_samples=num_samples,
        batch_times=times,
        resources=pb.Resources(
          cpu_share=self._process.cpu_percent() / 100 / self._cores,
          rss_bytes=self._process.memory_info().rss,
          memory_bytes=memory.total,
        ),
        plan_version=self.plan.version,
        is_last=is_last,
        loss=self._loss,
        **self.description,
      ),
      give_up_s=give_up_s,
    )
    self._asked_s, self.mtbf_s = reply.beat_s, reply.mtbf_s
    self.log.add_steps(times)
    if reply.plan.version > self.plan.version:
      self.plan = reply.plan
      if self.keeps_marks:
        self.log.add_mark('PLAN', self.plan.reason)
    self.is_stopping = self.is_stopping or reply.is_stopping

  def _deliver_commit(self) -> None:
    """Returns once every commit so far is delivered, by whichever thread."""
    with self._delivering:
      with self._lock:
        request = self._commit
      if request is None:
        return
      self.client.call('Commit', request)
      with self._lock:
        if self._commit is request:
          self._commit = None
