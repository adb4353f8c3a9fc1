# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows and writes what launch/train_llm_rec.py reached."""

from collections.abc import Mapping, Sequence
import dataclasses
import datetime
import json
import os
import statistics
from typing import Any

import numpy as np
import rich

from antjax import config as config_lib
from antjax.ctr.llm_rec import evaluation
from antjax.ctr.llm_rec.vectors import VectorEncoder
from antjax.jobs import job as job_lib
from antjax.jobs import speed as lm_speed
from antjax.jobs.gmeta import report as gmeta_report
from antjax.jobs.llm_rec import held_out as llm_rec_held_out
from antjax.jobs.llm_rec import table as llm_rec_table
from antjax.jobs.llm_rec.config import Config
from antjax.jobs.llm_rec.data import Sequences
from antjax.jobs.llm_rec.held_out import HeldOut
from antjax.jobs.llm_rec.job import LLMRecJob
from antjax.metrics import rank_metrics
from antjax.report import progress, report

NAME = 'llm_rec'  # Of the method, beside those that it is compared with.
_METRICS = ('recall@10', 'ndcg@10')
_POINTS = 400  # Items of a domain in the plot.
_KINDS = {
  evaluation.SAMPLED: 'among drawn items of the domain',
  evaluation.FULL: 'among all items',
}


def score(
  run: LLMRecJob,
  vectors: VectorEncoder,
  held_out: tuple[HeldOut, HeldOut | None],
  job: job_lib.Job,
) -> dict[str, Any]:
  """Scores of the test examples, and of those of cold items.

  Ranks go to ranks.npz in the run folder: differences between models are paired
  by examples.

  Args:
    run: The run.
    vectors: Its model, with the vectors of all items.
    held_out: From `llm_rec_held_out.held_out`.
    job: The job; all processes call this.

  Returns:
    {'test' or 'cold': {'sampled' or 'full': {part: {metric: value}}}}.
  """
  found: dict[str, Any] = {}
  arrays: dict[str, Any] = {}
  for name, examples in zip(('test', 'cold'), held_out, strict=True):
    if examples is None:
      continue
    found[name] = {}
    for kind, ranks in run.ranks(vectors, examples).items():
      scores = rank_metrics.scores(ranks, examples.parts)
      found[name][kind] = llm_rec_held_out.as_json(scores)
      arrays[f'{name}_{kind}'] = ranks
    arrays[f'{name}_users'] = examples.users
  if job.is_main:
    np.savez(job.run_dir / 'ranks.npz', **arrays)
  return found


def write(
  config: Config,
  job: job_lib.Job,
  sequences: Sequences,
  run: LLMRecJob,
  results: Mapping[str, Any],
  others: Mapping[str, Any],
  item_vectors: np.ndarray,
) -> None:
  """Prints the table; writes results.json and report.html. On process 0.

  Args:
    config: Of the run.
    job: The job.
    sequences: With the data.
    run: The run.
    results: From `score`.
    others: The same of other methods, by name.
    item_vectors: float32 [items, D].
  """
  methods = {**others, NAME: results}
  llm_rec_table.show(methods)
  lines = progress.read_metrics(job.run_dir / progress.METRICS_FILE)
  speeds = [r['examples_per_s'] for r in lines if r.get('examples_per_s')]
  speed = {**run.speed}
  if speeds:
    speed['training examples/s'] = statistics.median(speeds)
  everything = {
    'results': methods,
    'paro': run.trainer.paro.code,
    'memory': run.memory,
    'peak_bytes': lm_speed.peak_bytes(),
    'throughput': speed,
    'num_left_out': sequences.inputs.num_left_out,
  }
  path = job.run_dir / 'results.json'
  temporary = path.with_suffix('.new')
  temporary.write_text(json.dumps(everything, indent=2), encoding='utf-8')
  os.replace(temporary, path)
  revision = config_lib.git_revision() or {'revision': '', 'dirty': False}
  data = sequences.data
  overall = results['test'][evaluation.SAMPLED][rank_metrics.ALL]
  page = report.write_report(
    report.Report(
      title=f'LLM-Rec on {data.description["name"]}',
      summary=(
        f'{os.path.basename(os.path.normpath(config.model))} ({config.start}),'
        f' tuning {config.tuning}, PaRO {run.trainer.paro.code}: NDCG@10'
        f' {overall["ndcg@10"]:.4f} among {config.held_out.num_negatives:,}'
        f' items of the domain, {overall["examples"]:,} test examples.'
      ),
      results=rows_of(methods),
      baselines=tuple(others),
      bars=bars_of(methods),
      scatters={
        'Items of each domain (PCA)': domain_points(
          item_vectors, data.domains, data.domain_names
        )
      },
      curves=_curves(lines),
      throughput=speed,
      memory=gmeta_report.memory(run.trainer),
      config=dataclasses.asdict(config),
      command=job.repeat_command('launch/train_llm_rec.py'),
      revision=revision['revision'][:12] + '+' * revision['dirty'],
      machine=report.describe_machine(),
      date=f'{datetime.datetime.now():%Y-%m-%d %H:%M}',
      notes=_notes(config, sequences, run),
    ),
    job.run_dir,
  )
  rich.print(f'Report: {page}')


def rows_of(methods: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A row a method and part of the examples, of parts with examples."""
  rows = []
  for method, found in methods.items():
    for split, kinds in found.items():
      if split not in ('test', 'cold'):
        continue
      for kind, parts in kinds.items():
        for part, values in parts.items():
          if values['examples'] and (split == 'test' or part == 'all'):
            name = part if split == 'test' else 'cold items, apart'
            rows.append(
              {
                'scenario': f'{name}, {_KINDS[kind]}',
                'method': method,
                **{metric: values[metric] for metric in _METRICS},
              }
            )
  return rows


def bars_of(
  methods: Mapping[str, Any], metric: str = 'ndcg@10'
) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
  """Bars by part: all, each domain, and kinds of users and items."""
  panels = {}
  for kind, title in _KINDS.items():
    groups: dict[str, dict[str, tuple[float, float]]] = {}
    for method, found in methods.items():
      for part, values in found['test'][kind].items():
        if not values['examples']:
          continue
        error = values[f'{metric}{rank_metrics.ERROR}']
        groups.setdefault(part.removeprefix('domain/'), {})[method] = (
          values[metric],
          float('nan') if error is None else error,
        )
    panels[f'NDCG@10 {title}'] = groups
  return panels


def domain_points(
  item_vectors: np.ndarray,
  domains: np.ndarray,
  names: Sequence[str],
  seed: int = 0,
) -> dict[str, list[tuple[float, float]]]:
  """Items of each domain on the two main axes of all of them.

  Args:
    item_vectors: float [items, D].
    domains: int [items].
    names: Of the domains.
    seed: Of the items that are drawn.
  """
  rng = np.random.default_rng(seed)
  chosen = {}
  for i, name in enumerate(names):
    items = np.flatnonzero(domains == i)
    if len(items):
      chosen[name] = rng.permutation(items)[:_POINTS]
  all_items = np.concatenate([*chosen.values(), np.zeros(0, np.int64)])
  if len(all_items) < 3:
    return {}
  x = item_vectors[all_items].astype(np.float64)
  mean = x.mean(axis=0)
  _, _, axes = np.linalg.svd(x - mean, full_matrices=False)
  return {
    name: [tuple(p) for p in ((item_vectors[i] - mean) @ axes[:2].T).tolist()]
    for name, i in chosen.items()
  }


def _curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  def points(key: str) -> list[tuple[float, float]]:
    return [(r['step'], r[key]) for r in lines if r.get(key) is not None]

  return {
    'loss': {'train': points('loss')},
    'validation': {name: points(f'validation_{name}') for name in _METRICS},
    'grad norm': {'train': points('grad_norm')},
  }


def _notes(config: Config, sequences: Sequences, run: LLMRecJob) -> list[str]:
  num_train = len(sequences.source)
  notes = [
    f'Training: {num_train:,} examples of {sequences.events.num_users:,} users'
    f', at most {run.num_steps:,} steps of {config.batch_size}.',
    'Ties are ranked against the model. Bars have standard errors over'
    ' examples.',
  ]
  if sequences.inputs.num_left_out:
    notes.append(
      f'{sequences.inputs.num_left_out:,} training examples had no room in'
      ' their micro-batch and weight 0.'
    )
  compiled = run.memory['compiled']
  if compiled:
    notes.append(
      'Memory of a device, planned and as the compiler has it: state'
      f' {report.format_bytes(sum(run.memory["state"].values()))}, arguments'
      f' {report.format_bytes(compiled["arguments"])}; activations'
      f' {report.format_bytes(run.memory["activations"])}, temporary'
      f' {report.format_bytes(compiled["temporary"])}.'
    )
  acknowledgement = sequences.data.description.get('acknowledgement')
  if acknowledgement:
    notes.append(f'Data: {acknowledgement}')
  return notes
