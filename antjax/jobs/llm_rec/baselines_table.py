# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""table.md of launch/llm_rec_baselines: scores, differences, losses by part."""

from collections.abc import Iterable, Mapping
import pathlib
from typing import Any

import numpy as np

from antjax.data.sequence_data import SequenceData
from antjax.jobs.llm_rec import held_out as llm_rec_held_out
from antjax.jobs.llm_rec.held_out import HeldOut
from antjax.metrics import rank_metrics
from antjax.report import job_report, terminal

_METRIC = 'ndcg@10'
_COLD = 'cold items, apart'


def write(
  run_dir: pathlib.Path,
  found: Mapping[str, Any],
  data: SequenceData,
  test: HeldOut,
) -> None:
  """Writes table.md, of the methods' results and ranks in the run folder."""
  ranks = read_ranks(run_dir, found)
  text = f'{_METRIC}, with standard errors over examples.\n'
  for kind, title in llm_rec_held_out.KINDS.items():
    gains = {m: _gains(mine[kind]) for m, mine in ranks.items()}
    cold = {
      m: _gains(mine[f'cold_{kind}'])
      for m, mine in ranks.items()
      if f'cold_{kind}' in mine
    }
    masks = {part: mask for part, mask in test.parts.items() if mask.any()}
    rows = {
      m: [_mean(x[mask]) for mask in masks.values()]
      + ([_mean(cold[m])] if cold else [])
      for m, x in gains.items()
    }
    names = [f'{part} ({mask.sum():,})' for part, mask in masks.items()]
    names += [_COLD] if cold else []
    text += f'\n{title.capitalize()}:\n\n' + _table(names, rows)
    best = max(gains, key=lambda m: gains[m].mean())
    less = {
      m: [_mean(gains[best][mask] - x[mask]) for mask in masks.values()]
      + ([_mean(cold[best] - cold[m])] if cold else [])
      for m, x in gains.items()
      if m != best
    }
    text += f'\n{best} less the others, paired by examples:\n\n'
    text += _table(names, less)
    slices = llm_rec_held_out.slices(data, test)
    by_slice = {
      m: [_mean(x[mask]) for mask in slices.values()] for m, x in gains.items()
    }
    text += '\nBy training events of the target, and by length of history:\n\n'
    text += _table([f'{k} ({m.sum():,})' for k, m in slices.items()], by_slice)
  seconds = {
    m: [f'{result["wall_s"]:.0f}', f'{result.get("cpu_s", 0):.0f}']
    for m, result in found.items()
  }
  text += '\nSeconds of fitting and ranking:\n\n'
  text += _table(['wall', 'CPU'], seconds)
  (run_dir / 'table.md').write_text(text, encoding='utf-8')


def write_method(
  path: pathlib.Path,
  of_test: tuple[Mapping[str, np.ndarray], HeldOut],
  of_cold: tuple[Mapping[str, np.ndarray] | None, HeldOut | None],
  results: Mapping[str, Any],
) -> None:
  """Writes METHOD.npz, then METHOD.json: the latter says that it is done.

  `of_test` and `of_cold` are ranks by kind and their examples.
  """
  ranks, test = of_test
  arrays: dict[str, Any] = {**ranks, 'users': test.users}
  found = {**results, 'test': llm_rec_held_out.scores(ranks, test)}
  ranks_of_cold, cold = of_cold
  if ranks_of_cold is not None and cold is not None:
    found['cold'] = llm_rec_held_out.scores(ranks_of_cold, cold)
    arrays |= {f'cold_{kind}': x for kind, x in ranks_of_cold.items()}
  np.savez(path.with_suffix('.npz'), **arrays)
  job_report.write_json(path, found)


def read_ranks(
  run_dir: pathlib.Path, methods: Iterable[str]
) -> dict[str, dict[str, np.ndarray]]:
  """Ranks of the methods in a run folder, see `baselines`."""
  ranks = {}
  for method in methods:
    with np.load(run_dir / f'{method}.npz') as arrays:
      ranks[method] = {name: arrays[name] for name in arrays.files}
  return ranks


def _gains(ranks: np.ndarray) -> np.ndarray:
  return rank_metrics.by_example(ranks, [10])[_METRIC]


def _mean(values: np.ndarray) -> str:
  if len(values) < 2:
    return '-'
  return terminal.number(
    values.mean(), values.std(ddof=1) / np.sqrt(len(values))
  )


def _table(names: list[str], rows: Mapping[str, list[str]]) -> str:
  return job_report.markdown(
    ['method', *names], [[method, *cells] for method, cells in rows.items()]
  )
