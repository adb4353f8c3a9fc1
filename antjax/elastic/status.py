# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Everything that the coordinator knows, for people and programs to read.

A snapshot is bounded however many shards, epochs, generations, workers and
jobs there are: lists are cut, and say how many they leave out.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import math
from typing import Any
import zlib

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.job_state import JobState
from antjax.elastic.jobs import Jobs
from antjax.elastic.monitor import Monitor
from antjax.elastic.rendezvous import Rendezvous
from antjax.elastic.rendezvous_room import Agent
from antjax.elastic.status_memory import ActionLog as ActionLog
from antjax.elastic.status_memory import Rates as Rates
from antjax.elastic.view import WorkerView
from antjax.elastic.windows import Slice
from antjax.shards.ledger import Ledger

# Of these, all jobs share: each gets its part, at least a few.
MAX_JOBS = 16
MAX_WORKERS = 256
MAX_AGENTS = 128
MAX_DATA_SETS = 64
MAX_GENERATIONS = 64
MAX_ACTIONS = 128
MAX_POINTS = 40  # Of a worker's batch times.
MAX_SET_ASIDE = 10  # Of a data set.
MAX_EXIT_CODES = 32
_SILENT_S = 15.0
_FEW = 8
_MAX_NAME = 80
_MAX_TEXT = 400
_MAX_LOG = 800


def snapshot(
  jobs: Jobs,
  monitor: Monitor,
  controller_log: ActionLog,
  rendezvous: Rendezvous,
  now: float,
  *,
  steady_s: float | None = None,
  rates: Rates | None = None,
  journal: Mapping[str, float] | None = None,
  idle_reason_fn: Callable[[str], str] | None = None,
  policy_restarts_left_fn: Callable[[JobState], int] | None = None,
  more_names: Iterable[str] = (),
) -> dict[str, Any]:
  """Returns the state of everything as plain values for JSON.

  Args:
    jobs: All jobs.
    monitor: Knows the speed of workers.
    controller_log: What the controller did and why.
    rendezvous: Knows the agents.
    now: Unix time.
    steady_s: Now on the clock of monitor and rendezvous, if that is another.
    rates: Kept from one snapshot to the next, for records a second.
    journal: 'num_commits', 'commit_s' (sum), 'num_changes', 'num_bytes'.
    idle_reason_fn: Job -> why the controller last did nothing.
    policy_restarts_left_fn: Job -> restarts that the policy may ask for now.
    more_names: Jobs that only agents have spoken of.
  """
  steady_s = now if steady_s is None else steady_s
  order = {'running': 0, 'waiting': 1, 'ended': 2}
  names = dict.fromkeys([*jobs.names(), *more_names])
  states = [jobs.job(name) for name in names]
  states.sort(key=lambda state: (order.get(state.phase, 3), state.name))
  shown = states[:MAX_JOBS]
  return {
    'version': 1,
    'time_unix_s': round(now, 3),
    'jobs': [
      _job(
        state,
        monitor,
        controller_log,
        rendezvous,
        now,
        steady_s,
        rates or Rates(),
        idle_reason_fn(state.name) if idle_reason_fn else '',
        policy_restarts_left_fn(state) if policy_restarts_left_fn else None,
        _Shares(len(shown)),
      )
      for state in shown
    ],
    'num_jobs_left_out': len(states) - len(shown),
    'journal': dict(journal) if journal else None,
  }


@dataclasses.dataclass(frozen=True)
class _Shares:
  """What a job gets of the lists that all jobs share."""

  num_jobs: int

  def of(self, total: int) -> int:
    return max(total // self.num_jobs, min(_FEW, total))


def _job(
  job: JobState,
  monitor: Monitor,
  controller_log: ActionLog,
  rendezvous: Rendezvous,
  now: float,
  steady_s: float,
  rates: Rates,
  idle_reason: str,
  policy_restarts_left: int | None,
  shares: _Shares,
) -> dict[str, Any]:
  view = monitor.view(job.name, steady_s)
  # After the job's end the monitor still knows its last workers.
  members = job.members if job.is_managed else [w.worker for w in view.workers]
  ranks = {name: rank for rank, name in enumerate(members)}
  by_name = {w.worker: w for w in view.workers}
  worker_states = Counter(_worker_state(by_name.get(name)) for name in members)
  # Those with something the matter first, where not all fit.
  chosen = sorted(
    members,
    key=lambda name: (
      _worker_state(by_name.get(name)) in ('normal', 'leader'),
      ranks[name],
    ),
  )[: shares.of(MAX_WORKERS)]
  series = monitor.series(job.name, steady_s) if chosen else {}
  sets = list(job.sets.items())[: shares.of(MAX_DATA_SETS)]
  history = list(job.history)[-shares.of(MAX_GENERATIONS) :]
  num_older = (history[0].generation - 1) if history else 0
  done = _actions(job, controller_log)
  shown_actions = done[: shares.of(MAX_ACTIONS)]
  agents = [
    (_agent_state(agent, ranks), agent)
    for agent in rendezvous.agents(job.name, steady_s)
  ]
  # Those that wait are what an operator looks for.
  agents.sort(key=lambda agent: agent[0] == 'running')
  shown_agents = agents[: shares.of(MAX_AGENTS)]
  return {
    'name': _name(job.name),
    'phase': job.phase,
    'is_success': job.is_success,
    'is_stopping': job.is_stopping,
    'generation': job.generation,
    'jax_coordinator': _text(job.jax_coordinator),
    'restarts_used': job.restarts_used,
    'restarts_left': rendezvous.restarts_left(job),
    'policy_restarts_left': policy_restarts_left,
    'step': max((w.step for w in view.workers), default=None),
    'committed_step': job.last_step if job.last_step >= 0 else None,
    'committed_unix_s': job.committed_unix_s or None,
    'samples_per_s': _round(view.samples_per_s),
    'remaining_samples': _round(view.remaining_samples, 12),
    'remaining_s': _round(view.remaining_s),
    'restart_cost_s': _round(view.restart_cost_s),
    'pending_s': _round(view.pending_s),
    'exit_codes': {
      str(code): count
      for code, count in list(view.exit_codes.items())[:MAX_EXIT_CODES]
    },
    'plan': {
      'version': job.plan.version,
      'lr_scale': _round(job.plan.lr_scale),
      'deadline_s': _round(job.plan.deadline_s),
      'reason': _text(job.plan.reason),
    },
    'num_workers': len(members),
    'worker_states': dict(worker_states),
    'workers': [
      _worker(
        name, ranks[name], by_name.get(name), series.get(name, ()), job.plan
      )
      for name in sorted(chosen, key=ranks.__getitem__)
    ],
    'num_workers_left_out': len(members) - len(chosen),
    'data_sets': [
      _data_set(job.name, name, data_set.ledger, now, rates)
      for name, data_set in sets
    ],
    'num_data_sets_left_out': len(job.sets) - len(sets),
    'actions': shown_actions,
    'num_actions_left_out': len(done) - len(shown_actions),
    'action_counts': dict(controller_log.counts(job.name)),
    'idle_reason': _text(idle_reason),
    'generations': [
      {
        'generation': record.generation,
        'num_members': len(record.members),
        'members': [_name(member) for member in record.members[:_FEW]],
        'started_unix_s': round(record.started_unix_s, 3),
        'ended_unix_s': None
        if record.ended_unix_s is None
        else round(record.ended_unix_s, 3),
        'reason': _text(record.reason),
        'counts': record.counts,
      }
      for record in reversed(history)
    ],
    'num_generations_left_out': max(num_older, 0),
    'agents': [_agent(agent, state, steady_s) for state, agent in shown_agents],
    'agent_states': dict(Counter(state for state, _ in agents)),
    'num_agents_left_out': len(agents) - len(shown_agents),
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
    'is_input_bound': of.is_input_bound,
    'wait_share': _round(wait_s / (compute_s + wait_s))
    if compute_s + wait_s > 0
    else None,
    'bpt_s': [_round(one.compute_s / one.num_steps) or 0.0 for one in last],
    'cpu_share': _round(of.cpu_share) if known else None,
    'rss_bytes': of.rss_bytes if known else None,
    'memory_bytes': of.memory_bytes if known else None,
    'device_kind': _name(of.device_kind),
    'num_devices': of.num_devices,
    'restarts': of.restarts,
    'last_beat_age_s': _round(of.silent_s) if known else None,
  }


def _data_set(
  job: str, name: str, ledger: Ledger, now: float, rates: Rates
) -> dict[str, Any]:
  spec, counts, set_aside = ledger.spec, ledger.counts(), ledger.set_aside()
  num_shards = max(-(-spec.num_records // spec.shard_size), 1)
  used = counts['done'] + counts['consumed']
  num_used = round(used / num_shards * spec.num_records)
  # The epochs behind are all alike: the open ones are shown, while some are.
  earlier = ledger.first_open_epoch
  aside = sum(shard.epoch < earlier for shard, _ in set_aside)
  shards = {
    'todo': counts['todo'],
    'doing': counts['doing'],
    'consumed': counts['consumed'],
    'done': counts['done'] - (earlier * num_shards - aside),
    'set_aside': counts['set_aside'] - aside,
  }
  if not any(shards.values()):
    shards = counts
  return {
    'name': _name(name),
    'num_records': spec.num_records,
    'shard_size': spec.shard_size,
    'num_shards': num_shards,
    'epoch': earlier,
    'num_epochs': spec.num_epochs,
    'is_stream': spec.is_stream,
    'is_closed': spec.is_closed,
    'is_at_most_once': spec.at_most_once,
    'is_finished': ledger.outcome() == 'FINISHED',
    'shards': shards,
    'num_used': num_used,
    'records_per_s': _round(rates.note(job, name, num_used, now)),
    'num_set_aside': len(set_aside),
    'set_aside': [
      {
        'epoch': shard.epoch,
        'start': shard.start,
        'stop': shard.stop,
        'message': _text(message),
      }
      for shard, message in set_aside[:MAX_SET_ASIDE]
    ],
    'num_set_aside_left_out': max(len(set_aside) - MAX_SET_ASIDE, 0),
  }


def _actions(job: JobState, controller_log: ActionLog) -> list[dict[str, Any]]:
  """Returns what happened to the job and why, newest first."""
  noted = [
    {'unix_s': round(unix_s, 3), 'text': _text(text), 'reason': ''}
    for unix_s, text in job.actions
  ]
  noted += [
    {'unix_s': round(unix_s, 3), 'text': _text(text), 'reason': _text(reason)}
    for unix_s, text, reason in controller_log.entries(job.name)
  ]
  return sorted(noted, key=lambda action: action['unix_s'], reverse=True)


def _agent_state(agent: Agent, ranks: Mapping[str, int]) -> str:
  if not agent.is_idle:
    return pb.AgentBeatRequest.Status.Name(agent.status).lower()
  if agent.is_leaving:
    return 'leaving'
  return 'starting' if agent.name in ranks else 'waiting'


def _agent(agent: Agent, state: str, steady_s: float) -> dict[str, Any]:
  return {
    'name': _name(agent.name),
    'state': state,
    'address': _name(agent.address),
    'device_kind': _name(agent.device_kind),
    'last_beat_age_s': _round(max(steady_s - agent.last_seen, 0.0)),
    'state_age_s': _round(max(steady_s - agent.changed_at, 0.0)),
    'generation': agent.generation,
    'exit_code': agent.exit_code,
    'cpu_share': _round(agent.resources.cpu_share),
    'rss_bytes': agent.resources.rss_bytes,
    'memory_bytes': agent.resources.memory_bytes,
    'log_tail': agent.log_tail[-_MAX_LOG:],
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
