# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of language models, tiny: its figures, and a run."""

import pytest

from benchmarks import bahe_bench, lm_bench
from tests.benchmarks import runs

_CASE = lm_bench.Case('smollm2', 256)


def _measured(step_s, loss=2.0):
  return {
    'step': [9.0, step_s, step_s],
    'encode': [4.0],
    'cpu_step': [2 * step_s**2],
    'cpu_encode': [1.0],
    'first': [1.0, loss],
  }


def test_ratio_is_of_medians_and_sides_must_agree():
  line = lm_bench.line_of(
    _CASE, {'antjax': _measured(1.0), 'peer': _measured(3.0)}, 1e9
  )
  assert line['ratio'] == 3 and line['encode_ratio'] == 1
  assert line['cpu_ratio'] == 9 and line['encode_cpu_ratio'] == 1
  assert 'error' not in line
  line = lm_bench.line_of(
    _CASE, {'antjax': _measured(1.0), 'peer': _measured(3.0, 2.1)}, 1e9
  )
  assert 'disagree' in line['error']


def test_without_encoding_the_step_has_its_figures():
  found = {'antjax': _measured(1.0), 'peer': _measured(3.0)}
  for side in found.values():
    del side['encode'], side['cpu_encode']
  line = lm_bench.line_of(_CASE, found, 1e9)
  assert line['ratio'] == 3 and not any('encode' in name for name in line)


def test_flops_are_those_of_the_weights_and_scores():
  fields = bahe_bench.fields('smollm2', False)
  # 134.5 million weights, of which the embedding is also the output layer.
  scores = 6 * 256 * 2 * 30 * 576 * 128
  weights = lm_bench.flops(_CASE, fields) - scores
  assert weights == pytest.approx(6 * 256 * 134.5e6, rel=1e-3)


@runs.needs_peers
@pytest.mark.slow
def test_runs():
  models = ['minilm', 'smollm2', 'qwen3']
  cases = ','.join(f'{model}-256' for model in models)
  # One device, as in a shell.
  lines = runs.lines('lm_bench', '--quick', f'--cases={cases}', XLA_FLAGS='')
  assert [line['model'] for line in lines] == models
  assert all(line['ratio'] > 0 and 'error' not in line for line in lines)
