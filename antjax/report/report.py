# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the report of a run as one self-contained HTML page.

`render` is a pure function of a `Report`; nothing is fetched or looked up, so
the page can be rebuilt from saved numbers and opened without a network.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import os
import pathlib
import platform
from typing import Any

import jax

from antjax import paths
from antjax.report import page, timeline
from antjax.report import plots as report_plots
from antjax.report import results as report_results
from antjax.report.timeline import Timeline

FILE_NAME = 'report.html'


def _no_items() -> Any:
  return dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Panel:
  """Lines of (x, value, low, high); low and high may be nan."""

  x_label: str
  lines: dict[str, list[tuple[float, float, float, float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """Everything on the page. Empty parts leave their section out."""

  title: str  # Model and data.
  summary: str = ''  # A sentence or two under the title.
  # One dict a row: 'scenario', 'method' and numbers by metric name; None or nan
  # where there is no value.
  results: Sequence[Mapping[str, Any]] = ()
  lower_is_better: frozenset[str] = frozenset({'MAE', 'RMSE', 'log-loss'})
  baselines: Sequence[str] = ()  # Methods that others are measured against.
  # (scenario, method, metric) -> half the width of its 95% interval.
  widths: report_results.Widths = _no_items()
  # By title, as all panels are; tables have a head, and rows.
  tables: Mapping[str, tuple[Sequence[str], list[list[str]]]] = _no_items()
  intervals: Mapping[str, Panel] = _no_items()
  bars: Mapping[str, report_plots.Bars] = _no_items()
  bar_floors: Mapping[str, float] = (
    _no_items()
  )  # Where an axis begins, if not 0.
  scatters: Mapping[str, report_plots.Points] = _no_items()
  curves: Mapping[str, report_plots.Points] = _no_items()
  throughput: Mapping[str, float] = _no_items()  # By what is counted.
  # One dict a piece: 'device', 'level' (none | intra | global), 'part' and
  # 'bytes'. Pieces of one device, level and part are added up.
  memory: Sequence[Mapping[str, Any]] = ()
  config: Mapping[str, Any] = _no_items()  # Nested dicts of plain values.
  command: str = ''  # That repeats the run.
  revision: str = ''  # Of git; '' if unknown.
  machine: Mapping[str, Any] = _no_items()  # See `describe_machine`.
  date: str = ''  # End of the run, as it should be shown.
  notes: Sequence[str] = ()  # Further sentences.
  timeline: Timeline | None = None  # `write_report` reads it from the folder.


def describe_machine() -> dict[str, str]:
  """Returns the facts of this machine and its devices for `Report.machine`."""
  devices = jax.devices()
  return {
    'devices': f'{len(devices)} x {devices[0].device_kind}',
    'processes': str(jax.process_count()),
    'host': f'{os.cpu_count()} CPU cores, {platform.machine()}',
    'system': platform.platform(),
    'jax': jax.__version__,
    'python': platform.python_version(),
  }


def write_report(
  report: Report, folder: str | os.PathLike[str]
) -> pathlib.Path:
  """Writes `report.html` into the run folder; returns its path."""
  path = paths.local(folder) / FILE_NAME
  path.parent.mkdir(parents=True, exist_ok=True)
  if report.timeline is None and any(path.parent.glob(timeline.FILE_NAMES)):
    report = dataclasses.replace(report, timeline=timeline.read(path.parent))
  # Beside the old page, then renamed: a reader never sees half a page.
  with paths.replaced(path) as new:
    new.write_text(render(report), encoding='utf-8')
  return path


def render(report: Report) -> str:
  """Returns the page. Every text of `report` is escaped.

  Raises:
    ValueError: a row of `results` lacks 'scenario' or 'method', two rows have
      the same ones, or a piece of `memory` lacks a field.
  """
  results = report_results.Results(
    report.results, report.lower_is_better, report.baselines, report.widths
  )
  sections = [
    report_results.section(results) if results.rows else '',
    *(
      page.section(title, page.text_table(*table)) if table[1] else ''
      for title, table in report.tables.items()
    ),
    _details_section(report),
    _curves_section(report),
    _throughput_section(report),
    timeline.section(report.timeline) if report.timeline else '',
    _memory_section(report),
    _repeat_section(report),
    _config_section(report),
  ]
  facts = [report.date, report.revision and f'revision {report.revision}']
  return page.whole(
    report.title,
    report.summary,
    ' · '.join(fact for fact in facts if fact),
    sections,
  )


def _details_section(report: Report) -> str:
  floors = report.bar_floors
  figures = [
    *(
      report_plots.intervals(title, panel.x_label, panel.lines)
      for title, panel in report.intervals.items()
    ),
    *(
      report_plots.bars(title, groups, floors.get(title, 0.0))
      for title, groups in report.bars.items()
    ),
    *(report_plots.scatter(t, points) for t, points in report.scatters.items()),
  ]
  return _figures_section('Results in detail', figures)


def _curves_section(report: Report) -> str:
  figures = []
  for title, lines in report.curves.items():
    if drawn := {name: points for name, points in lines.items() if points}:
      figures.append(report_plots.curves(title, drawn))
  return _figures_section('Training', figures)


def _figures_section(title: str, figures: Sequence[str]) -> str:
  if not figures:
    return ''
  cells = ''.join(f'<figure>{figure}</figure>' for figure in figures)
  return page.section(title, f'<div class="grid">{cells}</div>')


def _throughput_section(report: Report) -> str:
  if not report.throughput:
    return ''
  cards = ''
  for name, value in report.throughput.items():
    shown = f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'
    cards += (
      f'<div class="card"><div class="big">'
      f'{shown if math.isfinite(value) else "-"}</div>{page.text(name)}</div>'
    )
  return page.section('Throughput', f'<div class="cards">{cards}</div>')


def format_bytes(num_bytes: float) -> str:
  """Returns bytes in the unit that leaves 1 to 1023, like '1.5 MiB'."""
  for unit in ('B', 'KiB', 'MiB', 'GiB'):
    if num_bytes < 1024:
      return f'{num_bytes:.3g} {unit}' if unit != 'B' else f'{num_bytes:.0f} B'
    num_bytes /= 1024
  return f'{num_bytes:,.1f} TiB'


def _memory_section(report: Report) -> str:
  if not report.memory:
    return ''
  sums: dict[tuple[str, str], dict[str, int]] = {}
  devices: dict[str, None] = {}
  for piece in report.memory:
    missing = {'device', 'level', 'part', 'bytes'} - piece.keys()
    if missing:
      raise ValueError(
        f'Report(memory=): a piece lacks {sorted(missing)}; it has '
        f'{sorted(piece)}. Give device, level, part and bytes.'
      )
    device = str(piece['device'])
    devices[device] = None
    by_device = sums.setdefault((str(piece['part']), str(piece['level'])), {})
    by_device[device] = by_device.get(device, 0) + int(piece['bytes'])
  total = {d: sum(by.get(d, 0) for by in sums.values()) for d in devices}
  rows = [
    f'<tr><td>{page.text(part)}</td><td>{page.text(level)}</td>'
    f'<td class="number">{format_bytes(max(by_device.values()))}</td>'
    f'<td class="number">{format_bytes(sum(by_device.values()))}</td></tr>'
    for (part, level), by_device in sums.items()
  ] + [
    '<tr class="first"><td><b>all</b></td><td></td>'
    f'<td class="number"><b>{format_bytes(max(total.values()))}</b></td>'
    f'<td class="number"><b>{format_bytes(sum(total.values()))}</b></td></tr>'
  ]
  levels: dict[str, dict[str, int]] = {}
  for (_, level), by_device in sums.items():
    at_level = levels.setdefault(level, dict.fromkeys(devices, 0))
    for device, num_bytes in by_device.items():
      at_level[device] += num_bytes
  plot = report_plots.memory(list(devices), levels)
  note = (
    '<p class="note">Level none: a copy on every device; intra: split inside '
    'a group; global: split over all devices.</p>'
  )
  head = ['part', 'level', 'largest device', 'all devices']
  return page.section(
    'Memory by level',
    f'<div class="grid"><figure>{plot}</figure><div>{page.table(head, rows)}'
    f'</div></div>{note}',
  )


def _repeat_section(report: Report) -> str:
  parts = []
  if report.command:
    parts.append(f'<pre class="command">{page.text(report.command)}</pre>')
  facts = dict(report.machine)
  if report.revision:
    facts['git revision'] = report.revision
  if report.date:
    facts['date'] = report.date
  if facts:
    rows = [
      f'<tr><td class="key">{page.text(name)}</td>'
      f'<td>{page.text(value)}</td></tr>'
      for name, value in facts.items()
    ]
    parts.append(f'<table class="facts"><tbody>{"".join(rows)}</tbody></table>')
  parts += [f'<p class="note">{page.text(note)}</p>' for note in report.notes]
  return page.section('Repeat it', '\n'.join(parts)) if parts else ''


def _config_section(report: Report) -> str:
  text = json.dumps(report.config, indent=2, default=str, ensure_ascii=False)
  shown = (
    f'<details><summary>Show all settings</summary><pre>{page.text(text)}</pre>'
    '</details>'
  )
  return page.section('Configuration', shown) if report.config else ''
