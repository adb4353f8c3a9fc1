# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The durable state of one job: members, plan, data."""

import base64
from collections import deque
import dataclasses
from typing import Any

from antjax.elastic import coordinator_pb2 as pb
from antjax.shards.ledger import Ledger

MAX_HISTORY = 100
MAX_ACTIONS = 200


@dataclasses.dataclass
class GenerationRecord:
  """A generation of a job, for people."""

  generation: int  # From 1.
  members: list[str]  # Names of its workers, by rank.
  started_unix_s: float
  ended_unix_s: float | None = None  # None: it runs.
  reason: str = ''  # Why it ended.
  counts: bool = False  # Its end counts against the restart budget.


@dataclasses.dataclass
class Client:
  """The last request of a worker, agent or operator."""

  incarnation: int  # Of the process that has the name now.
  sequence: int = 0
  reply: bytes = b''  # To that request, serialized.
  # Incarnations that had the name before, the last few.
  fenced: list[int] = dataclasses.field(default_factory=list)
  is_expired: bool = False  # It was given up, and its shards were requeued.


@dataclasses.dataclass
class DataSetState:
  """A data set of a job."""

  spec: pb.DataSet  # As its workers created it.
  ledger: Ledger
  generation: int = -1  # That began the pass; -1: none has.
  pass_number: int = 0  # In that generation.
  digest: bytes = b''  # SHA-256 of the state that the pass began with.
  spec_generation: int = 0  # That last sent `spec`.
  begun_by: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass
class JobState:
  """A job; changed by `jobs.Jobs.apply` only."""

  name: str
  generation: int = 0  # Newest; 0: none yet, or the job has no agents.
  phase: str = 'waiting'  # 'waiting' (for hosts), 'running' or 'ended'.
  members: list[str] = dataclasses.field(default_factory=list)  # By rank.
  jax_coordinator: str = ''  # address:port of rank 0.
  restarts_used: int = 0  # Ends of generations that counted.
  policy_restarts: int = 0  # Replacements that the policy has asked for.
  is_managed: bool = False  # Agents run it: it had a StartGeneration.
  is_success: bool = False
  is_stopping: bool = False  # It was asked to save and end.
  # An operator wants a new generation, or one without these workers.
  is_restart_asked: bool = False
  replace_asked: list[str] = dataclasses.field(default_factory=list)
  # Hosts that are to leave: their agents are told to exit.
  replaced: list[str] = dataclasses.field(default_factory=list)
  plan: pb.Plan = dataclasses.field(
    default_factory=lambda: pb.Plan(lr_scale=1.0)
  )
  sets: dict[str, DataSetState] = dataclasses.field(default_factory=dict)
  # Workers, agents and operators by name.
  clients: dict[str, Client] = dataclasses.field(default_factory=dict)
  history: deque[GenerationRecord] = dataclasses.field(
    default_factory=lambda: deque(maxlen=MAX_HISTORY)
  )
  # (Unix time, text) of what was done last, and why.
  actions: deque[tuple[float, str]] = dataclasses.field(
    default_factory=lambda: deque(maxlen=MAX_ACTIONS)
  )
  # Grows with each durable change; jumps in `recover` and `resume`.
  revision: int = 0
  # The last revision before each of the last starts, and the first after it.
  gaps: list[tuple[int, int]] = dataclasses.field(default_factory=list)
  least_revision: int = 0  # Who knows an earlier one is fenced off.
  # Error that ended the last generation before it made a step, how often it did
  # so in a row, and `last_step` then.
  error: str = ''
  num_same_errors: int = 0
  error_step: int = -1
  mtbf_s: float = 0.0  # Mean time between the last faults; 0: none was seen.
  last_step: int = -1  # Of the last committed checkpoint; -1: none.
  committed_unix_s: float = 0.0

  def num_gone(self, revision: int) -> int:
    """How many changes up to a revision that was told the job has not."""
    for last, first in self.gaps:
      if last < revision < first:
        return revision - last
    return max(0, revision - self.revision)

  def same_errors_with(self, error: str) -> int:
    """How often in a row an error ends a generation without any progress."""
    if not error:
      return 0
    is_same = error == self.error and self.error_step == self.last_step
    return 1 + (self.num_same_errors if is_same else 0)

  def measured_mtbf_s(self) -> float:
    """Seconds that generations have run for each end that counts; 0: none."""
    ran = [
      record.ended_unix_s - record.started_unix_s
      for record in self.history
      if record.ended_unix_s is not None
    ]
    faults = sum(record.counts for record in self.history)
    return max(1.0, sum(ran) / faults) if faults else 0.0

  def quick_faults(self, healthy_s: float) -> int:
    """Number of the last faults in a row, each within `healthy_s`."""
    in_a_row = 0
    for record in reversed(self.history):
      ended = record.ended_unix_s
      if not record.counts or ended is None:
        break
      in_a_row += 1
      if ended - record.started_unix_s >= healthy_s:
        break
    return min(in_a_row, self.restarts_used)  # Not before a new start.

  @property
  def data_sets(self) -> dict[str, Ledger]:
    return {name: one.ledger for name, one in self.sets.items()}

  def to_json(self, blobs: list[bytes]) -> dict[str, Any]:
    """Returns the job as plain types; its ledgers are added to `blobs`."""
    fields = {name: getattr(self, name) for name in _PLAIN}
    sets = {}
    for name, data in self.sets.items():
      sets[name] = {
        **vars(data),
        'spec': _text(data.spec.SerializeToString(deterministic=True)),
        'ledger': len(blobs),
        'digest': _text(data.digest),
        'begun_by': sorted(data.begun_by),
      }
      blobs.append(data.ledger.to_bytes())
    return {
      **fields,
      'plan': _text(self.plan.SerializeToString(deterministic=True)),
      'sets': sets,
      'clients': {
        name: list({**vars(c), 'reply': _text(c.reply)}.values())
        for name, c in self.clients.items()
      },
      'history': [dataclasses.asdict(record) for record in self.history],
      'actions': list(self.actions),
    }

  @classmethod
  def from_json(cls, fields: dict[str, Any], blobs: list[bytes]) -> 'JobState':
    job = cls(**{name: fields[name] for name in _PLAIN if name in fields})
    job.plan = pb.Plan.FromString(_bytes(fields['plan']))
    for name, data in fields['sets'].items():
      job.sets[name] = DataSetState(
        pb.DataSet.FromString(_bytes(data['spec'])),
        Ledger.from_bytes(blobs[data['ledger']]),
        data['generation'],
        data['pass_number'],
        _bytes(data['digest']),
        data['spec_generation'],
        set(data['begun_by']),
      )
    for name, client in fields['clients'].items():
      incarnation, sequence, reply, *rest = client
      job.clients[name] = Client(incarnation, sequence, _bytes(reply), *rest)
    job.history.extend(GenerationRecord(**one) for one in fields['history'])
    job.actions.extend((at, text) for at, text in fields['actions'])
    return job


_PLAIN = [
  field.name
  for field in dataclasses.fields(JobState)
  if field.name not in ('plan', 'sets', 'clients', 'history', 'actions')
]


def _text(data: bytes) -> str:
  return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
  return base64.b64decode(text)
