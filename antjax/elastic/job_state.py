# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the coordinator knows for certain of one job: members, plan, data."""

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
  """A generation of a job, for people.

  Attributes:
    generation: Number of the generation, from 1.
    members: Names of its workers, by rank.
    started_unix_s: Unix time at which it was decided.
    ended_unix_s: Unix time at which it was ended; None: it runs.
    reason: Why it ended.
    counts: Whether the end counts against the restart budget.
  """

  generation: int
  members: list[str]
  started_unix_s: float
  ended_unix_s: float | None = None
  reason: str = ''
  counts: bool = False


@dataclasses.dataclass
class Client:
  """The last request of a worker, agent or operator.

  Attributes:
    incarnation: Incarnation of the process that has the name now.
    sequence: Sequence number of its last request.
    reply: Reply to that request, serialized.
    fenced: Previous incarnations under the name, the last few.
    is_expired: Whether it expired and its shards were requeued.
  """

  incarnation: int
  sequence: int = 0
  reply: bytes = b''
  fenced: list[int] = dataclasses.field(default_factory=list)
  is_expired: bool = False


@dataclasses.dataclass
class DataSetState:
  """A data set of a job.

  Attributes:
    spec: Spec with which its workers created it.
    ledger: Ledger with the state of each shard.
    generation: Generation that began the pass; -1: none has.
    pass_number: Number of the pass in that generation.
    digest: SHA-256 of the state that the pass began with.
    begun_by: Workers that have begun it.
    spec_generation: Generation that last sent `spec`.
  """

  spec: pb.DataSet
  ledger: Ledger
  generation: int = -1
  pass_number: int = 0
  digest: bytes = b''
  spec_generation: int = 0
  begun_by: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass
class JobState:
  """A job; changed by `jobs.Jobs.apply` only.

  Attributes:
    name: Name of the job.
    generation: Newest generation; 0: none yet, or the job has no agents.
    phase: 'waiting' (for hosts), 'running' or 'ended'.
    members: Names of the generation's workers by rank.
    jax_coordinator: address:port of rank 0.
    restarts_used: Ends of generations that counted.
    policy_restarts: Replacements that the policy has asked for.
    is_managed: Whether agents run it: it had a StartGeneration.
    is_success: Whether it ended with success.
    is_stopping: Whether it was asked to save and end.
    is_restart_asked: Whether an operator wants a new generation.
    replace_asked: Workers that an operator wants replaced in a new generation.
    replaced: Hosts that are to leave (their agents are told to exit).
    plan: Plan of how much each worker does.
    sets: Name -> data set; `data_sets` has the ledgers alone.
    clients: Name -> worker, agent or operator.
    history: The last generations.
    actions: The last (unix time, text) of what was done and why.
    last_step: Step of the last committed checkpoint; -1: none.
    committed_unix_s: Unix time at which it was committed.
  """

  name: str
  generation: int = 0
  phase: str = 'waiting'
  members: list[str] = dataclasses.field(default_factory=list)
  jax_coordinator: str = ''
  restarts_used: int = 0
  policy_restarts: int = 0
  is_managed: bool = False
  is_success: bool = False
  is_stopping: bool = False
  is_restart_asked: bool = False
  replace_asked: list[str] = dataclasses.field(default_factory=list)
  replaced: list[str] = dataclasses.field(default_factory=list)
  plan: pb.Plan = dataclasses.field(
    default_factory=lambda: pb.Plan(lr_scale=1.0)
  )
  sets: dict[str, DataSetState] = dataclasses.field(default_factory=dict)
  clients: dict[str, Client] = dataclasses.field(default_factory=dict)
  history: deque[GenerationRecord] = dataclasses.field(
    default_factory=lambda: deque(maxlen=MAX_HISTORY)
  )
  actions: deque[tuple[float, str]] = dataclasses.field(
    default_factory=lambda: deque(maxlen=MAX_ACTIONS)
  )
  last_step: int = -1
  committed_unix_s: float = 0.0

  @property
  def data_sets(self) -> dict[str, Ledger]:
    """The ledgers by name."""
    return {name: one.ledger for name, one in self.sets.items()}

  def to_json(self, blobs: list[bytes]) -> dict[str, Any]:
    """Returns the job as plain types; its ledgers are added to `blobs`."""
    fields = {name: getattr(self, name) for name in _PLAIN}
    sets = {}
    for name, data in self.sets.items():
      sets[name] = {
        'spec': _text(data.spec.SerializeToString(deterministic=True)),
        'ledger': len(blobs),
        'generation': data.generation,
        'pass_number': data.pass_number,
        'digest': _text(data.digest),
        'spec_generation': data.spec_generation,
        'begun_by': sorted(data.begun_by),
      }
      blobs.append(data.ledger.to_bytes())
    return {
      **fields,
      'plan': _text(self.plan.SerializeToString(deterministic=True)),
      'sets': sets,
      'clients': {
        name: [
          c.incarnation,
          c.sequence,
          _text(c.reply),
          c.fenced,
          c.is_expired,
        ]
        for name, c in self.clients.items()
      },
      'history': [dataclasses.asdict(record) for record in self.history],
      'actions': list(self.actions),
    }

  @classmethod
  def from_json(cls, fields: dict[str, Any], blobs: list[bytes]) -> 'JobState':
    """Makes the job that `to_json` has stored."""
    job = cls(**{name: fields[name] for name in _PLAIN})
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
    for name, (incarnation, sequence, reply, *rest) in fields[
      'clients'
    ].items():
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
