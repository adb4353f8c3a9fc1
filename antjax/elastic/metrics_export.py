# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The coordinator's snapshot as Prometheus metrics.

Labels take their values from the snapshot, whose lists are bounded: so is the
number of series. Metrics of single workers are of the workers it lists. The
label is `job_name`: Prometheus calls what it asks `job`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import prometheus_client
from prometheus_client import core, registry

CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

_Json = Mapping[str, Any]

# Key in a job of the snapshot -> metric and HELP.
_JOB_GAUGES = (
  ('generation', 'antjax_job_generation', 'Newest generation of the job.'),
  ('step', 'antjax_job_step', 'Newest step of any worker.'),
  (
    'committed_step',
    'antjax_job_committed_step',
    'Step of the last committed checkpoint.',
  ),
  (
    'committed_unix_s',
    'antjax_job_committed_timestamp_seconds',
    'Unix time of the last committed checkpoint.',
  ),
  (
    'samples_per_s',
    'antjax_job_samples_per_second',
    'Samples of all workers a second, over the short window.',
  ),
  (
    'remaining_samples',
    'antjax_job_remaining_samples',
    'Samples to the end of the job.',
  ),
  (
    'restarts_left',
    'antjax_job_restarts_left',
    'Faults after which the job still starts again.',
  ),
  (
    'policy_restarts_left',
    'antjax_job_policy_restarts_left',
    'Restarts of slow workers that the policy may ask for now.',
  ),
  (
    'pending_s',
    'antjax_job_pending_seconds',
    'The longest that hosts waited to be placed, lately.',
  ),
)
_PLAN_GAUGES = (
  ('version', 'antjax_plan_version', 'Version of the plan in force.'),
  (
    'lr_scale',
    'antjax_plan_lr_scale_ratio',
    'What the plan multiplies the updates by.',
  ),
  (
    'deadline_s',
    'antjax_plan_deadline_seconds',
    "Deadline of a step's micro-batches; 0: none.",
  ),
)
_WORKER_GAUGES = (
  (
    'quota',
    'antjax_worker_micro_batches',
    'Micro-batches that the plan gives the worker in a step.',
  ),
  ('step', 'antjax_worker_step', 'Newest step of the worker.'),
  (
    'slowdown',
    'antjax_worker_slowdown_ratio',
    "Time a sample over the workers' median, short window.",
  ),
  (
    'wait_share',
    'antjax_worker_wait_ratio',
    'Share of its time in which the worker waits for slower ones.',
  ),
  (
    'last_beat_age_s',
    'antjax_worker_heartbeat_age_seconds',
    'Time since the last heartbeat of the worker.',
  ),
  (
    'cpu_share',
    'antjax_worker_cpu_ratio',
    "Share of its host's cores that is busy.",
  ),
  (
    'rss_bytes',
    'antjax_worker_memory_bytes',
    'Memory that the worker uses.',
  ),
)
_DATA_GAUGES = (
  ('epoch', 'antjax_data_epoch', 'First epoch that is not wholly committed.'),
  (
    'num_records',
    'antjax_data_records',
    'Records of the data set; of a stream: so far.',
  ),
  (
    'num_used',
    'antjax_data_records_used',
    'Records of used shards, of all epochs; falls when a checkpoint is '
    'restored.',
  ),
)


class _Gauges:
  """Gauges that appear once a snapshot has values for them."""

  def __init__(self, *labels: str):
    self._labels = labels
    self._families: dict[str, core.GaugeMetricFamily] = {}

  def add(
    self, name: str, documentation: str, value: Any, *labels: str
  ) -> None:
    if value is None:
      return
    family = self._families.setdefault(
      name, core.GaugeMetricFamily(name, documentation, labels=self._labels)
    )
    family.add_metric(labels, float(value))

  def __iter__(self) -> Iterator[core.Metric]:
    return iter(self._families.values())


class SnapshotCollector(registry.Collector):
  """Gives the metrics of one snapshot, see `status.Snapshots`."""

  def __init__(self, snapshot: _Json):
    self._snapshot = snapshot

  def collect(self) -> Iterable[core.Metric]:
    jobs: list[_Json] = self._snapshot['jobs']
    yield core.GaugeMetricFamily(
      'antjax_coordinator_jobs',
      'Jobs that the coordinator knows.',
      value=len(jobs) + self._snapshot['num_jobs_left_out'],
    )
    yield from _jobs(jobs)
    yield from _workers(jobs)
    yield from _data_sets(jobs)
    yield from _counters(jobs)
    if self._snapshot.get('journal'):
      yield from _journal(self._snapshot['journal'])


def _jobs(jobs: Iterable[_Json]) -> Iterator[core.Metric]:
  plain, phases = _Gauges('job_name'), _Gauges('job_name', 'phase')
  workers, agents = _Gauges('job_name', 'state'), _Gauges('job_name', 'state')
  for job in jobs:
    name = job['name']
    for key, metric, documentation in _JOB_GAUGES:
      plain.add(metric, documentation, job[key], name)
    for key, metric, documentation in _PLAN_GAUGES:
      plain.add(metric, documentation, job['plan'][key], name)
    for phase in ('waiting', 'running', 'ended'):
      phases.add(
        'antjax_job_phase',
        'Whether the job is in the phase.',
        job['phase'] == phase,
        name,
        phase,
      )
    for state, count in job['worker_states'].items():
      workers.add('antjax_job_workers', 'Workers by state.', count, name, state)
    for state, count in job['agent_states'].items():
      agents.add('antjax_job_agents', 'Agents by state.', count, name, state)
  for gauges in (plain, phases, workers, agents):
    yield from gauges


def _workers(jobs: Iterable[_Json]) -> Iterator[core.Metric]:
  plain = _Gauges('job_name', 'worker')
  speed = _Gauges('job_name', 'worker', 'window')
  for job in jobs:
    for worker in job['workers']:
      labels = job['name'], worker['name']
      for key, metric, documentation in _WORKER_GAUGES:
        plain.add(metric, documentation, worker[key], *labels)
      for window in ('short', 'long'):
        speed.add(
          'antjax_worker_seconds_per_sample',
          'Time of a sample, without waiting for other workers.',
          worker[f'seconds_per_sample_{window}'],
          *labels,
          window,
        )
  yield from plain
  yield from speed


def _data_sets(jobs: Iterable[_Json]) -> Iterator[core.Metric]:
  plain = _Gauges('job_name', 'data_set')
  shards = _Gauges('job_name', 'data_set', 'state')
  for job in jobs:
    for data_set in job['data_sets']:
      labels = job['name'], data_set['name']
      for key, metric, documentation in _DATA_GAUGES:
        plain.add(metric, documentation, data_set[key], *labels)
      for state, count in data_set['shards'].items():
        shards.add(
          'antjax_data_shards',
          'Shards of the open epochs by state.',
          count,
          *labels,
          state,
        )
  yield from plain
  yield from shards


def _counters(jobs: Iterable[_Json]) -> Iterator[core.Metric]:
  restarts = core.CounterMetricFamily(
    'antjax_job_restarts',
    'Ends of generations that count against the restart budget.',
    labels=['job_name'],
  )
  actions = core.CounterMetricFamily(
    'antjax_job_actions',
    'Actions that the controller has taken since the coordinator started.',
    labels=['job_name', 'action'],
  )
  exits = core.CounterMetricFamily(
    'antjax_job_worker_exits',
    'Ends of worker processes by exit code; below 0: a signal.',
    labels=['job_name', 'exit_code'],
  )
  for job in jobs:
    restarts.add_metric([job['name']], job['restarts_used'])
    for action, count in job['action_counts'].items():
      actions.add_metric([job['name'], action], count)
    for code, count in job['exit_codes'].items():
      exits.add_metric([job['name'], code], count)
  yield from (restarts, actions, exits)


def _journal(journal: _Json) -> Iterator[core.Metric]:
  yield core.SummaryMetricFamily(
    'antjax_journal_commit_seconds',
    'Time of a group of changes to reach the disk.',
    count_value=journal['num_commits'],
    sum_value=journal['commit_s'],
  )
  yield core.CounterMetricFamily(
    'antjax_journal_changes',
    'Changes that were written to the journal.',
    value=journal['num_changes'],
  )
  yield core.CounterMetricFamily(
    'antjax_journal_written_bytes',
    'Bytes of changes that were written to the journal.',
    value=journal['num_bytes'],
  )


def render(snapshot: _Json) -> bytes:
  """Returns a snapshot in the text format of Prometheus."""
  target = prometheus_client.CollectorRegistry()
  target.register(SnapshotCollector(snapshot))
  # Of the coordinator's own process: memory, CPU, open files.
  prometheus_client.ProcessCollector(
    namespace='antjax_coordinator', registry=target
  )
  return prometheus_client.generate_latest(target)
