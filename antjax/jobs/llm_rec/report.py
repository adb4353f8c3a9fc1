# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows and writes the results of launch/train_llm_rec.py."""

from collections.abc import Iterator, Mapping, Sequence
import os
from typing import Any

import numpy as np

from antjax.ctr.llm_rec import evaluation
from antjax.data.sequence_data import SequenceData
from antjax.jobs import job as job_lib
from antjax.jobs.llm_rec import gaps
from antjax.jobs.llm_rec import held_out as llm_rec_held_out
from antjax.jobs.llm_rec.config import Config
from antjax.jobs.llm_rec.data import TrainingSequences
from antjax.metrics import rank_metrics
from antjax.report import job_report
from antjax.train.trainer import Trainer

# Names of the run's methods in tables.
NAME, HYBRID = 'llm_rec', 'hybrid_llm_rec'
_COLD = 'cold items, apart'
_METRICS = ('recall@10', 'ndcg@10')
_POINTS = 400  # Items of a domain in the plot.


def write(
  config: Config,
  job: job_lib.Job,
  sequences: TrainingSequences,
  trainer: Trainer,
  results: Mapping[str, Any],
  others: Mapping[str, Any],
  item_vectors: np.ndarray,
  ranks: Mapping[str, Mapping[str, np.ndarray]],
  *,
  account: Mapping[str, Any],
  speed: Mapping[str, float],
  num_steps: int,
) -> None:
  """Prints the table; writes results.json and report.html. On process 0.

  `results` are of `Ranker.score`, `others` the same of other methods;
  `item_vectors` are float32 [items, D], `speed` rates of evaluation; `ranks`
  are those among drawn items, of the methods that have them, by 'test' or
  'cold'.
  """
  methods = {**others, NAME: results}
  llm_rec_held_out.show(methods)
  data = sequences.data
  num_left_out = sequences.inputs.num_left_out
  notes = [
    f'Training: {len(sequences.source):,} examples of'
    f' {sequences.events.num_users:,} users, at most {num_steps:,} steps of'
    f' {config.batch_size}.',
    'Ties are ranked against the model. Bars have standard errors over'
    ' examples.',
  ]
  if num_left_out:
    notes.append(
      f'{num_left_out:,} training examples had no room in their micro-batch and'
      ' weight 0.'
    )
  behind = _gaps(data, config, ranks)
  overall = results['test'][evaluation.SAMPLED][rank_metrics.ALL]
  job.report(
    'train-llm-rec',
    {
      'results': methods,
      'num_left_out': num_left_out,
      'gaps': [gap._asdict() for gap in behind],
    },
    config=config,
    trainer=trainer,
    account=account,
    title=f'LLM-Rec on {data.description["name"]}',
    summary=(
      f'{os.path.basename(os.path.normpath(config.model))} ({config.start}),'
      f' tuning {config.tuning}, PaRO {trainer.paro.code}: NDCG@10'
      f' {overall["ndcg@10"]:.4f} among {config.held_out.num_negatives:,} items'
      f' of the domain, {overall["examples"]:,} test examples.'
    ),
    results=rows_of(methods),
    baselines=tuple(others),
    widths=widths_of(methods),
    tables={
      f'Where {NAME} loses, {llm_rec_held_out.KINDS[evaluation.SAMPLED]}': (
        gaps.Gap._fields,
        [gap.row() for gap in behind],
      )
    },
    bars=bars_of(methods),
    scatters={
      'Items of each domain (PCA)': domain_points(
        item_vectors, data.domains, data.domain_names
      )
    },
    panels={
      'loss': {'train': 'loss'},
      'validation': {name: f'validation_{name}' for name in _METRICS},
      'grad norm': {'train': 'grad_norm'},
    },
    throughput={**speed}
    | job_report.medians(
      job_report.read_lines(job.run_dir),
      {'training examples/s': 'examples_per_s'},
    ),
    notes=notes,
    acknowledgement=data.description.get('acknowledgement'),
  )


def _gaps(
  data: SequenceData,
  config: Config,
  ranks: Mapping[str, Mapping[str, np.ndarray]],
) -> list[gaps.Gap]:
  """The run's methods beside the best other one, by kinds of examples."""
  test, cold = llm_rec_held_out.held_out(data, 'test', config.held_out)
  parts = {'test': test.parts | llm_rec_held_out.slices(data, test)}
  if cold is not None:
    parts['cold'] = {_COLD: np.ones(len(cold), bool)}
  found = []
  for split, masks in parts.items():
    gains = {
      method: rank_metrics.by_example(mine[split], [10])['ndcg@10']
      for method, mine in ranks.items()
      if split in mine
    }
    own = [method for method in (NAME, HYBRID) if method in gains]
    found += gaps.gaps(gains, own, masks)
  return found


def rows_of(methods: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A row a method and part of the examples, of parts with examples."""
  return [
    {
      'scenario': scenario,
      'method': method,
      **{metric: values[metric] for metric in _METRICS},
    }
    for scenario, method, values in _scored(methods)
  ]


def widths_of(methods: Mapping[str, Any]) -> dict[tuple[str, str, str], float]:
  """Half the 95% interval of each number of `rows_of`, by its standard error.

  One that has none is left out.
  """
  errors = {
    (scenario, method, metric): values[f'{metric}{rank_metrics.ERROR}']
    for scenario, method, values in _scored(methods)
    for metric in _METRICS
  }
  return {k: 1.96 * x for k, x in errors.items() if x is not None}


def _scored(
  methods: Mapping[str, Any],
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
  """(scenario, method, scores) of the parts with examples."""
  for method, found in methods.items():
    for split, kinds in found.items():
      if split not in ('test', 'cold'):
        continue
      for kind, parts in kinds.items():
        for part, values in parts.items():
          if values['examples'] and (split == 'test' or part == 'all'):
            name = part if split == 'test' else _COLD
            yield f'{name}, {llm_rec_held_out.KINDS[kind]}', method, values


def bars_of(
  methods: Mapping[str, Any], metric: str = 'ndcg@10'
) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
  """Bars by part: all, each domain, and kinds of users and items."""
  panels = {}
  for kind, title in llm_rec_held_out.KINDS.items():
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

  `item_vectors` are float [items, D], `domains` int [items].
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
