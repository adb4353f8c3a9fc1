# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A job under agents loses a worker, then a host, and takes it in again."""

import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import chaos_bench, chaos_hosts, chaos_storm, text_job
from benchmarks.chaos_events import Event

_ROOT = pathlib.Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  folder = tmp_path_factory.mktemp('text')
  pages = sorted((_ROOT / 'docs').rglob('*.md'))
  source = folder / 'pages.txt'
  source.write_text('\n\n'.join(page.read_text() for page in pages))
  subprocess.run(
    [
      *(sys.executable, '-m', 'launch.prepare_text', f'--out={folder}/data'),
      *(f'--source={source}', '--documents=paragraph', '--vocab_size=512'),
    ],
    cwd=_ROOT,
    env={**os.environ, 'PYTHONPATH': str(_ROOT)},
    capture_output=True,
    check=True,
  )
  return f'{folder}/data'


def event(kind, after_steps, share=0.7):
  return Event(kind, 1, after_steps=after_steps, delay_s=0, share=share)


@pytest.mark.parametrize('paro', ['NNN', 'IIG'])
def test_fewer_hosts_and_more_again(tmp_path, text, paro):
  job = vars(
    text_job.Job(
      data=text, out=str(tmp_path), num_sequences=900, num_epochs=2, paro=paro
    )
  )
  events = [event('worker', 6), event('freeze', 12), event('drop', 12, 0.2)]
  with chaos_hosts.Hosts(None) as hosts:
    storm = chaos_storm.Storm(
      hosts, job, events, num_workers=3, num_spares=0, say=print
    )
    storm.run()
  assert [one['kind'] for one in storm.struck] == ['worker', 'freeze', 'drop']
  assert storm.num_dropped == 1
  found = chaos_bench.check(tmp_path, job, 3)
  assert found['records'] == 1800
  assert found['workers_in_steps'] == [2, 3]
  line = {**found, 'kills': 2, 'hosts': 3}
  assert not chaos_bench.failures(line, num_kills=2), line
