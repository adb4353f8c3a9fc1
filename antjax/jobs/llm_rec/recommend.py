# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Recommends items by titles, with what launch/train_llm_rec.py exported.

  python -m launch.recommend --folder=runs/llm_rec/export \
    --history='Organic green tea bags' --history='Glass tea pot with infuser'

prints the best items, and how long it took; titles are given oldest first and
need not be of the catalog. Without --history each line of stdin is a history:
titles with tabs between them. --json prints a JSON line a history.
"""

import dataclasses
import json
import statistics
import sys
import time
from typing import Annotated, Any

from absl import flags
import rich.table

from antjax import paths
from antjax.jobs.llm_rec import export as llm_rec_export
from antjax.report import terminal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What recommends, and how much."""

  folder: Annotated[
    str, 'Folder export of a run of launch/train_llm_rec.', paths.URL
  ] = 'runs/llm_rec/export'
  num: Annotated[int, 'Items to recommend.'] = 10
  repeats: Annotated[
    int, 'Times that the first history is timed, when all is compiled.'
  ] = 20
  json: Annotated[bool, 'Print JSON lines, not tables.'] = False

  def __post_init__(self) -> None:
    if self.num < 1 or self.repeats < 1:
      raise ValueError(
        f'num={self.num} and repeats={self.repeats} must be at least 1.'
      )


def _show(history: list[str], rows: list[dict[str, Any]]) -> None:
  table = rich.table.Table(title=f'After {history[-1]!r}')
  for name in ('score', 'domain', 'title', 'key'):
    table.add_column(name, justify='right' if name == 'score' else 'left')
  for row in rows:
    table.add_row(
      f'{row["score"]:.3f}', row['domain'], row['title'], row['key']
    )
  terminal.show(table)


def define_flags() -> None:
  """Flags that are no part of the config."""
  flags.DEFINE_multi_string(
    'history', [], 'A title; several times, oldest first. None: stdin is read.'
  )


def main(config: Config) -> None:
  recommender, catalogue = llm_rec_export.read(config.folder)
  given = list(flags.FLAGS.history)  # Titles have commas: no list flag.
  histories = [given] if given else []
  if not histories:
    lines = (line.rstrip('\n') for line in sys.stdin)
    histories = [line.split('\t') for line in lines if line]
  if not histories:
    raise ValueError('no history: give --history, or lines of titles on stdin.')
  for history in histories:
    (found,) = recommender([history], config.num)
    rows = [
      {
        'key': catalogue.keys[item],
        'title': catalogue.titles[item],
        'domain': catalogue.domains[item],
        'score': round(score, 4),
      }
      for item, score in found
    ]
    if config.json:
      print(json.dumps({'history': history, 'items': rows}), flush=True)
    else:
      _show(history, rows)
  times_ms = []
  for _ in range(config.repeats):  # All is compiled.
    start = time.perf_counter()
    recommender(histories[:1], config.num)
    times_ms.append(1e3 * (time.perf_counter() - start))
  times_ms.sort()
  last = times_ms[min(len(times_ms) - 1, int(0.95 * len(times_ms)))]
  print(
    f'A history takes {round(statistics.median(times_ms), 2)} ms (median of'
    f' {config.repeats}; 95th percentile {round(last, 2)} ms).',
    file=sys.stderr,
  )
