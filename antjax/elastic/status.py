# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A snapshot of the coordinator's state, for people and programs to read.

A snapshot is bounded however many shards, epochs, generations, workers and
jobs there are: lists are cut, and say how many they leave out.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import dataclasses
import math
from typing import Any, TypeVar
import zlib

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.decisions import ActionLog
from antjax.elastic.job_state import JobState
from antjax.elastic.jobs import Jobs
from antjax.elastic.monitor import Monitor
from antjax.elastic.node_check import as_json, NodeChecks
from antjax.elastic.rates import Rates
from antjax.elastic.rendezvous import Rendezvous
from antjax.elastic.rendezvous_room import AgentRecord
from antjax.elastic.view import ClusterView, WorkerView
from antjax.elastic.windows import Slice
from antjax.shards.ledger import Ledger

# All jobs share these: each gets its part, at least a few.
MAX_JOBS = 16
MAX_WORKERS = 256
MAX_AGENTS = 128
MAX_DATA_SETS = 64
MAX_GENERATIONS = 64
MAX_ACTIONS = 128
MAX_POINTS = 40  # Batch times per worker.
MAX_SET_ASIDE = 10  # Per data set.
MAX_EXIT_CODES = 32
_SILENT_S = 15.0
_FEW = 8
_MAX_NAME = 80
_MAX_TEXT = 400
_MAX_LOG = 800
_T = TypeVar('_T')


@dataclasses.dataclass(frozen=True)
class Snapshots:
  """Takes snapshots of what a coordinator knows, as plain values for JSON."""

  jobs: Jobs
  monitor: Monitor
  rendezvous: Rendezvous
  log: ActionLog
  # Why the controller last did nothing, and the restarts that the policy may
  # ask for now.
  idle_reason_fn: Callable[[str], str] = lambda job: ''
  policy_restarts_left_fn: Callable[[JobState], int | None] = lambda job: None
  goodput_fn: Callable[[str, float], dict[str, Any] | None] = lambda job, now: (
    None
  )
  rates: Rates = dataclasses.field(default_factory=Rates)

  def take(
    self,
    now: float,
    steady_s: float,
    *,
    journal: Mapping[str, float] | None = None,
    more_names: Iterable[str] = (),
  ) -> dict[str, Any]:
    """Returns the state of everything.

    Args:
      now: Unix time.
      steady_s: Time on the clock of monitor and rendezvous.
      journal: 'num_commits', 'commit_s' (sum), 'num_changes', 'num_bytes'.
      more_names: Jobs that only agents and heartbeats have spoken of.
    """
    order = {'running': 0, 'waiting': 1, 'ended': 2}
    names = dict.fromkeys([*self.jobs.names(), *more_names])
    states = [self.jobs.job(name) for name in names]
    states.sort(key=lambda state: (order.get(state.phase, 3), state.name))
    num_shown = min(len(states), MAX_JOBS)

    def share(total: int) -> int:
      """What a job gets of a list that all jobs share."""
      return max(total // num_shown, min(_FEW, total))

    return {
      'version': 1,
      'time_unix_s': round(now, 3),
      **_listed(
        'jobs',
        states,
        MAX_JOBS,
        lambda state: self._job(state, now, steady_s, share),
      ),
      'journal': dict(journal) if journal else None,
    }

  def _job(
    self,
    job: JobState,
    now: float,
    steady_s: float,
    share: Callable[[int], int],
  ) -> dict[str, Any]:
    view = self.monitor.view(job.name, steady_s)
    agents = self.rendezvous.agents(job.name, steady_s)
    is_alone = bool(view.workers) and not job.is_managed and not agents
    return {
      'name': _name(job.name),
      # Without agents workers wait for nobody.
      'phase': 'running' if is_alone and job.phase == 'waiting' else job.phase,
      **_fields(job, 'is_success is_stopping generation restarts_used'),
      'jax_coordinator': _text(job.jax_coordinator),
      'restarts_left': self.rendezvous.restarts_left(job),
      'policy_restarts_left': self.policy_restarts_left_fn(job),
      'step': max((w.step for w in view.workers), default=None),
      'loss': _round(view.loss, 6),
      'committed_step': job.last_step if job.last_step >= 0 else None,
      'committed_unix_s': job.committed_unix_s or None,
      **_fields(view, 'samples_per_s remaining_s restart_cost_s pending_s'),
      'remaining_samples': _round(view.remaining_samples, 12),
      'exit_codes': {
        str(code): count
        for code, count in list(view.exit_codes.items())[:MAX_EXIT_CODES]
      },
      'time': self.goodput_fn(job.name, steady_s),
      'plan': _fields(job.plan, 'version lr_scale deadline_s reason'),
      **self._workers(job, view, steady_s, share(MAX_WORKERS)),
      **_listed(
        'data_sets',
        list(job.sets.items()),
        share(MAX_DATA_SETS),
        lambda item: self._data_set(job.name, item[0], item[1].ledger, now),
      ),
      **_listed('actions', self._actions(job), share(MAX_ACTIONS)),
      'action_counts': dict(self.log.counts(job.name)),
      'idle_reason': _text(self.idle_reason_fn(job.name)),
      **_generations(job, share(MAX_GENERATIONS)),
      **_agents(
        job,
        agents,
        self.rendezvous.checks(job.name, steady_s),
        steady_s,
        share(MAX_AGENTS),
      ),
    }

  def _workers(
    self, job: JobState, view: ClusterView, steady_s: float, limit: int
  ) -> dict[str, Any]:
    by_name = {w.worker: w for w in view.workers}
    # After the job's end the monitor still knows its last workers.
    members = job.members if job.is_managed else list(by_name)
    ranks = {name: rank for rank, name in enumerate(members)}
    states = {name: _worker_state(by_name.get(name)) for name in members}
    # Those with something the matter first, where not all fit.
    chosen = sorted(
      members,
      key=lambda name: (states[name] in ('normal', 'leader'), ranks[name]),
    )[:limit]
    series = self.monitor.series(job.name, steady_s) if chosen else {}
    return {
      'num_workers': len(members),
      'worker_states': dict(Counter(states.values())),
      'workers': [
        _worker(
          name, ranks[name], by_name.get(name), series.get(name, ()), job.plan
        )
        for name in sorted(chosen, key=ranks.__getitem__)
      ],
      'num_workers_left_out': len(members) - len(chosen),
    }

  def _data_set(
    self, job: str, name: str, ledger: Ledger, now: float
  ) -> dict[str, Any]:
    spec, counts, set_aside = ledger.spec, ledger.counts(), ledger.set_aside()
    num_shards = max(-(-spec.num_records // spec.shard_size), 1)
    used = counts['done'] + counts['consumed']
    num_used = round(used / num_shards * spec.num_records)
    # The epochs behind are all alike: the open ones are shown, while some are.
    earlier = ledger.first_open_epoch
    aside = sum(shard.epoch < earlier for shard, _ in set_aside)
    shards = {
      **counts,
      'done': counts['done'] - (earlier * num_shards - aside),
      'set_aside': counts['set_aside'] - aside,
    }
    return {
      'name': _name(name),
      **_fields(spec, 'num_records shard_size num_epochs is_stream'),
      'num_shards': num_shards,
      'epoch': earlier,
      'is_closed': spec.is_closed,
      'is_at_most_once': spec.at_most_once,
      'is_finished': ledger.outcome() == 'FINISHED',
      'shards': shards if any(shards.values()) else counts,
      'num_used': num_used,
      'records_per_s': _round(self.rates.note(job, name, num_used, now)),
      'num_set_aside': len(set_aside),
      **_listed(
        'set_aside',
        set_aside,
        MAX_SET_ASIDE,
        lambda item: {
          **_fields(item[0], 'epoch start stop'),
          'message': _text(item[1]),
        },
      ),
    }

  def _actions(self, job: JobState) -> list[dict[str, Any]]:
    """Returns what happened to the job and why, newest first."""
    noted = [(unix_s, text, '') for unix_s, text in job.actions]
    # What the job has done itself is there already, with the same reason.
    logged = [
      entry
      for entry in self.log.entries(job.name)
      if entry[1] != 'KILL_RESTART'
      or not any(text.endswith(f': {entry[2]}') for _, text in job.actions)
    ]
    return sorted(
      (
        {
          'unix_s': round(unix_s, 3),
          'text': _text(text),
          'reason': _text(reason),
        }
        for unix_s, text, reason in [*noted, *logged]
      ),
      key=lambda action: action['unix_s'],
      reverse=True,
    )


def _fields(of: object, names: str) -> dict[str, Any]:
  """Returns fields by name, with texts and numbers that are short."""
  fields = {}
  for name in names.split():
    value = getattr(of, name)
    if isinstance(value, float):
      value = _round(value)
    fields[name] = _text(value) if isinstance(value, str) else value
  return fields


def _listed(
  key: str,
  items: Sequence[_T],
  limit: int,
  as_json: Callable[[_T], Any] = lambda item: item,
) -> dict[str, Any]:
  """Returns the first items, and how many are left out."""
  return {
    key: [as_json(item) for item in items[:limit]],
    f'num_{key}_left_out': max(len(items) - limit, 0),
  }


def _generations(job: JobState, limit: int) -> dict[str, Any]:
  """The newest first; those that the job itself has forgotten count too."""
  history = list(job.history)[-limit:]
  return {
    'generations': [
      {
        **_fields(record, 'generation reason counts'),
        'num_members': len(record.members),
        'members': [_name(member) for member in record.members[:_FEW]],
        'started_unix_s': round(record.started_unix_s, 3),
        'ended_unix_s': None
        if record.ended_unix_s is None
        else round(record.ended_unix_s, 3),
      }
      for record in reversed(history)
    ],
    'num_generations_left_out': history[0].generation - 1 if history else 0,
  }


def _agents(
  job: JobState,
  agents: Iterable[AgentRecord],
  checks: NodeChecks,
  steady_s: float,
  limit: int,
) -> dict[str, Any]:
  members = set(job.members)
  states = [(_agent_state(agent, members, checks), agent) for agent in agents]
  # Those that wait are what an operator looks for.
  found = checks.findings
  states.sort(key=lambda one: (one[0] == 'running', one[1].name not in found))
  return {
    **_listed(
      'agents',
      states,
      limit,
      lambda one: {
        **_agent(one[1], one[0], steady_s),
        'check': as_json(one[1].beat.check, found.get(one[1].name)),
      },
    ),
    'num_bad_hosts': len(found),
    'agent_states': dict(Counter(state for state, _ in states)),
  }


def _worker_state(worker: WorkerView | None) -> str:
  if worker is None:
    return 'starting'
  return 'silent' if worker.silent_s > _SILENT_S else worker.state


def _worker(
  name: str,
  rank: int,
  worker: WorkerView | None,
  slices: Sequence[Slice],
  plan: pb.Plan,
) -> dict[str, Any]:
  last = [one for one in slices if one.num_steps][-MAX_POINTS:]
  compute_s = sum(one.compute_s for one in last)
  wait_s = sum(one.wait_s for one in last)
  known = worker is not None
  of = worker or WorkerView(name, plan.num_micro_batches.get(name, 0))
  return {
    'name': _name(name),
    'rank': rank,
    'state': _worker_state(worker),
    'quota': of.num_micro_batches,
    'step': of.step if known else None,
    'seconds_per_sample_short': _round(of.short_s_per_sample),
    'seconds_per_sample_long': _round(of.long_s_per_sample),
    'slowdown': _round(of.short_slowness) if of.num_steps else None,
    'wait_share': _round(wait_s / (compute_s + wait_s))
    if compute_s + wait_s > 0
    else None,
    'bpt_s': [_round(one.compute_s / one.num_steps) or 0.0 for one in last],
    'cpu_share': _round(of.cpu_share) if known else None,
    'rss_bytes': of.rss_bytes if known else None,
    'memory_bytes': of.memory_bytes if known else None,
    'device_kind': _name(of.device_kind),
    **_fields(of, 'is_input_bound num_devices restarts'),
    'last_beat_age_s': _round(of.silent_s) if known else None,
  }


def _agent_state(
  agent: AgentRecord, members: Collection[str], checks: NodeChecks
) -> str:
  if not agent.is_idle:
    return pb.AgentBeatRequest.Status.Name(agent.beat.status).lower()
  if agent.is_leaving:
    return 'leaving'
  if agent.name in checks.kept_out:
    return 'kept out'
  if agent.beat.check.state == pb.NodeCheck.RUNNING:
    return 'checking'
  return 'starting' if agent.name in members else 'waiting'


def _agent(agent: AgentRecord, state: str, steady_s: float) -> dict[str, Any]:
  return {
    'name': _name(agent.name),
    'state': state,
    'address': _name(agent.beat.address),
    'device_kind': _name(agent.beat.device_kind),
    'last_beat_age_s': _round(max(steady_s - agent.last_seen, 0.0)),
    'state_age_s': _round(max(steady_s - agent.changed_at, 0.0)),
    **_fields(agent.beat, 'generation exit_code'),
    **_fields(agent.beat.resources, 'cpu_share rss_bytes memory_bytes'),
    'log_tail': agent.beat.log_tail[-_MAX_LOG:],
  }


def _round(value: float | None, digits: int = 4) -> float | None:
  """Shortens a number; one that JSON cannot say is unknown."""
  if value is None or not math.isfinite(value):
    return None
  return float(f'{value:.{digits}g}')


def _text(text: str) -> str:
  return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + '…'


def _name(name: str) -> str:
  """Cuts a name so that two cut ones differ: metrics are told apart by it."""
  if len(name) <= _MAX_NAME:
    return name
  return f'{name[: _MAX_NAME - 9]}…{zlib.crc32(name.encode()):08x}'
