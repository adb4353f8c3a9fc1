# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training process's side of an elastic job: data, plan, heartbeat."""

from collections.abc import Callable, Iterator
import dataclasses
import json
import os
import time
from typing import Any, TYPE_CHECKING
import urllib.parse

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.pulse import Pulse, StepLog
from antjax.elastic.rotation import rotating_token
from antjax.elastic.service_ledger import ServiceLedgerClient
from antjax.shards import position
from antjax.shards.data_shard import DataShard
from antjax.shards.record_source import RecordSource

if TYPE_CHECKING:
  from antjax.shards.dataset import LeasedDataset


@dataclasses.dataclass(eq=False, repr=False)
class Agent:
  """A training process's access to its coordinator; a context manager.

    with antjax.Agent(address, job='ctr', worker='host0', ...) as agent:
      batches = agent.dataset(source, shard_size=4096).map(parse).batch(1024)
      state = trainer.fit(state, batches, elastic=agent, ...)

  A thread sends one heartbeat per second. When the coordinator fences this
  process off, the next call raises StaleError. If it is still running `grace_s`
  later, it exits with code 75. Nothing is sent before the context is entered.
  """

  address: str  # host:port of the coordinator.
  _: dataclasses.KW_ONLY
  job: str
  worker: str  # Another process of this name replaces this one.
  generation: int = 0  # Of the job, from its agent; 0 without agents.
  rank: int = 0  # Among `num_workers`.
  num_workers: int = 1  # Of the job.
  # Bearer token, or what returns it as of now; empty for none.
  token: str | Callable[[], str] = ''
  tls_dir: str = ''  # With ca.pem, cert.pem and key.pem; empty: no TLS.
  # Whether the workers meet in collectives, so that none may wait for data; by
  # default if there are several.
  lockstep: bool | None = None
  give_up_s: float = 600.0  # Wait for an absent coordinator.
  heartbeat_s: float = 1.0  # Between heartbeats.
  grace_s: float = 10.0  # From being fenced off to the exit.
  # File to which steps and plans are added, for the report's plot of who waited
  # for whom (`train/timeline.py`).
  timeline: str | os.PathLike[str] | None = None
  exit_process: Callable[[int], None] = os._exit  # For tests.

  def __post_init__(self) -> None:
    if not 0 <= self.rank < self.num_workers:
      raise ValueError(
        f'Agent(rank={self.rank}, num_workers={self.num_workers}): the rank'
        ' must be from 0 to num_workers - 1.'
      )
    if self.lockstep is None:
      self.lockstep = self.num_workers > 1
    self._client = CoordinatorClient(
      self.address,
      job=self.job,
      client=self.worker,
      generation=self.generation,
      token=self.token,
      tls_dir=self.tls_dir,
      give_up_s=self.give_up_s,
    )
    self._ledgers: dict[str, ServiceLedgerClient] = {}
    self._datasets: list[LeasedDataset] = []
    self._streams: dict[str, Callable[[], tuple[int, bool]]] = {}
    self._extended: dict[str, tuple[int, bool]] = {}
    self._pulse = Pulse(
      client=self._client,
      log=StepLog(self.timeline, self.worker, self.generation),
      keeps_marks=self.rank == 0,
      before_beat=self._extend_streams,
      heartbeat_s=self.heartbeat_s,
      grace_s=self.grace_s,
      exit_process=self.exit_process,
    )
    self.on_loss = self._pulse.note_loss

  @classmethod
  def from_env(
    cls, run_dir: str | os.PathLike[str] | None = None, **options: Any
  ) -> 'Agent':
    """Creates the agent from the ANTJAX_* variables of launch/agent.py.

    Call it after `jax.distributed.initialize`, which sets the rank.

    Args:
      run_dir: Folder for the timeline of steps. None: no timeline.
      **options: Other fields of the agent.

    Raises:
      RuntimeError: The variables are not set.
    """
    import jax  # The coordinator's host imports this folder without it.

    env = os.environ
    address = env.get('ANTJAX_COORDINATOR')
    if not address:
      raise RuntimeError(
        'Agent.from_env: ANTJAX_COORDINATOR is not set; start this program by'
        ' launch/agent.py, or train without an agent.'
      )
    name = env.get('ANTJAX_WORKER', f'worker-{jax.process_index()}')
    token_file = env.get('ANTJAX_TOKEN_FILE', '')
    job = env.get('ANTJAX_JOB', 'job')
    give_up_s = float(env.get('ANTJAX_GIVE_UP_S', 'inf'))
    file = f'timeline.{urllib.parse.quote(name, "")}.jsonl'
    return cls(
      address,
      job=job,
      worker=name,
      generation=int(env.get('ANTJAX_GENERATION', '0')),
      rank=jax.process_index(),
      num_workers=jax.process_count(),
      token=rotating_token(token_file, 'worker', job) if token_file else '',
      tls_dir=env.get('ANTJAX_TLS_DIR', ''),
      timeline=os.path.join(run_dir, file) if run_dir else None,
      **{'give_up_s': give_up_s, **options},
    )

  @property
  def incarnation(self) -> tuple[str, int]:
    """Name of the job among all coordinators', and its generation."""
    return f'{self.address}/{self.job}', self.generation

  def __enter__(self) -> 'Agent':
    self._pulse.start()
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()

  def close(self) -> None:
    """Delivers the last commit, returns leases and signs off.

    Work after that, such as an evaluation, may take any time.

    Raises:
      CoordinatorGoneError: The commit of the last checkpoint could not be
        delivered. The checkpoint exists, and a restart resumes from it.
    """
    if self._pulse.is_ending:
      return
    try:
      self._pulse.end()
    finally:
      for dataset in self._datasets:
        dataset.close()
      for ledger in self._ledgers.values():
        ledger.close()
      self._pulse.stop()

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
    block_size: int = 0,
  ) -> 'LeasedDataset':
    """Returns the records of a source, leased shard by shard.

    Every worker must call it with the same arguments. The result is a plain
    `LeasedDataset`, whose epochs follow each other without a barrier.

    Args:
      source: Source with the same records on every worker. A source with
        `poll() -> (number of records, is closed)` is a growing stream, such as
        `antjax.data.stream.FileStream`, and is read once, in order.
      name: Name of the data set in the job.
      shard_size: Number of records in a lease.
      seed: Seed of the order.
      num_epochs: Number of passes over the data. None: no end.
      key_field: See `LeasedDataset`.
      at_most_once: Whether to lose records rather than read them twice: leased
        shards are never leased again, even after a failure.
      max_data_errors: Number of failed reads after which a shard is set aside.
      read_ahead: Number of leases to hold in addition to the one in use.
      block_size: See `LeasedDataset`.

    Raises:
      ValueError: A number is out of range, or the name is taken.
    """
    from antjax.shards.dataset import LeasedDataset

    self._pulse.check()
    if shard_size < 1 or (num_epochs is not None and num_epochs < 1):
      raise ValueError(
        f'Agent.dataset(shard_size={shard_size}, num_epochs={num_epochs}): both'
        ' must be at least 1.'
      )
    if not 1 <= max_data_errors <= 1000 or not 0 <= read_ahead <= 900:
      raise ValueError(
        f'Agent.dataset(max_data_errors={max_data_errors}, read_ahead='
        f'{read_ahead}): max_data_errors must be 1 to 1000, read_ahead 0 to'
        ' 900.'
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
    ledger = self._ledger(
      data_set,
      # A lease that dies unread would be lost.
      read_ahead=0 if at_most_once else read_ahead,
      lockstep=bool(self.lockstep),
    )
    if poll is not None and self.rank == 0:
      self._streams[name] = poll
    dataset = LeasedDataset(
      source, ledger, key_field=key_field, block_size=block_size
    )
    self._datasets.append(dataset)
    return dataset

  def work(
    self, num_items: int, *, name: str, shard_size: int
  ) -> Iterator[DataShard]:
    """Yields ranges of items to process, for jobs without steps.

    A range is done when the loop asks for the next one; its results must be
    durable by then. The range of a failed worker is leased to another one after
    the coordinator's lease_timeout_s of silence. Under agents a failure ends
    the generation, and the next one gets all ranges again: skip those whose
    results exist.

    Every worker of the job must call it with the same arguments. All loops end
    when all ranges are done.

    Args:
      num_items: Number of items of all workers together.
      name: Name of the work in the job.
      shard_size: Number of items in a range; the last one may have fewer.

    Raises:
      ValueError: A number is out of range, or the name is taken.
    """
    self._pulse.check()
    if num_items < 1 or shard_size < 1:
      raise ValueError(
        f'Agent.work(num_items={num_items}, shard_size={shard_size}): both must'
        ' be at least 1.'
      )
    data_set = pb.DataSet(
      name=name,
      num_records=num_items,
      shard_size=shard_size,
      num_epochs=1,
      max_data_errors=1,
      delivery=pb.EXACTLY_ONCE,
    )
    # In reserve a range would wait for this worker's death to be noticed.
    ledger = self._ledger(data_set, read_ahead=0, lockstep=False)

    def shards() -> Iterator[DataShard]:
      while (shard := ledger.lease()) is not None:
        yield shard
        ledger.ack(shard)

    return shards()

  def _ledger(
    self, data_set: pb.DataSet, *, read_ahead: int, lockstep: bool
  ) -> ServiceLedgerClient:
    if data_set.name in self._ledgers:
      raise ValueError(
        f'Agent: name={data_set.name!r} is taken; data sets of a job need'
        ' names of their own.'
      )
    ledger = ServiceLedgerClient.connect(
      self._client,
      data_set,
      share=(self.rank, self.num_workers),
      read_ahead=read_ahead,
      lockstep=lockstep,
      check=self._pulse.check,
    )
    self._ledgers[data_set.name] = ledger
    return ledger

  # --- What the training loop asks and says: train/elastic.py. ---------------

  def plan(self) -> pb.Plan:
    """Returns the newest known plan; do not change it."""
    self._pulse.check()
    return self._pulse.plan

  def is_stopping(self) -> bool:
    """Whether the coordinator has asked the run to save and end."""
    self._pulse.check()
    return self._pulse.is_stopping

  def may_get_more(self) -> bool:
    """Whether the iterator that has just ended may still yield data later."""
    self._pulse.check()
    ended = [ledger for ledger in self._ledgers.values() if ledger.ended_s]
    return bool(ended) and max(ended, key=lambda one: one.ended_s).is_waiting

  def on_batch_time(
    self,
    step: int,
    compute_s: float,
    wait_s: float,
    num_micro_batches: int,
    num_samples: int,
    device_s: float = 0.0,
  ) -> None:
    """Records the times of a step for the next heartbeat."""
    self._pulse.check()
    self._pulse.note(
      pb.BatchTime(
        step=step,
        end_unix_s=time.time(),
        compute_s=compute_s,
        wait_s=wait_s,
        num_micro_batches=num_micro_batches,
        num_samples=num_samples,
        device_s=device_s,
      )
    )

  def on_commit(self, step: int, input_state: Any) -> None:
    """Reports that a checkpoint is committed; returns at once.

    Args:
      step: Step of the checkpoint.
      input_state: The merged state of the whole input pipeline in it.
    """
    self._pulse.check()
    if self.rank != 0:
      return
    states = {
      name: json.dumps(state).encode()
      for name, state in position.ledger_states(input_state).items()
      if name in self._ledgers
    }
    self._pulse.commit(pb.CommitRequest(step=step, states=states))

  def checkpoint_every_s(self, save_s: float) -> float:
    """See `Pulse`."""
    return self._pulse.checkpoint_every_s(save_s)

  def describe(
    self, *, device_kind: str, num_devices: int, max_micro_batches: int = 0
  ) -> None:
    """Describes this worker to the monitor and the policies.

    Args:
      device_kind: Kind of device, such as 'cpu' or 'TPU v5e'.
      num_devices: Number of devices of this process.
      max_micro_batches: Maximum number of micro-batches per step. 0: unknown.
    """
    self._pulse.description = {
      'device_kind': device_kind,
      'num_devices': num_devices,
      'max_micro_batches': max_micro_batches,
    }

  # --- Before each heartbeat, in its thread. ----------------------------------

  def _extend_streams(self) -> None:
    """Reports that streams have grown."""
    for name, poll in list(self._streams.items()):
      if not self._ledgers[name].has_begun:
        continue  # It is not created before its first lease.
      now = poll()
      if now != self._extended.get(name):
        request = pb.ExtendStreamRequest(
          data_set=name, num_records=now[0], is_closed=now[1]
        )
        self._client.call('ExtendStream', request)
        self._extended[name] = now
