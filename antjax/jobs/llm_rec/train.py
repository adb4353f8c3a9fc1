# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains LLM-Rec: one language model that recommends in all domains.

  python -m launch.prepare_sequences --out=data/ml-1m-sequences
  python -m launch.fetch_model
  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
    launch/train_llm_rec.py --flagfile=launch/recipes/llm_rec_ml1m.flags

A user is the titles of their last items, an item is its title; all layers,
adapters or nothing but a head are trained, under any PaRO code. --baselines
adds what it is compared with, on the same examples; --sweep compares language
models, tunings and lengths of history (docs/llm_rec.md). The run folder gets
checkpoints, metrics.jsonl, TensorBoard events, results.json, report.html, and
for launch/recommend.py the folder export. The same command goes on where a run
was stopped.
"""

import dataclasses
from typing import Any

from antjax.jobs import job as job_lib
from antjax.jobs.llm_rec import baselines as llm_rec_baselines
from antjax.jobs.llm_rec import export as llm_rec_export
from antjax.jobs.llm_rec import held_out as llm_rec_held_out
from antjax.jobs.llm_rec import model as llm_rec_model
from antjax.jobs.llm_rec import report as llm_rec_report
from antjax.jobs.llm_rec import sweep as llm_rec_sweep
from antjax.jobs.llm_rec.config import (
  BaselinesConfig,
  Config,
  METHODS,
  SequencesConfig,
)
from antjax.jobs.llm_rec.data import Sequences
from antjax.jobs.llm_rec.job import LLMRecJob


def main(config: Config) -> None:
  if config.sweep:
    llm_rec_sweep.run(config)
    return
  job = job_lib.start(config)
  train(config, job)


def train(config: Config, job: job_lib.Job) -> dict[str, Any]:
  """Trains, scores, exports and reports; returns the test scores."""
  if job.agent is not None and config.loss.across == 'all':
    raise ValueError(
      'loss.across=all under agents: groups do their own number of'
      ' micro-batches, so they cannot wait for each other in each; use group or'
      ' device.'
    )
  sequences = Sequences(config, job)
  built = llm_rec_model.build(config, sequences.data)
  sequences.make_inputs(built.texts)
  run = LLMRecJob(config, job, sequences, built)
  state = run.fit()
  vectors = run.vectors(state)
  held_out = llm_rec_held_out.held_out(sequences.data, 'test', config.held_out)
  results = llm_rec_report.score(run, vectors, held_out, job)
  if config.export and job.is_main:
    llm_rec_export.write(
      job.run_dir,
      config,
      sequences.data,
      built,
      vectors.params,
      vectors.item_vectors(),
    )
  others = run_baselines(config, job)
  if job.is_main:
    llm_rec_report.write(
      config, job, sequences, run, results, others, vectors.item_vectors()
    )
  return results


def run_baselines(config: Config, job: job_lib.Job) -> dict[str, Any]:
  """Scores of the other methods, on the same examples."""
  if not config.baselines:
    return {}
  methods = config.baselines
  if 'all' in methods:
    methods = METHODS
  run_dir = job.run_dir / 'baselines'
  run_dir.mkdir(exist_ok=True)
  shared = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(SequencesConfig)
  }
  other = BaselinesConfig(
    **shared
    | {'run_dir': str(run_dir), 'model': config.model, 'seed': config.seed},
    methods=methods,
  )
  return llm_rec_baselines.train(
    other, dataclasses.replace(job, run_dir=run_dir, config=other)
  )
