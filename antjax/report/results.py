# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The results table of the report, and where it falls short of a baseline."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math
from typing import Any

from antjax.report import page

_KEYS = ('scenario', 'method')


@dataclasses.dataclass(frozen=True)
class Results:
  """Numbers by scenario, method and metric.

  Attributes:
    rows: (scenario, method) -> metric -> number, in the order to show.
    lower_is_better: Metrics whose smaller value is better.
    baselines: Methods that the others are measured against.
  """

  rows: Mapping[tuple[str, str], Mapping[str, float | None]]
  lower_is_better: frozenset[str]
  baselines: frozenset[str]

  @classmethod
  def from_records(
    cls,
    records: Iterable[Mapping[str, Any]],
    lower_is_better: Iterable[str],
    baselines: Iterable[str],
  ) -> 'Results':
    """Indexes dicts that hold 'scenario', 'method' and numbers by metric.

    Raises:
      ValueError: a record lacks one of the two, or two records share both.
    """
    rows: dict[tuple[str, str], Mapping[str, float | None]] = {}
    for record in records:
      missing = set(_KEYS) - record.keys()
      if missing:
        raise ValueError(
          f'Report(results=): a row lacks {sorted(missing)}; it has '
          f'{sorted(record)}. Each row names its scenario and its method.'
        )
      key = str(record['scenario']), str(record['method'])
      if key in rows:
        raise ValueError(
          f'Report(results=): two rows for {key}; join them into one.'
        )
      rows[key] = {k: v for k, v in record.items() if k not in _KEYS}
    return cls(rows, frozenset(lower_is_better), frozenset(baselines))

  @property
  def scenarios(self) -> list[str]:
    return list(dict.fromkeys(scenario for scenario, _ in self.rows))

  @property
  def metrics(self) -> list[str]:
    return list(dict.fromkeys(m for row in self.rows.values() for m in row))

  def methods(self, scenario: str) -> list[str]:
    return [method for name, method in self.rows if name == scenario]

  def value(self, scenario: str, method: str, metric: str) -> float | None:
    """Returns a finite number or None."""
    value = self.rows[scenario, method].get(metric)
    return value if value is not None and math.isfinite(value) else None

  def best(
    self, scenario: str, metric: str, methods: Iterable[str]
  ) -> str | None:
    """Returns the best of these methods, or None if none has a value."""
    values = {m: self.value(scenario, m, metric) for m in methods}
    known = {m: v for m, v in values.items() if v is not None}
    if not known:
      return None
    pick = min if metric in self.lower_is_better else max
    return pick(known, key=lambda method: known[method])

  def beaten_by(self, scenario: str, method: str, metric: str) -> str | None:
    """Returns the baseline that beats a method that is none, or None."""
    if method in self.baselines or self.value(scenario, method, metric) is None:
      return None
    rivals = [m for m in self.methods(scenario) if m in self.baselines]
    rival = self.best(scenario, metric, rivals)
    if rival is None or self.best(scenario, metric, [method, rival]) == method:
      return None  # `best` takes the first of two equal ones: no defeat.
    return rival


def shortfalls(results: Results) -> list[str]:
  """Says, a sentence each, where a method is worse than the best baseline."""
  sentences = []
  for scenario, method in results.rows:
    for metric in results.metrics:
      rival = results.beaten_by(scenario, method, metric)
      if rival is not None:
        ours = results.value(scenario, method, metric)
        best = results.value(scenario, rival, metric)
        sentences.append(
          f'{scenario}: {metric} of {method} is {ours:.4f}, worse than '
          f'{rival} ({best:.4f}).'
        )
  return sentences


def section(results: Results) -> str:
  """Returns the section: table, legend, and what falls short."""
  rows = [
    row
    for scenario in results.scenarios
    for row in _scenario_rows(results, scenario)
  ]
  head = list(_KEYS)
  for metric in results.metrics:
    arrow = '↓' if metric in results.lower_is_better else '↑'
    head.append(f'{page.text(metric)}&nbsp;{arrow}')
  legend = (
    '<p class="note">↓ lower is better, ↑ higher is better; <b>bold</b>: best '
    'of the scenario.</p>'
  )
  return page.section(
    'Results', page.table(head, rows) + legend + _verdict(results)
  )


def _scenario_rows(results: Results, scenario: str) -> Sequence[str]:
  methods = results.methods(scenario)
  best = {
    metric: results.best(scenario, metric, methods)
    for metric in results.metrics
  }
  rows = []
  for i, method in enumerate(methods):
    cells = []
    if i == 0:
      cells.append(
        f'<th class="scenario" rowspan="{len(methods)}">'
        f'{page.text(scenario)}</th>'
      )
    tag = ''
    if method in results.baselines:
      tag = ' <span class="tag">baseline</span>'
    cells.append(f'<td class="method">{page.text(method)}{tag}</td>')
    for metric in results.metrics:
      cells.append(_number(results, scenario, method, metric, best[metric]))
    rows.append(f'<tr{" class=first" if i == 0 else ""}>{"".join(cells)}</tr>')
  return rows


def _number(
  results: Results, scenario: str, method: str, metric: str, best: str | None
) -> str:
  """Returns a cell: bold if it shows the best value, marked if beaten."""
  value = results.value(scenario, method, metric)
  if value is None or best is None:
    return '<td class="number none">-</td>'
  shown = f'{value:.4f}'
  # By what is shown, so that two equal numbers are not set apart.
  if shown == f'{results.value(scenario, best, metric):.4f}':
    shown = f'<b>{shown}</b>'
  rival = results.beaten_by(scenario, method, metric)
  if rival is not None:
    shown += f'<span class="worse">worse than {page.text(rival)}</span>'
  return f'<td class="number">{shown}</td>'


def _verdict(results: Results) -> str:
  if not any(method in results.baselines for _, method in results.rows):
    return ''
  worse = shortfalls(results)
  if not worse:
    return (
      '<p class="good">No method is worse than a baseline in any scenario '
      'and metric.</p>'
    )
  items = ''.join(f'<li>{page.text(sentence)}</li>' for sentence in worse)
  return (
    '<div class="bad"><p>Worse than the best baseline of the scenario in '
    f'{len(worse)} number{"s" if len(worse) > 1 else ""}:</p>'
    f'<ul>{items}</ul></div>'
  )
