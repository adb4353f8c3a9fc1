# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics: readable by Prometheus, bounded, and those of the dashboard."""

import json
import pathlib
import re

from prometheus_client import parser

from antjax.elastic import metrics_export
from tests.elastic import status_examples

_DASHBOARD = pathlib.Path('launch/dashboards/antjax_grafana.json')
_JOURNAL = {
  'num_commits': 10,
  'commit_s': 0.25,
  'num_changes': 640,
  'num_bytes': 81920,
}


def _parse(text):
  return {
    family.name: family
    for family in parser.text_string_to_metric_families(text.decode())
  }


def _lively():
  snapshot = status_examples.lively().snapshot(
    journal=_JOURNAL,
    policy_restarts_left_fn=lambda job: 1,
    goodput_fn=lambda job, now: {
      'goodput': 0.75,
      'new_steps_s': 75.0,
      'repeated_steps_s': 5.0,
      'other_s': 20.0,
    },
  )
  return _parse(metrics_export.render(snapshot))


def _value(families, name, **labels):
  (value,) = (
    sample.value
    for family in families.values()
    for sample in family.samples
    if sample.name == name and labels.items() <= sample.labels.items()
  )
  return value


def test_values():
  families = _lively()
  of = {'job_name': 'ctr'}
  for value, name, labels in (
    (1, 'antjax_coordinator_jobs', {}),
    (412, 'antjax_job_step', of),
    (3, 'antjax_job_generation', of),
    (1, 'antjax_job_phase', {**of, 'phase': 'running'}),
    (0, 'antjax_job_phase', {**of, 'phase': 'ended'}),
    (1, 'antjax_job_workers', {**of, 'state': 'transient'}),
    (5, 'antjax_worker_micro_batches', {**of, 'worker': 'w3'}),
    (
      0.0036,
      'antjax_worker_seconds_per_sample',
      {**of, 'worker': 'w3', 'window': 'short'},
    ),
    (
      12,
      'antjax_data_shards',
      {**of, 'data_set': 'train', 'state': 'consumed'},
    ),
    (1, 'antjax_job_restarts_total', of),
    (2, 'antjax_job_restarts_left', of),
    (1, 'antjax_job_policy_restarts_left', of),
    (1, 'antjax_job_actions_total', {**of, 'action': 'ADJUST_BS'}),
    (2, 'antjax_job_worker_exits_total', {**of, 'exit_code': '-9'}),
    (0.25, 'antjax_journal_commit_seconds_sum', {}),
    (640, 'antjax_journal_changes_total', {}),
  ):
    assert _value(families, name, **labels) == value, name


def test_names_and_help():
  for name, family in _lively().items():
    assert name.startswith('antjax_')
    assert family.documentation.endswith('.'), name
    for sample in family.samples:
      assert 'job' not in sample.labels  # Prometheus' own.
  names = set(_lively())
  # Times and sizes say their unit.
  assert not [n for n in names if re.search(r'_(s|ms|time|size|age)$', n)]


def test_without_journal_and_jobs():
  families = _parse(metrics_export.render(status_examples.Known().snapshot()))
  assert 'antjax_coordinator_jobs' in families
  assert not [name for name in families if name.startswith('antjax_journal')]


def test_series_are_bounded():
  snapshot = status_examples.huge(1).snapshot(journal=_JOURNAL)
  families = _parse(metrics_export.render(snapshot))
  samples = [s for family in families.values() for s in family.samples]
  assert len(samples) < 5000
  keys = [(s.name, tuple(sorted(s.labels.items()))) for s in samples]
  assert len(set(keys)) == len(keys)  # Prometheus refuses all otherwise.


def test_odd_names_are_quoted():
  known = status_examples.named('a"b\\c\nd{}', 'w"\n')
  families = _parse(metrics_export.render(known.snapshot()))
  assert _value(families, 'antjax_worker_micro_batches', worker='w"\n') == 1


def _queries(node):
  if isinstance(node, dict):
    if isinstance(node.get('expr'), str):
      yield node['expr']
    for value in node.values():
      yield from _queries(value)
  elif isinstance(node, list):
    for value in node:
      yield from _queries(value)


def test_dashboard_asks_for_metrics_that_exist():
  dashboard = json.loads(_DASHBOARD.read_text(encoding='utf-8'))
  samples = [s for family in _lively().values() for s in family.samples]
  known = {s.name for s in samples}
  labels = {label for s in samples for label in s.labels}
  queries = list(_queries(dashboard))
  asked = {
    name for query in queries for name in re.findall(r'antjax_\w+', query)
  }
  assert len(queries) > 20
  assert asked <= known
  # And for nearly all of them.
  plain = {n for n in known if not n.startswith('antjax_coordinator')}
  assert len(plain - asked) <= 8, plain - asked
  for query in queries:
    assert query.count('(') == query.count(')')
    for inner in re.findall(r'\{(.*?)\}|by \((.*?)\)', query):
      for label in re.findall(r'(\w+)(?==)', inner[0]) + inner[1].split():
        assert label in labels, query


def test_dashboard_is_whole():
  dashboard = json.loads(_DASHBOARD.read_text(encoding='utf-8'))
  ids = [panel['id'] for panel in dashboard['panels']]
  assert len(set(ids)) == len(ids)
  taken = set()
  for panel in dashboard['panels']:
    place = panel['gridPos']
    assert place['x'] + place['w'] <= 24
    cells = {
      (x, y)
      for x in range(place['x'], place['x'] + place['w'])
      for y in range(place['y'], place['y'] + place['h'])
    }
    assert not cells & taken  # No panel lies on another.
    taken |= cells
    assert panel['targets'] and panel['title']
  text = json.dumps(dashboard)
  assert 'http' not in text  # Of no certain Prometheus.


def test_docs_name_all_metrics():
  text = pathlib.Path('docs/monitoring.md').read_text(encoding='utf-8')
  named = set(re.findall(r'antjax_[a-z]\w+', text)) - {'antjax_grafana'}
  # Of other processes, by step_watch.
  named -= {'antjax_watch_step_seconds', 'antjax_watch_host_seconds'}
  named.discard('antjax_coordinator_process_')
  samples = {s.name for f in _lively().values() for s in f.samples}
  families = set(_lively()) | samples
  assert named <= families
  missing = {
    name
    for name in samples
    if not name.startswith('antjax_coordinator_process_')
    and not any(name.startswith(one) for one in named)
  }
  assert not missing
