# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains a causal language model on texts, from scratch or from another run.

  python -m launch.prepare_text --out=data/shakespeare
  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
    launch/train_lm.py --flagfile=launch/recipes/lm_shakespeare.flags

Packs tokenized documents into sequences without a token lost, and trains under
any PaRO code, or the one that the planner finds best (--paro=auto). The run
folder gets checkpoints, metrics.jsonl, TensorBoard events, results.json,
samples.txt and report.html. The same command goes on where a run was stopped.
"""

from typing import Any

from antjax.jobs import job as job_lib
from antjax.jobs.lm import report as lm_report
from antjax.jobs.lm.config import Config
from antjax.jobs.lm.job import LMJob


def main(config: Config) -> None:
  job = job_lib.start(config)
  train(config, job)


def train(config: Config, job: job_lib.Job) -> dict[str, Any]:
  """Trains, validates, samples and reports; returns the results."""
  lm = LMJob(config, job)
  trainer = lm.trainer()
  state = lm.fit(trainer)
  results = lm.validate(trainer, state)
  samples = lm.samples(trainer, state)
  if job.is_main:
    lm_report.write(config, job, lm, trainer, results, samples)
  return results
