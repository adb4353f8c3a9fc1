# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax's side of `ctr_bench`: the trainer of launch/train_clicks.py."""

import pathlib
import time
from typing import Any

import jax
import numpy as np

from antjax.jobs import job as job_lib
from antjax.jobs import script
from antjax.jobs.clicks import data as antm2c_data
from antjax.jobs.clicks.training import ClickJob
from antjax.mesh import mesh as mesh_lib
from benchmarks import ctr_problem


def job_of(config: Any) -> job_lib.Job:
  """A job without flags, in this process."""
  run_dir = pathlib.Path(config.run_dir)
  run_dir.mkdir(parents=True, exist_ok=True)
  mesh = mesh_lib.make_mesh(intra=1)
  return job_lib.Job(mesh, run_dir, script.stop_request, config)


class Form:
  """One model, trained for as many steps as it is told."""

  def __init__(self, model: str, folder: str, run_dir: str):
    config = ctr_problem.config(folder, model, run_dir)
    job = job_of(config)
    self._data = antm2c_data.ScenarioData(config, job)
    self._job = ClickJob(config, job, self._data, seed=0, name=model)
    trainer = self._job.trainer
    self._state = trainer.init(self._job.model.init_params, seed=0)
    self._batches = iter(self._data.training(self._job.model, 0, model))

  def problem(self) -> ctr_problem.Problem:
    """The same clicks, for the peer."""
    return ctr_problem.arrays(self._data)

  def train(self, num_steps: int) -> float:
    """Trains on; returns seconds."""
    start = time.perf_counter()
    self._state = self._job.trainer.fit(
      self._state, _Taken(self._batches), int(self._state.step) + num_steps
    )
    jax.block_until_ready(self._state)
    return time.perf_counter() - start

  def logits(self) -> np.ndarray:
    """Of the test clicks."""
    return self._job.logits(self._state, 'test')['prediction']


class _Taken:
  """An iterator that continues where it was, without a position to restore."""

  def __init__(self, iterator: Any):
    self._iterator = iterator

  def __iter__(self) -> '_Taken':
    return self

  def __next__(self) -> Any:
    return next(self._iterator)
