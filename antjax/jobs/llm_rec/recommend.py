# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Recommends items for titles with an export of launch/train_llm_rec.py.

  python -m launch.recommend --folder=runs/llm_rec/export \
    --history='Organic green tea bags' --history='Glass tea pot with infuser'

Prints the best items and the time taken. Titles are given oldest first and need
not be in the catalog. Without --history, each line of stdin is a history of
tab-separated titles. --items=new.csv adds items with a title but no events. If
the run fitted a hybrid, the hybrid ranks the items, and each item shows the
contributions of the parts of the score, minus their mean over all items. --json
prints one JSON line per history.
"""

import csv
import dataclasses
import json
import statistics
import sys
import time
from typing import Annotated, Any

from absl import flags
import numpy as np
import rich.table

from antjax import config_values, paths
from antjax.ctr.llm_rec import untrained
from antjax.jobs.llm_rec import export as llm_rec_export
from antjax.report import terminal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What recommends, and how much."""

  folder: Annotated[
    str, 'Folder export of a run of launch/train_llm_rec.', paths.URL
  ] = 'runs/llm_rec/export'
  num: Annotated[int, 'Number of items to recommend.'] = 20
  items: Annotated[
    str,
    'CSV of new items: a column title, optionally domain and key. Empty: none.',
    paths.URL,
  ] = ''
  with_hybrid: Annotated[
    bool, "Rank by the run's hybrid, if any, instead of the model alone."
  ] = True
  repeats: Annotated[
    int, 'Number of times to time the first history after compilation.'
  ] = 20
  json: Annotated[bool, 'Print JSON lines instead of tables.'] = False

  def __post_init__(self) -> None:
    config_values.check_least(self, {'num': 1, 'repeats': 1})


def _show(history: list[str], rows: list[dict[str, Any]]) -> None:
  table = rich.table.Table(title=f'After {history[-1]!r}')
  names = ['score', 'domain', 'title', 'nearest', 'key']
  if 'parts' in rows[0]:
    names.append('parts')
  for name in names:
    table.add_column(name, justify='right' if name == 'score' else 'left')
  for row in rows:
    cells = {**row, 'score': f'{row["score"]:.3f}'}
    if 'parts' in row:
      parts = sorted(row['parts'].items(), key=lambda part: -abs(part[1]))
      cells['parts'] = ', '.join(f'{name} {x:+.1f}' for name, x in parts)
    table.add_row(*(cells[name] for name in names))
  terminal.show(table)


def _new_items(path: str) -> list[dict[str, str]]:
  """Rows of a CSV file with title, domain and key."""
  file = paths.fetched(path, 'items')
  with open(file, encoding='utf-8', newline='') as lines:
    rows = list(csv.DictReader(lines))
  for number, row in enumerate(rows, 2):
    if not (row.get('title') or '').strip():
      raise ValueError(
        f'{path}, line {number}: no title; needed are a column title with one'
        ' in each line, and perhaps columns domain and key.'
      )
  return rows


class _Ranker:
  """Ranks by the hybrid of a folder, or by its model."""

  def __init__(self, config: Config, histories: list[list[str]]):
    self._recommender, self.catalogue = llm_rec_export.read(config.folder)
    new = _new_items(config.items) if config.items else []
    self._add(
      [row['title'] for row in new],
      [row.get('domain') or '' for row in new],
      [row.get('key') or row['title'] for row in new],
    )
    num_items, self._hybrid = len(self.catalogue.titles), None
    self._by_title: dict[str, list[int]] = {}
    if config.with_hybrid:
      # Titles of histories that are no items' count by their texts.
      known = {*self.catalogue.titles}
      given = dict.fromkeys(t for titles in histories for t in titles)
      other = [title for title in given if title not in known]
      self._add(other, [''] * len(other), other)
      self._hybrid = llm_rec_export.read_hybrid(
        config.folder, self._recommender, self.catalogue
      )
    self._is_item = np.arange(len(self.catalogue.titles)) < num_items
    self._is_item[0] = False
    for item, title in enumerate(self.catalogue.titles):
      self._by_title.setdefault(title, []).append(item)

  def _add(
    self, titles: list[str], domains: list[str], keys: list[str]
  ) -> None:
    if titles:
      self._recommender.add(titles)
      self.catalogue.titles.extend(titles)
      self.catalogue.domains.extend(domains)
      self.catalogue.keys.extend(keys)

  def __call__(self, history: list[str], num: int) -> list[dict[str, Any]]:
    """The best items, best first."""
    vectors = np.asarray(self._recommender.item_vectors)
    best: list[tuple[int, float, dict[str, float] | None]]
    if self._hybrid is None:
      (found,) = self._recommender([history], num)
      best = [(item, score, None) for item, score in found]
    else:
      ids = [self._by_title[title][0] for title in history]
      parts = {
        name: x[0] - x[0, self._is_item].mean()
        for name, x in self._hybrid.by_part(np.array([ids])).items()
      }
      scores = np.where(self._is_item, sum(parts.values()), -np.inf)
      scores[[i for title in history for i in self._by_title[title]]] = -np.inf
      best = [
        (
          i,
          scores[i],
          {name: round(float(x[i]), 3) for name, x in parts.items()},
        )
        for i in np.argsort(-scores)[:num].tolist()
        if scores[i] > -np.inf
      ]
    mine = untrained.unit(self._recommender.title_vectors(history))
    return [
      {
        'key': self.catalogue.keys[item],
        'title': self.catalogue.titles[item],
        'domain': self.catalogue.domains[item],
        'score': round(float(score), 4),
        'nearest': history[int(np.argmax(mine @ vectors[item]))],
        **({} if of_parts is None else {'parts': of_parts}),
      }
      for item, score, of_parts in best
    ]


def define_flags() -> None:
  """Flags that are no part of the config."""
  flags.DEFINE_multi_string(
    'history', [], 'A title; several times, oldest first. None: stdin is read.'
  )


def main(config: Config) -> None:
  given = list(flags.FLAGS.history)  # Titles have commas: no list flag.
  histories = [given] if given else []
  if not histories:
    lines = (line.rstrip('\n') for line in sys.stdin)
    histories = [line.split('\t') for line in lines if line]
  if not histories:
    raise ValueError('no history: give --history, or lines of titles on stdin.')
  ranker = _Ranker(config, histories)
  for history in histories:
    rows = ranker(history, config.num)
    if config.json:
      print(json.dumps({'history': history, 'items': rows}), flush=True)
    else:
      _show(history, rows)
  times_ms = []
  for _ in range(config.repeats):  # All is compiled.
    start = time.perf_counter()
    ranker(histories[0], config.num)
    times_ms.append(1e3 * (time.perf_counter() - start))
  times_ms.sort()
  last = times_ms[min(len(times_ms) - 1, int(0.95 * len(times_ms)))]
  print(
    f'A history takes {round(statistics.median(times_ms), 2)} ms (median of'
    f' {config.repeats}; 95th percentile {round(last, 2)} ms).',
    file=sys.stderr,
  )
