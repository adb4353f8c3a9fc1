# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The example in docs/custom_model.md runs as a stranger would run it."""

import ast
import pathlib
import re
import subprocess
import sys

DOCS = pathlib.Path(__file__).parents[2] / 'docs'


def test_the_custom_model_trains(tmp_path):
  text = (DOCS / 'custom_model.md').read_text()
  (code,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  script = tmp_path / 'my_model.py'
  script.write_text(code)
  done = subprocess.run(
    [sys.executable, script],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  sizes, losses, scores = done.stdout.splitlines()
  assert ast.literal_eval(sizes)['params'] > 0
  first, last = map(float, re.findall(r'\d\.\d+', losses))
  assert last < 0.6 * first
  assert 'in 100 steps' in losses
  assert ast.literal_eval(scores)['AUC'] > 0.95
