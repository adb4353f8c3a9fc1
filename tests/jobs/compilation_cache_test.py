# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A restart compiles nothing anew, on no process."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
# A program of a process's own device, one of all, and how they were come by.
_WORKER = """
import collections, json
import jax, jax.numpy as jnp
from jax.experimental import multihost_utils
from antjax.jobs import distributed

seen = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: seen.update([name]))
distributed.initialize()
jax.jit(lambda x: jnp.sin(x) * 2 + 1)(jnp.arange(4.0)).block_until_ready()
multihost_utils.sync_global_devices('end')
cache = '/jax/compilation_cache/'
print('RESULT', json.dumps({
  'asked': seen[cache + 'compile_requests_use_cache'],
  'found': seen[cache + 'cache_hits'],
}))
"""


@pytest.mark.slow
@pytest.mark.multiprocess
def test_every_process_finds_its_programs_again(tmp_path):
  env = {
    **os.environ,
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }

  def run():
    done = subprocess.run(
      [
        *(sys.executable, '-m', 'launch.local_cluster', '--hosts=2'),
        *('--devices_per_host=1', '--', '-c', _WORKER),
      ],
      cwd=_ROOT,
      env=env,
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = re.findall(r'RESULT (\{.*\})', done.stdout)
    assert len(lines) == 2
    return [json.loads(line) for line in lines]

  assert all(result['found'] < result['asked'] for result in run())
  for result in run():
    assert result['found'] == result['asked'] > 0
  assert not list(tmp_path.glob('*.tmp'))
