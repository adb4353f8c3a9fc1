# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The quality benchmark of BAHE: its jobs' flags, its table."""

import dataclasses
import json

import pytest

from antjax.jobs.bahe import job as train_bahe
from benchmarks import bahe_quality, quality_runs

_COLUMNS = [
  part + metric
  for part in bahe_quality._SLICES
  for metric in bahe_quality._METRICS
]


def _field(name):
  """A field of the job's config, by the name of its flag."""
  config = train_bahe.Config()
  for part in name.split('.'):
    assert part in {field.name for field in dataclasses.fields(config)}, name
    config = getattr(config, part)
  return config


def test_jobs_share_everything_but_what_is_compared(tmp_path, monkeypatch):
  jobs = {}
  monkeypatch.setattr(
    quality_runs,
    'run',
    lambda module, folder, options: jobs.update({folder.name: options}),
  )
  config = bahe_quality.Config(out=str(tmp_path))
  for method in config.methods:
    bahe_quality.run(config, method, 1)
  for options in jobs.values():
    for name in options:
      _field(name)
  different = {'tower', 'store', 'export_users'}
  bahe, full, frozen = (jobs[f'{m}_1'] for m in ('bahe', 'full_text', 'frozen'))
  assert (bahe['tower'], full['tower']) == ('store', 'full_text')
  for other in (full, frozen):
    changed = {k for k in bahe | other if bahe.get(k) != other.get(k)}
    assert 'tower' in changed and changed <= different
  assert bahe['ids.use'] == '' and 'ids.use' not in jobs['din_1']
  assert jobs['bahe_long_1']['num_steps'] > bahe['num_steps']
  vectors = jobs['din_bahe_1']['user_embeddings']
  assert vectors == tmp_path / 'bahe_1' / 'user_embeddings'


def test_table_has_means_and_paired_differences(tmp_path, capsys):
  def write(method, seed, auc):
    path = tmp_path / f'{method}_{seed}' / 'results.json'
    path.parent.mkdir()
    test = dict.fromkeys(_COLUMNS, 0.25) | {'auc': auc, 'new_item/auc': None}
    path.write_text(json.dumps({'results': {'test': test}}))

  for seed, (bahe, full) in enumerate([(0.70, 0.72), (0.74, 0.70)]):
    write('bahe', seed, bahe)
    write('full_text', seed, full)
  write('bahe', 2, 0.1)  # Seed 2 lacks the other method.
  methods = ('bahe', 'full_text')
  config = bahe_quality.Config(out=str(tmp_path), methods=methods)
  bahe_quality.print_table(config)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == 'Seeds: 0, 1.'
  # Differences -0.02 and 0.04; t of one degree of freedom is 12.71.
  assert lines[-2] == (
    '| bahe | 0.720 | 0.250 | - | 0.250 | 0.250 | 0.250 | +0.010 ± 0.381 |'
  )
  assert lines[-1].endswith('| 0.250 |  |')


def test_nothing_to_show_is_said(tmp_path):
  with pytest.raises(RuntimeError, match='no seed is whole yet'):
    bahe_quality.print_table(bahe_quality.Config(out=str(tmp_path)))
