# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: 8 virtual CPU devices and strict rules."""

import ctypes
import gc
import os
import pathlib

# Both must be set before JAX starts its backend.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    # The 8 devices are threads of two cores: one may come late.
    '--xla_cpu_collective_call_terminate_timeout_seconds=300',
  ]
).strip()

import hypothesis
import jax
import psutil
import pytest

from antjax.jobs import compilation_cache

# Silent broadcasting of [B] with [B, 1] is the commonest wrong loss.
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Programs that `make test` keeps are written whole: others read them.
compilation_cache.keep_on_every_process()
# A loaded machine is no bug: hypothesis would call a slow example a failure.
# The same examples in every run, unless --hypothesis-profile=search.
hypothesis.settings.register_profile('search', deadline=None)
hypothesis.settings.register_profile('antjax', deadline=None, derandomize=True)
hypothesis.settings.load_profile('antjax')

# Files of many seconds, which begin first: one that is alone at the end of a
# run leaves the other processes idle.
_LONG = """
  collectives/algorithms ctr/antm2c/model ctr/bahe/encode data/behavior_data
  data/movielens docs/blocks embedding/table jobs/common jobs/local_cluster
  jobs/prepare_data jobs/train_antm2c jobs/train_bahe jobs/train_gmeta_click
  jobs/train_llm_rec jobs/train_lm meta/algorithms meta/meta_loss
  meta/sharded_step meta/task_network multiprocess/elastic
  multiprocess/trainer serving/export train/checkpoint train/elastic_step
  train/layerwise train/own_loop train/own_mesh train/rows_ahead
""".split()
_TESTS = pathlib.Path(__file__).parent
# Above this the programs that tests have compiled are dropped. On 8 GB and
# less, 1 GB; what all files use is compiled or read again after each drop.
_MAX_BYTES = max(1 << 30, psutil.virtual_memory().total // 8)


def pytest_collection_modifyitems(items):
  files = {_TESTS / f'{name}_test.py' for name in _LONG}
  items.sort(key=lambda item: item.path not in files)


def pytest_make_parametrize_id(val):
  # Both processes of a run must collect the same: a gzip header holds the time.
  return f'{len(val)} bytes' if isinstance(val, bytes) else None


@pytest.fixture(scope='module', autouse=True)
def _programs_are_forgotten():
  """All of them would take 5 GB a process, more than some machines have."""
  yield
  if psutil.Process().memory_info().rss > _MAX_BYTES:
    jax.clear_caches()
    gc.collect()
    # The C library keeps what it is given back: without this each later file
    # of tests would begin with no program, not even those that all use.
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'malloc_trim'):
      libc.malloc_trim(0)
