# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A training process's side of an elastic job: data, plan and pulse."""

from collections import deque
from collections.abc import Callable
import json
import os
import threading
import time
from typing import Any, TYPE_CHECKING

from absl import logging
import psutil

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.client import (
  CoordinatorClient,
  CoordinatorGoneError,
  StaleError,
)
from antjax.elastic.lease_queue import LeaseQueue
from antjax.elastic.service_ledger import ServiceLedgerClient
from antjax.elastic.step_log import StepLog
from antjax.input import position
from antjax.input.records import RecordSource

if TYPE_CHECKING:
  from antjax.input.dataset import LeasedDataset

EXIT_STALE = 75  # Exit code of a process that is fenced off.
_GOODBYE_S = 5.0
_MAX_BATCH_TIMES = 1000  # Kept while the coordinator is away.


class Agent:
  """What a training process knows of its coordinator; a context manager.

    with antjax.Agent(address, job='ctr', worker='host0', ...) as agent:
      batches = agent.dataset(source, shard_size=4096).map(parse).batch(1024)
      state = trainer.fit(state, batches, elastic=agent, ...)

  A thread sends a heartbeat a second. Where the coordinator says that this
  process is fenced off (its generation is over), the next call of the agent
  raises StaleError; if the process is still there `grace_s` later, as in a
  collective that never ends, it exits with code 75.
  """

  def __init__(
    self,
    address: str,
    *,
    job: str,
    worker: str,
    generation: int = 0,
    rank: int = 0,
    num_workers: int = 1,
    token: str = '',
    tls_dir: str = '',
    lockstep: bool | None = None,
    give_up_s: float = 600.0,
    heartbeat_s: float = 1.0,
    grace_s: float = 10.0,
    timeline: str | os.PathLike[str] | None = None,
    exit_process: Callable[[int], None] = os._exit,
  ):
    """Sends nothing before the context is entered.

    Args:
      address: host:port of the coordinator.
      job: Name of the job.
      worker: Name of this worker: another process of the name replaces it.
      generation: Of the job, as its agent says; 0 without agents.
      rank: Of this worker among `num_workers`.
      num_workers: Workers of the job.
      token: Bearer token; empty for none.
      tls_dir: Folder with ca.pem, cert.pem and key.pem; empty: no TLS.
      lockstep: Whether the workers meet in collectives, so that none may wait
        for data; by default if there are several.
      give_up_s: How long to wait for a coordinator that is not there.
      heartbeat_s: Between two heartbeats.
      grace_s: From being fenced off to the exit.
      timeline: File to which steps and plans are added, for the report's plot
        of who waited for whom (`train/timeline.py`).
      exit_process: Ends the process; for tests.
    """
    if not 0 <= rank < num_workers:
      raise ValueError(
        f'Agent(rank={rank}, num_workers={num_workers}): the rank must be'
        ' from 0 to num_workers - 1.'
      )
    self._worker = worker
    self._rank, self._num_workers = rank, num_workers
    self._lockstep = num_workers > 1 if lockstep is None else lockstep
    self._heartbeat_s, self._grace_s = heartbeat_s, grace_s
    self._exit_process = exit_process
    self._client = CoordinatorClient(
      address,
      job=job,
      client=worker,
      generation=generation,
      token=token,
      tls_dir=tls_dir,
      give_up_s=give_up_s,
    )
    self._lock = threading.Lock()
    self._delivering = threading.Lock()
    self._beat_now = threading.Event()
    self._is_ending = False
    self._thread: threading.Thread | None = None
    self._fatal: Exception | None = None
    self._ledgers: dict[str, ServiceLedgerClient] = {}
    self._datasets: list[LeasedDataset] = []
    self._streams: dict[str, Callable[[], tuple[int, bool]]] = {}
    self._extended: dict[str, tuple[int, bool]] = {}
    self._plan = pb.Plan(lr_scale=1.0)
    self._is_stopping = False
    self._step, self._num_samples = 0, 0
    self._batch_times: deque[pb.BatchTime] = deque(maxlen=_MAX_BATCH_TIMES)
    self._commit: pb.CommitRequest | None = None
    self._description: dict[str, Any] = {}
    self._log = StepLog(timeline, worker, generation)
    self._process = psutil.Process()
    self._cores = psutil.cpu_count() or 1

  def __enter__(self) -> 'Agent':
    self._process.cpu_percent()  # The first one is meaningless.
    self._thread = threading.Thread(
      target=self._run, name='heartbeat', daemon=True
    )
    self._thread.start()
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()

  def close(self) -> None:
    """Delivers the last commit, gives leases back and says good-bye.

    What the process does afterwards, such as an evaluation, may take any time.

    Raises:
      CoordinatorGoneError: The commit of the last checkpoint could not be
        delivered; the checkpoint is there, and a restart goes on from it.
    """
    if self._is_ending:
      return
    self._is_ending = True
    self._beat_now.set()
    try:
      if self._fatal is None:
        self._deliver_commit()
    except StaleError:  # The next generation says what it restored.
      pass
    finally:
      if self._fatal is not None:
        self._client.close()  # Nobody waits any more.
      for dataset in self._datasets:
        dataset.close()
      for ledger in self._ledgers.values():
        ledger.close()
      if self._fatal is None and self._thread is not None:
        self._say_goodbye()
      self._client.close()
      if self._thread is not None:
        self._thread.join(self._grace_s)

  def _say_goodbye(self) -> None:
    try:
      # A coordinator that is away asks a newer generation, or times out.
      self._beat(is_last=True, give_up_s=_GOODBYE_S)
    except (CoordinatorGoneError, StaleError) as error:
      logging.warning('Left without a good-bye: %s', error)

  # --- Data. -----------------------------------------------------------------

  def dataset(
    self,
    source: RecordSource,
    *,
    name: str = 'train',
    shard_size: int,
    seed: int = 0,
    num_epochs: int | None = 1,
    key_field: str | None = None,
    at_most_once: bool = False,
    max_data_errors: int = 3,
    read_ahead: int = 2,
  ) -> 'LeasedDataset':
    """The records of a source, leased shard by shard from the coordinator.

    Every worker of the job calls it alike. A plain `grain.IterDataset`, see
    `LeasedDataset`; its epochs follow each other without a border.

    Args:
      source: The records, on every worker the same. One with `poll() -> (number
        of records, is closed)` is a stream that grows, such as
        `antjax.input.stream.FileStream`: read once, in order.
      name: Of the data set in the job.
      shard_size: Records in a lease.
      seed: Of the order.
      num_epochs: Passes over the data in all; None for no end.
      key_field: See `LeasedDataset`.
      at_most_once: Rather lose records than read them twice: what was ever
        leased is not leased again, whatever dies.
      max_data_errors: Shards that could not be read so often are set aside.
      read_ahead: Leases to hold beside the one in use.

    Raises:
      ValueError: A number is out of range, or the name is taken.
    """
    from antjax.input.dataset import LeasedDataset

    self._raise_if_fatal()
    if shard_size < 1 or (num_epochs is not None and num_epochs < 1):
      raise ValueError(
        f'Agent.dataset(shard_size={shard_size}, num_epochs={num_epochs}): both'
        ' must be at least 1.'
      )
    if name in self._ledgers:
      raise ValueError(
        f'Agent.dataset(name={name!r}): this name is taken; data sets of a job'
        ' need names of their own.'
      )
    poll = getattr(source, 'poll', None)
    data_set = pb.DataSet(
      name=name,
      num_records=len(source),
      shard_size=shard_size,
      seed=seed,
      num_epochs=1 if poll else num_epochs or 0,
      is_stream=poll is not None,
      max_data_errors=max_data_errors,
      delivery=pb.AT_MOST_ONCE if at_most_once else pb.EXACTLY_ONCE,
    )
    ledger = ServiceLedgerClient(
      LeaseQueue(
        self._client,
        data_set,
        # A lease that dies unread would be lost.
        read_ahead=0 if at_most_once else read_ahead,
        lockstep=self._lockstep,
        check=self._raise_if_fatal,
      ),
      data_set,
      share=(self._rank, self._num_workers),
    )
    self._ledgers[name] = ledger
    if poll is not None and self._rank == 0:
      self._streams[name] = poll
    dataset = LeasedDataset(source, ledger, key_field=key_field)
    self._datasets.append(dataset)
    return dataset

  # --- What the training loop asks and says: train/elastic.py. ---------------

  @property
  def worker(self) -> str:
    """Name of this worker."""
    return self._worker

  def plan(self) -> pb.Plan:
    """The newest plan of this job that is known here; do not change it."""
    self._raise_if_fatal()
    return self._plan

  def is_stopping(self) -> bool:
    """Whether the coordinator wants the run to save and end."""
    self._raise_if_fatal()
    return self._is_stopping

  def may_get_more(self) -> bool:
    """Whether data may still come from the iterator that has just ended."""
    self._raise_if_fatal()
    ended = [ledger for ledger in self._ledgers.values() if ledger.ended_s]
    return bool(ended) and max(ended, key=lambda one: one.ended_s).is_waiting

  def on_batch_time(
    self,
    step: int,
    compute_s: float,
    wait_s: float,
    num_micro_batches: int,
    num_samples: int,
  ) -> None:
    """Notes the times of a step, for the next heartbeat."""
    self._raise_if_fatal()
    times = pb.BatchTime(
      step=step,
      end_unix_s=time.time(),
      compute_s=compute_s,
      wait_s=wait_s,
      num_micro_batches=num_micro_batches,
      num_samples=num_samples,
    )
    with self._lock:
      self._step = max(self._step, step)
      self._num_samples += num_samples
      self._batch_times.append(times)

  def on_commit(self, step: int, input_state: Any) -> None:
    """Reports that a checkpoint is committed; returns at once.

    Args:
      step: Of the checkpoint.
      input_state: The merged state of the whole input pipeline in it.
    """
    self._raise_if_fatal()
    if self._rank != 0:
      return
    states = position.ledger_states(input_state)
    request = pb.CommitRequest(
      step=step,
      states={
        name: json.dumps(state).encode()
        for name, state in states.items()
        if name in self._ledgers
      },
    )
    with self._lock:
      self._commit = request  # A later one says all that an earlier one does.
    self._beat_now.set()

  def describe(
    self, *, device_kind: str, num_devices: int, max_micro_batches: int = 0
  ) -> None:
    """Says what this worker is, for the monitor and the policies.

    Args:
      device_kind: Such as 'cpu' or 'TPU v5e'.
      num_devices: Of this process.
      max_micro_batches: That it can do in a step; 0: not known.
    """
    self._description = {
      'device_kind': device_kind,
      'num_devices': num_devices,
      'max_micro_batches': max_micro_batches,
    }

  # --- The heartbeat thread. -------------------------------------------------

  def _run(self) -> None:
    try:
      if self._rank == 0:
        self._log.add_mark('START', f'generation {self._client.generation}')
      while not self._is_ending:
        self._beat_now.clear()
        self._deliver_commit()
        for name, poll in list(self._streams.items()):
          self._extend(name, poll)
        self._beat()
        self._beat_now.wait(self._heartbeat_s)
    except Exception as error:
      if self._is_ending:
        return
      self._fatal = error
      logging.error('This process ends: %s', error)
      self._end_unless_ending()

  def _end_unless_ending(self) -> None:
    """Leaves even if the main thread hangs, as in a collective."""
    deadline = time.monotonic() + self._grace_s
    while time.monotonic() < deadline and not self._is_ending:
      time.sleep(0.05)
    if not self._is_ending:
      self._exit_process(EXIT_STALE)

  def _beat(
    self, *, is_last: bool = False, give_up_s: float | None = None
  ) -> None:
    with self._lock:
      step, num_samples = self._step, self._num_samples
      times = list(self._batch_times)
      self._batch_times.clear()
    memory = psutil.virtual_memory()
    reply = self._client.call(
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
        plan_version=self._plan.version,
        is_last=is_last,
        **self._description,
      ),
      give_up_s=give_up_s,
    )
    self._log.add_steps(times)
    if reply.plan.version > self._plan.version:
      self._plan = reply.plan
      if self._rank == 0:
        self._log.add_mark('PLAN', self._plan.reason)
    self._is_stopping = self._is_stopping or reply.is_stopping

  def _deliver_commit(self) -> None:
    """Returns once every commit so far is delivered, by whichever thread."""
    with self._delivering:
      with self._lock:
        request = self._commit
      if request is None:
        return
      self._client.call('Commit', request)
      with self._lock:
        if self._commit is request:
          self._commit = None

  def _extend(self, name: str, poll: Callable[[], tuple[int, bool]]) -> None:
    """Reports that a stream has grown."""
    if not self._ledgers[name].has_begun:
      return  # It is not created before its first lease.
    now = poll()
    if now != self._extended.get(name):
      request = pb.ExtendStreamRequest(
        data_set=name, num_records=now[0], is_closed=now[1]
      )
      self._client.call('ExtendStream', request)
      self._extended[name] = now

  def _raise_if_fatal(self) -> None:
    if self._fatal is not None:
      raise self._fatal
