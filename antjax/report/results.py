# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The results table of the report, and its shortfalls against baselines."""

from collections.abc import Iterable, Mapping
import math
from typing import Any

from antjax.report import page

_KEYS = ('scenario', 'method')
# Difference that counts as worse without intervals: a share of the baseline.
_CLEAR_SHARE = 0.01
_RULE = (
  'Red: worse than the best baseline of the scenario by more than the 95%'
  ' intervals of the two allow (the root of the sum of their squared half'
  f' widths) or, where there are none, by more than {_CLEAR_SHARE:.0%} of its'
  ' number.'
)
Widths = Mapping[tuple[str, str, str], float]


class Results:
  """Numbers by scenario, method and metric.

  Attributes:
    rows: Scenario -> method -> metric -> number, in the order to show.
    lower_is_better: Metrics whose smaller value is better.
    baselines: Methods that the others are compared with.
    widths: (scenario, method, metric) -> half the width of its 95% interval.
  """

  def __init__(
    self,
    records: Iterable[Mapping[str, Any]],
    lower_is_better: Iterable[str],
    baselines: Iterable[str],
    widths: Widths | None = None,
  ):
    """Indexes dicts with 'scenario', 'method' and numbers by metric.

    Raises:
      ValueError: A record lacks one of the two, or two records share both.
    """
    self.rows: dict[str, dict[str, Mapping[str, float | None]]] = {}
    self.lower_is_better = frozenset(lower_is_better)
    self.baselines = frozenset(baselines)
    self.widths = widths or {}
    for record in records:
      missing = set(_KEYS) - record.keys()
      if missing:
        raise ValueError(
          f'Report(results=): a row lacks {sorted(missing)}; it has '
          f'{sorted(record)}. Each row names its scenario and its method.'
        )
      scenario, method = str(record['scenario']), str(record['method'])
      methods = self.rows.setdefault(scenario, {})
      if method in methods:
        raise ValueError(
          f'Report(results=): two rows for {(scenario, method)}; join them into'
          ' one.'
        )
      methods[method] = {k: v for k, v in record.items() if k not in _KEYS}

  @property
  def metrics(self) -> list[str]:
    every = (row for methods in self.rows.values() for row in methods.values())
    return list(dict.fromkeys(metric for row in every for metric in row))

  def values(self, scenario: str, metric: str) -> dict[str, float]:
    """Method -> its finite number, for methods that have one."""
    found = {m: row.get(metric) for m, row in self.rows[scenario].items()}
    return {
      m: x for m, x in found.items() if x is not None and math.isfinite(x)
    }

  def best(self, values: Mapping[str, float], metric: str) -> str | None:
    """The best method, the first of ties; None if there is none."""
    pick = min if metric in self.lower_is_better else max
    return pick(values, key=lambda method: values[method], default=None)

  def rival(self, scenario: str, method: str, metric: str) -> str | None:
    """The baseline that beats a method (that is not one itself), or None."""
    values = self.values(scenario, metric)
    if method in self.baselines or method not in values:
      return None
    rivals = {m: x for m, x in values.items() if m in self.baselines}
    rival = self.best(rivals, metric)
    if rival is None:
      return None
    pair = {m: values[m] for m in (method, rival)}  # Ties are fine.
    return rival if self.best(pair, metric) == rival else None

  def is_clear(
    self, scenario: str, method: str, rival: str, metric: str
  ) -> bool:
    """Whether two methods differ by more than `_RULE` permits."""
    values = self.values(scenario, metric)
    names = (method, rival)
    widths = [self.widths.get((scenario, m, metric), math.nan) for m in names]
    limit = math.hypot(*widths)
    if math.isnan(limit):
      limit = _CLEAR_SHARE * abs(values[rival])
    return abs(values[method] - values[rival]) > limit

  def num_beaten(self) -> int:
    """Count of numbers worse than the best baseline, clearly or not."""
    return sum(
      self.rival(scenario, method, metric) is not None
      for scenario, methods in self.rows.items()
      for method in methods
      for metric in self.metrics
    )


def shortfalls(results: Results) -> list[str]:
  """Sentences on methods that are clearly worse than the best baseline."""
  return [
    f'{scenario}: {metric} of {method} is'
    f' {results.values(scenario, metric)[method]:.4f}, worse than {rival}'
    f' ({results.values(scenario, metric)[rival]:.4f}).'
    for scenario, methods in results.rows.items()
    for method in methods
    for metric in results.metrics
    if (rival := results.rival(scenario, method, metric)) is not None
    and results.is_clear(scenario, method, rival, metric)
  ]


def section(results: Results) -> str:
  """Returns the section: table, legend and shortfalls."""
  metrics, rows = results.metrics, []
  for scenario, methods in results.rows.items():
    for i, method in enumerate(methods):
      first = tag = ''
      if not i:
        first = (
          f'<th class="scenario" rowspan="{len(methods)}">'
          f'{page.text(scenario)}</th>'
        )
      if method in results.baselines:
        tag = ' <span class="tag">baseline</span>'
      cells = [_cell(results, scenario, method, m) for m in metrics]
      rows.append(
        f'<tr{"" if i else " class=first"}>{first}<td class="method">'
        f'{page.text(method)}{tag}</td>{"".join(cells)}</tr>'
      )
  arrows = ['↓' if m in results.lower_is_better else '↑' for m in metrics]
  head = [
    *_KEYS,
    *(f'{page.text(m)}&nbsp;{a}' for m, a in zip(metrics, arrows)),
  ]
  legend = (
    '<p class="note">↓ lower is better, ↑ higher is better; <b>bold</b>: best '
    'of the scenario.</p>'
  )
  return page.section(
    'Results', page.table(head, rows) + legend + _verdict(results)
  )


def _cell(results: Results, scenario: str, method: str, metric: str) -> str:
  """Returns a cell, bold if it shows the best value, marked if beaten."""
  values = results.values(scenario, metric)
  best = results.best(values, metric)
  if best is None or method not in values:
    return '<td class="number none">-</td>'
  shown = f'{values[method]:.4f}'
  # By shown digits, so that numbers that look equal are styled equally.
  if shown == f'{values[best]:.4f}':
    shown = f'<b>{shown}</b>'
  rival = results.rival(scenario, method, metric)
  if rival is not None and results.is_clear(scenario, method, rival, metric):
    shown += f'<span class="worse">worse than {page.text(rival)}</span>'
  return f'<td class="number">{shown}</td>'


def _verdict(results: Results) -> str:
  if not any(
    results.baselines & {*methods} for methods in results.rows.values()
  ):
    return ''
  worse = shortfalls(results)
  rule = f'<p class="note">{page.text(_RULE)}</p>'
  if trifles := results.num_beaten() - len(worse):
    rule = (
      f'<p class="note">Worse by less: {trifles}'
      f' number{"s" if trifles > 1 else ""}.</p>{rule}'
    )
  if not worse:
    return (
      '<p class="good">No method is clearly worse than a baseline in any'
      f' scenario and metric.</p>{rule}'
    )
  items = ''.join(f'<li>{page.text(sentence)}</li>' for sentence in worse)
  return (
    '<div class="bad"><p>Worse than the best baseline of the scenario in '
    f'{len(worse)} number{"s" if len(worse) > 1 else ""}:</p>'
    f'<ul>{items}</ul></div>{rule}'
  )
