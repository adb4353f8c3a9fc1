# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics merged over two real JAX processes equal one process's metrics."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from antjax.metrics import means as metrics
from antjax.metrics import ranking
from antjax.metrics.merge import merge_across_processes
from antjax.metrics.metric import Metric

pytestmark = pytest.mark.multiprocess

_TIMEOUT_S = 60
_ROOT = pathlib.Path(__file__).parents[2]


def _new_metrics() -> dict[str, Metric]:
  return {
    'rmse': metrics.RMSE(),
    'mae': metrics.MAE(),
    'log_loss': metrics.LogLoss(from_logits=True),
    'auc': ranking.AUC(),
    'gauc': ranking.GAUC(),
    'ndcg': ranking.NDCG(3),
  }


def _rows(seed, n):
  rng = np.random.default_rng(seed)
  return {
    # Not exact in float32: a merge that passed through it would show.
    'prediction': rng.normal(size=n),
    'label': rng.integers(0, 2, n),
    'group': rng.integers(0, 4, n),
  }


def _run(rows):
  """Runs a worker for each entry of `rows`; returns two lines of each."""
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    port = s.getsockname()[1]
  workers = [
    subprocess.Popen(
      [sys.executable, __file__, str(port), str(i), json.dumps(r)],
      env=os.environ | {'PYTHONPATH': str(_ROOT), 'JAX_PLATFORMS': 'cpu'},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i, r in enumerate(rows)
  ]
  try:
    outputs = [worker.communicate(timeout=_TIMEOUT_S) for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
  for worker, (_, stderr) in zip(workers, outputs, strict=True):
    assert worker.returncode == 0, stderr
  # The last lines: gloo reports its connections on stdout before.
  return [stdout.splitlines()[-2:] for stdout, _ in outputs]


def test_two_processes_of_different_lengths_merge_exactly():
  parts = [_rows(0, 300), _rows(1, 7)]
  lines = _run([{k: v.tolist() for k, v in part.items()} for part in parts])
  expected = _new_metrics()
  for metric in expected.values():
    for part in parts:
      metric.update(**part)
  expected = {name: metric.compute() for name, metric in expected.items()}
  for process, (values, error) in enumerate(lines):
    got = json.loads(values)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
      np.testing.assert_allclose(got[name], value, rtol=1e-12, err_msg=name)
    assert 'every process must pass the same names' in error
    assert f'process {process} has' in error


def _worker(port: str, process: str, rows: str) -> None:
  """One process: merges its rows' metrics, then tries other names."""
  jax.distributed.initialize(f'127.0.0.1:{port}', 2, int(process))
  local = _new_metrics()
  for metric in local.values():
    metric.update(**{k: np.asarray(v) for k, v in json.loads(rows).items()})
  merged = merge_across_processes(local)
  values = json.dumps({name: m.compute() for name, m in merged.items()})
  try:
    merge_across_processes({f'mae{process}': metrics.MAE()})
    error = 'no error'
  except ValueError as e:
    error = str(e)
  jax.distributed.shutdown()
  print(values, error, sep='\n')


if __name__ == '__main__':
  _worker(*sys.argv[1:])
