# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every entry point answers --help and refuses a wrong flag in one line."""

import pathlib
import re

import pytest

from tests import warm_python
from tests.jobs import processes

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_SCRIPTS = sorted(
  path
  for path in (_ROOT / 'launch').glob('*.py')
  if "\nif __name__ == '__main__'" in path.read_text()
)


def test_there_are_scripts():
  assert 'local_cluster' in {path.stem for path in _SCRIPTS}


@pytest.mark.parametrize('script', _SCRIPTS, ids=lambda path: path.stem)
def test_help_explains_every_flag(script):
  done = warm_python.run('-m', f'launch.{script.stem}', '--help')
  assert done.returncode in (0, 1), done.stderr  # absl: 1.
  assert 'Traceback' not in done.stderr
  # Its docstring comes first, then its own flags.
  first = re.search(r'"""(.+?)\n', script.read_text()).group(1)
  assert first.strip('"') in done.stdout
  own = done.stdout.split('absl.app:')[0]
  assert len(re.findall(r'^  --', own, re.MULTILINE)) >= 2, own
  assert '(no help available)' not in own


@pytest.mark.parametrize('script', _SCRIPTS, ids=lambda path: path.stem)
def test_unknown_flag_is_refused(script):
  command = ('-m', f'launch.{script.stem}', '--no_such_flag=1')
  done = processes.run(*command, expect=1)
  assert "Unknown command line flag 'no_such_flag'" in done.stderr


@pytest.mark.parametrize('name', ['bahe', 'gmeta', 'llm_rec', 'lm'])
def test_missing_data_leave_no_run_folder(tmp_path, name):
  flags = (f'--data={tmp_path}/data', f'--run_dir={tmp_path}/run')
  done = processes.run('-m', f'launch.train_{name}', *flags, expect=1)
  assert f'{tmp_path}/data' in done.stderr
  assert 'launch' in done.stderr.splitlines()[-1]
  assert not (tmp_path / 'run').exists()
