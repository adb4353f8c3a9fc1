# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of the quality benchmark, from written results."""

import json

import pytest

from benchmarks import gmeta_quality


def write(folder, name, seed, methods):
  """One run: method -> MAE; every other metric is 0.5."""
  details = [
    {
      'scenario': 'warm',
      'method': method,
      'metric': metric,
      'value': mae if metric == 'MAE' else 0.5,
      'low': 0.4,
      'high': 0.6,
    }
    for method, mae in methods.items()
    for metric in gmeta_quality._METRICS
  ]
  details.append(details[0] | {'num_steps': 0, 'value': 9.0})
  path = folder / f'{name}_{seed}' / 'results.json'
  path.parent.mkdir()
  path.write_text(json.dumps({'details': details}))


def config_of(folder):
  return gmeta_quality.Config(out=str(folder), algorithms=('joint', 'maml'))


def test_table_has_means_intervals_and_paired_differences(tmp_path, capsys):
  for seed, (joint, tuned, meta) in enumerate(
    [(0.9, 0.7, 0.6), (0.8, 0.8, 0.82)]
  ):
    write(
      tmp_path, 'joint', seed, {'joint': joint, 'joint + fine-tuning': tuned}
    )
    write(tmp_path, 'maml', seed, {'meta-learned': meta, 'joint': 5.0})
  write(tmp_path, 'joint', 2, {'joint': 1.0, 'joint + fine-tuning': 1.0})
  gmeta_quality.print_table(config_of(tmp_path))
  out = capsys.readouterr().out
  assert out.startswith('Seeds: 0, 1.')  # Seed 2 lacks maml.
  lines = {
    line.split(' | ')[0].strip('| '): line.split(' | ')
    for line in out.splitlines()
  }
  assert lines['joint'][1] == '0.850 ± 0.100'
  assert lines['maml'][1] == '**0.710 ± 0.100**'
  # Differences -0.1 and 0.02; t of one degree of freedom is 12.71.
  assert lines['maml'][-2] == '-0.040 ± 0.763'
  assert '9.000' not in out and '5.000' not in out


def test_nothing_to_show_is_said(tmp_path):
  with pytest.raises(RuntimeError, match='no seed is whole yet'):
    gmeta_quality.print_table(config_of(tmp_path))
