# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of recommenders, as tables on the terminal."""

from typing import Any

import rich.console
import rich.table

from antjax.ctr.llm_rec import evaluation
from antjax.metrics import rank_metrics

_LOG_WIDTH = 160


def show(found: dict[str, Any], metric: str = 'ndcg@10') -> None:
  """One line a method, one column a part of the examples that has any."""
  console = rich.console.Console()
  if not console.is_terminal:  # A log has room for all columns.
    console = rich.console.Console(width=_LOG_WIDTH)
  for kind, title in (
    (evaluation.SAMPLED, 'among drawn items of the domain'),
    (evaluation.FULL, 'among all items'),
  ):
    rows = {m: _cells(results, kind) for m, results in found.items()}
    first = next(iter(rows.values()))
    parts = [part for part, row in first.items() if row['examples']]
    table = rich.table.Table(title=f'{metric} {title}')
    table.add_column('method', no_wrap=True)
    for part in parts:
      count = first[part]['examples']
      name = part.removeprefix('domain/').replace('_', '\n')
      table.add_column(f'{name}\n({count:,})', justify='right')
    for method, row in rows.items():
      table.add_row(method, *(f'{row[part][metric]:.3f}' for part in parts))
    console.print(table)


def _cells(results: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
  """Part -> scores, with the examples of cold items behind the others."""
  found = dict(results['test'][kind])
  if 'cold' in results:
    found['cold_item,_apart'] = results['cold'][kind][rank_metrics.ALL]
  return found
