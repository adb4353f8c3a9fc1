# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Meta-learns a rating or click model and scores it on cold-start tasks.

  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
    launch/train_gmeta.py --flagfile=launch/recipes/quickstart.flags

Trains on task records written by launch/prepare_data.py, with embedding tables
sharded by rows over all devices and dense parameters under a PaRO code.
--algorithm selects the algorithm (docs/gmeta.md). The same model is also
trained jointly, as the baseline that a meta-learner has to beat. The run folder
contains checkpoints, metrics.jsonl, TensorBoard events, results.json and
report.html. The same command resumes a stopped run.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any

from absl import logging

from antjax.data import output_folder
from antjax.embedding import planner
from antjax.embedding.layout import TableSpec
from antjax.jobs import job as job_lib
from antjax.jobs import trainer as trainer_lib
from antjax.jobs.gmeta import report as gmeta_report
from antjax.jobs.gmeta import scores as gmeta_scores
from antjax.jobs.gmeta.config import Config
from antjax.jobs.gmeta.data import MODELS, TaskBatches
from antjax.jobs.gmeta.methods import Methods
from antjax.mesh import mesh as mesh_lib
from antjax.mesh.gather import gather_json
from antjax.meta import algorithms
from antjax.meta import recommender as recommender_lib

# A plan of the tables counts the distinct rows of so many batches, and may give
# the tables that much of a device's memory.
_PLAN_BATCHES = 8
_TABLE_SHARE = 0.5


def main(config: Config) -> None:
  train(config, job_lib.start(config))


def train(config: Config, job: job_lib.Job) -> list[dict[str, Any]]:
  """Trains, evaluates and reports; returns the rows of the result table."""
  _, description = output_folder.open_view(config.data, 'tasks')
  tasks = TaskBatches(config, description, job)
  # Saved with the run, which is resumed with the same.
  config = dataclasses.replace(config, validation_tasks=tasks.num_validation)
  job = dataclasses.replace(job, config=config)
  network = algorithms.ALGORITHMS[config.algorithm].network
  recommender = recommender_lib.build(
    config.keys.of(description['features']),
    dataclasses.replace(config.model, kind=network or config.model.kind),
    job.mesh,
    config.optimizer.schedule(
      config.num_steps, config.model.table_learning_rate
    ),
    place_fn=functools.partial(_placed, config, job, tasks),
    label_kind=tasks.kind,
    num_numeric=len(description.get('numeric', ())),
    home=config.model.home_of(job.run_dir, MODELS[0]),
  )
  methods = Methods(config, job, recommender, tasks).train()
  results = gmeta_scores.evaluate_methods(
    tasks,
    recommender,
    methods,
    eval_steps=config.eval_steps,
    support_sizes=config.support_sizes,
    num_resamples=config.num_resamples,
    seed=config.seed,
  )
  if job.is_main:
    trainer = next(iter(methods.values())).trainer
    gmeta_report.write(config, job, description, trainer, results)
  return results.rows


def _placed(
  config: Config,
  job: job_lib.Job,
  tasks: TaskBatches,
  specs: Sequence[TableSpec],
) -> list[TableSpec]:
  """The tables at the levels that the planner chooses; logs why.

  All processes call it and get the same.

  Raises:
    ValueError: They do not fit.
  """
  mine = planner.count_distinct(
    tasks.sample_ids(_PLAN_BATCHES),
    {spec.name: spec.name for spec in specs},
    len(job.mesh.local_devices),
  )
  limit = _TABLE_SHARE * (trainer_lib.memory_of_device() or math.inf)
  # Process 0's counts and memory decide for all.
  counts, limit = gather_json([mine, limit])[0]
  plans = planner.plan_tables(
    specs,
    counts,
    trainer_lib.links_of(job.mesh, config.links),
    num_groups=mesh_lib.num_groups(job.mesh),
    group_size=mesh_lib.group_size(job.mesh),
    device_bytes=limit,
  )
  for plan in plans:
    logging.info(
      'Table %s [%d x %d], %.0f distinct rows a device and step, %s',
      plan.spec.name,
      plan.spec.num_embeddings,
      plan.spec.embedding_dim,
      counts[plan.spec.name],
      plan.reason,
    )
  return [plan.spec for plan in plans]
