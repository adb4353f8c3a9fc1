# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains a click model on long textual behaviour (BAHE), and its baselines.

  python -m launch.prepare_behaviors --out=data/ml-1m-text
  python -m launch.fetch_model
  python -m launch.build_behavior_store
  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
    launch/train_bahe.py --flagfile=launch/recipes/bahe_ml1m.flags

A behaviour's vector comes from the store; only the language model's high layers
and the head are trained, under any PaRO code. --tower chooses what BAHE is
compared with (docs/bahe.md). The run folder gets checkpoints, metrics.jsonl,
TensorBoard events, results.json, report.html. The same command goes on where a
run was stopped.
"""

from antjax.jobs import job as job_lib
from antjax.jobs.bahe import model as bahe_model
from antjax.jobs.bahe import report as bahe_report
from antjax.jobs.bahe import users as bahe_users
from antjax.jobs.bahe.config import Config
from antjax.jobs.bahe.data import Clicks
from antjax.jobs.bahe.job import BaheJob


def main(config: Config) -> None:
  job = job_lib.start(config)
  train(config, job)


def train(config: Config, job: job_lib.Job) -> dict[str, dict[str, float]]:
  """Trains, scores, exports and reports; returns the scores by split."""
  clicks = Clicks(config, job)
  built = bahe_model.build(config, job, clicks)
  bahe = BaheJob(config, job, clicks, built)
  state = bahe.fit()
  scores = {
    split: bahe.scores(state, split, f'score {split}')
    for split in ('validation', 'test')
  }
  if config.export_users:
    bahe_users.export(job.run_dir, bahe.trainer, state, clicks, built.model)
  if job.is_main:
    bahe_report.write(
      config, job, clicks.description, bahe.trainer, bahe.memory, scores
    )
  return scores
