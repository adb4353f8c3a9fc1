# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The examples of models in docs/ run as a stranger would run them."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

DOCS = pathlib.Path(__file__).parents[2] / 'docs'


def _run(page, index, folder):
  """What the program with this number on a page prints."""
  code = re.findall(
    r'```python\n(.*?)```', (DOCS / page).read_text(), re.DOTALL
  )
  script = folder / 'my_model.py'
  script.write_text(code[index])
  done = subprocess.run(
    [sys.executable, script],
    cwd=folder,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_the_custom_model_trains(tmp_path):
  sizes, losses, scores = _run('custom_model.md', 0, tmp_path).splitlines()
  assert ast.literal_eval(sizes)['params'] > 0
  first, last = map(float, re.findall(r'\d\.\d+', losses))
  assert last < 0.6 * first
  assert 'in 100 steps' in losses
  assert ast.literal_eval(scores)['AUC'] > 0.95


def test_a_tensor_parallel_model_trains_on_its_own_mesh(tmp_path):
  *steps, spec = _run('custom_model.md', 1, tmp_path).splitlines()
  losses = [float(line.split()[1]) for line in steps]
  assert len(losses) == 20
  assert losses[-1] < 0.2 * losses[0]
  assert spec.endswith("('intra', 'model')")


@pytest.mark.parametrize('index', [0, 1])
def test_batch_norms_of_flax_keep_their_statistics(index, tmp_path):
  said = _run('model_state.md', index, tmp_path)
  if index == 0:
    accuracy = [float(x) for x in re.findall(r'^\d+ ([\d.]+)$', said, re.M)]
    assert accuracy[-1] > max(0.85, accuracy[0])
  means = [float(x) for x in re.findall(r'-?\d+\.?\d*(?:e-?\d+)?', said)[-4:]]
  assert max(map(abs, means)) > 0.5  # They were zeros.
