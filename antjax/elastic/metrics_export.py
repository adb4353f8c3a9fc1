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
# Name of a metric, its labels and its value; None: there is none now.
_Sample = tuple[str, dict[str, str], float | None]

# Key in the snapshot -> name of the metric.
_JOB = {
  'generation': 'antjax_job_generation',
  'step': 'antjax_job_step',
  'loss': 'antjax_job_loss',
  'committed_step': 'antjax_job_committed_step',
  'committed_unix_s': 'antjax_job_committed_timestamp_seconds',
  'samples_per_s': 'antjax_job_samples_per_second',
  'remaining_samples': 'antjax_job_remaining_samples',
  'restarts_left': 'antjax_job_restarts_left',
  'policy_restarts_left': 'antjax_job_policy_restarts_left',
  'pending_s': 'antjax_job_pending_seconds',
  'restarts_used': 'antjax_job_restarts',
  'num_bad_hosts': 'antjax_job_bad_hosts',
}
_PLAN = {
  'version': 'antjax_plan_version',
  'lr_scale': 'antjax_plan_lr_scale_ratio',
  'deadline_s': 'antjax_plan_deadline_seconds',
}
_WORKER = {
  'quota': 'antjax_worker_micro_batches',
  'step': 'antjax_worker_step',
  'slowdown': 'antjax_worker_slowdown_ratio',
  'wait_share': 'antjax_worker_wait_ratio',
  'last_beat_age_s': 'antjax_worker_heartbeat_age_seconds',
  'cpu_share': 'antjax_worker_cpu_ratio',
  'rss_bytes': 'antjax_worker_memory_bytes',
}
_CHECK = {
  'matmul_flops': 'antjax_agent_matmul_flops',
  'memory_bytes': 'antjax_agent_memory_bytes_per_second',
  'disk_bytes': 'antjax_agent_disk_bytes_per_second',
  'link_bytes': 'antjax_agent_link_bytes_per_second',
}
_TIME = {
  'goodput': 'antjax_job_goodput_ratio',
  'new_steps_s': 'antjax_job_new_steps_seconds',
  'repeated_steps_s': 'antjax_job_repeated_steps_seconds',
  'other_s': 'antjax_job_other_seconds',
}
_DATA = {
  'epoch': 'antjax_data_epoch',
  'num_records': 'antjax_data_records',
  'num_used': 'antjax_data_records_used',
}
# Counts of a job: key in the snapshot -> metric, and the label of the keys.
_BY_KEY = {
  'worker_states': ('antjax_job_workers', 'state'),
  'agent_states': ('antjax_job_agents', 'state'),
  'action_counts': ('antjax_job_actions', 'action'),
  'exit_codes': ('antjax_job_worker_exits', 'exit_code'),
}
_COUNTERS = {
  'antjax_job_restarts': 'Ends of generations that count against the restart'
  ' budget.',
  'antjax_job_actions': 'Actions that the controller has taken since the'
  ' coordinator started.',
  'antjax_job_worker_exits': 'Ends of worker processes by exit code; below 0:'
  ' a signal.',
  'antjax_journal_changes': 'Changes that were written to the journal.',
  'antjax_journal_written_bytes': 'Bytes of changes that were written to the'
  ' journal.',
}
_GAUGES = {
  'antjax_coordinator_jobs': 'Jobs that the coordinator knows.',
  'antjax_job_generation': 'Newest generation of the job.',
  'antjax_job_step': 'Newest step of any worker.',
  'antjax_job_committed_step': 'Step of the last committed checkpoint.',
  'antjax_job_committed_timestamp_seconds': 'Unix time of the last committed'
  ' checkpoint.',
  'antjax_job_samples_per_second': 'Samples of all workers a second, over the'
  ' short window.',
  'antjax_job_remaining_samples': 'Samples to the end of the job.',
  'antjax_job_goodput_ratio': 'Share of the time since the coordinator began in'
  ' steps that were not done before.',
  'antjax_job_new_steps_seconds': 'Seconds in such steps.',
  'antjax_job_repeated_steps_seconds': 'Seconds in steps done again.',
  'antjax_job_other_seconds': 'Seconds in no step: starts, compilation, saves.',
  'antjax_job_restarts_left': 'Faults after which the job still starts again.',
  'antjax_job_policy_restarts_left': 'Restarts of slow workers that the policy'
  ' may ask for now.',
  'antjax_job_pending_seconds': 'The longest that hosts waited to be placed,'
  ' lately.',
  'antjax_job_phase': 'Whether the job is in the phase.',
  'antjax_job_workers': 'Workers by state.',
  'antjax_job_agents': 'Agents by state.',
  'antjax_job_loss': 'Loss of the newest step.',
  'antjax_job_bad_hosts': 'Hosts that their check has named.',
  'antjax_agent_matmul_flops': 'Of products of matrices, of the slowest device'
  ' of the host, when it was checked.',
  'antjax_agent_memory_bytes_per_second': 'Of its memory, then.',
  'antjax_agent_disk_bytes_per_second': 'Written to its disk, then.',
  'antjax_agent_link_bytes_per_second': 'Of its best link, then.',
  'antjax_plan_version': 'Version of the plan in force.',
  'antjax_plan_lr_scale_ratio': 'What the plan multiplies the updates by.',
  'antjax_plan_deadline_seconds': "Deadline of a step's micro-batches; 0:"
  ' none.',
  'antjax_worker_micro_batches': 'Micro-batches that the plan gives the worker'
  ' in a step.',
  'antjax_worker_step': 'Newest step of the worker.',
  'antjax_worker_slowdown_ratio': "Time a sample over the workers' median,"
  ' short window.',
  'antjax_worker_wait_ratio': 'Share of its time in which the worker waits for'
  ' slower ones.',
  'antjax_worker_heartbeat_age_seconds': 'Time since the last heartbeat of the'
  ' worker.',
  'antjax_worker_cpu_ratio': "Share of its host's cores that is busy.",
  'antjax_worker_memory_bytes': 'Memory that the worker uses.',
  'antjax_worker_seconds_per_sample': 'Time of a sample, without waiting for'
  ' other workers.',
  'antjax_data_epoch': 'First epoch that is not wholly committed.',
  'antjax_data_records': 'Records of the data set; of a stream: so far.',
  'antjax_data_records_used': 'Records of used shards, of all epochs; falls'
  ' when a checkpoint is restored.',
  'antjax_data_shards': 'Shards of the open epochs by state.',
}


def _samples(snapshot: _Json) -> Iterator[_Sample]:
  jobs = snapshot['jobs']
  yield (
    'antjax_coordinator_jobs',
    {},
    len(jobs) + snapshot['num_jobs_left_out'],
  )
  for job in jobs:
    of_job = {'job_name': job['name']}
    yield from _plain(_JOB, job, of_job)
    if job['time']:
      yield from _plain(_TIME, job['time'], of_job)
    yield from _plain(_PLAN, job['plan'], of_job)
    for phase in ('waiting', 'running', 'ended'):
      is_in = job['phase'] == phase
      yield 'antjax_job_phase', {**of_job, 'phase': phase}, is_in
    for counts, (name, label) in _BY_KEY.items():
      for key, count in job[counts].items():
        yield name, {**of_job, label: key}, count
    for worker in job['workers']:
      labels = {**of_job, 'worker': worker['name']}
      yield from _plain(_WORKER, worker, labels)
      for window in ('short', 'long'):
        yield (
          'antjax_worker_seconds_per_sample',
          {**labels, 'window': window},
          worker[f'seconds_per_sample_{window}'],
        )
    for agent in job['agents']:
      if check := agent.get('check'):
        labels = {**of_job, 'agent': agent['name']}
        yield from _plain(_CHECK, check, labels)
    for data_set in job['data_sets']:
      labels = {**of_job, 'data_set': data_set['name']}
      yield from _plain(_DATA, data_set, labels)
      for state, count in data_set['shards'].items():
        yield 'antjax_data_shards', {**labels, 'state': state}, count
  if journal := snapshot.get('journal'):
    yield 'antjax_journal_changes', {}, journal['num_changes']
    yield 'antjax_journal_written_bytes', {}, journal['num_bytes']


def _plain(
  names: Mapping[str, str], values: _Json, labels: dict[str, str]
) -> Iterator[_Sample]:
  for key, name in names.items():
    yield name, labels, values[key]


class _SnapshotCollector(registry.Collector):
  """Gives the metrics of one snapshot, see `status.Snapshots`."""

  def __init__(self, snapshot: _Json):
    self._snapshot = snapshot

  def collect(self) -> Iterable[core.Metric]:
    """See the base class; a metric appears once there is a value for it."""
    families: dict[str, Any] = {}
    for name, labels, value in _samples(self._snapshot):
      if value is None:
        continue
      if name not in families:
        is_counter = name in _COUNTERS
        families[name] = (
          core.CounterMetricFamily if is_counter else core.GaugeMetricFamily
        )(name, (_COUNTERS if is_counter else _GAUGES)[name], labels=[*labels])
      families[name].add_metric([*labels.values()], float(value))
    yield from families.values()
    if journal := self._snapshot.get('journal'):
      yield core.SummaryMetricFamily(
        'antjax_journal_commit_seconds',
        'Time of a group of changes to reach the disk.',
        count_value=journal['num_commits'],
        sum_value=journal['commit_s'],
      )


def render(snapshot: _Json) -> bytes:
  """Returns a snapshot in the text format of Prometheus."""
  target = prometheus_client.CollectorRegistry()
  target.register(_SnapshotCollector(snapshot))
  # Figures of the coordinator's own process: memory, CPU, open files.
  prometheus_client.ProcessCollector(
    namespace='antjax_coordinator', registry=target
  )
  return prometheus_client.generate_latest(target)
