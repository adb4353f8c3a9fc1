# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A plan as JSON, as a plot and as a page."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

import matplotlib
import matplotlib.figure
import matplotlib.ticker

from antjax import paths
from antjax.plan.planner import ParoPlan, Row
from antjax.report import page as report_page
from antjax.report import plots as report_plots
from antjax.report.plots import INK, SOFT

# Other names of a code.
KNOWN_AS = {
  'NNN': 'DDP',
  'NNG': 'ZeRO-1',
  'NGG': 'ZeRO-2',
  'III': 'MiCS, HSDP',
  'GGG': 'ZeRO-3, FSDP',
}
# Okabe, Ito 2008: distinguishable with color vision deficiency too.
_FITS, _TOO_LARGE, _BEST = '#0072b2', '#b7bfcc', '#d55e00'


def to_dict(plan: ParoPlan) -> dict[str, Any]:
  """JSON-able settings, rows with their sums, the choice and its reason."""
  return {
    'best': plan.best.code,
    'reason': plan.reason,
    'num_groups': plan.cluster.num_groups,
    'group_size': plan.cluster.group_size,
    'device_bytes': plan.device_bytes,
    'links': dataclasses.asdict(plan.cluster.links),
    'frontier': [row.code for row in plan.frontier()],
    'rows': [
      dataclasses.asdict(row)
      | {
        'state_bytes': row.state_bytes,
        'peak_bytes': row.peak_bytes,
        'intra_bytes_per_step': row.intra_bytes_per_step,
        'inter_bytes_per_step': row.inter_bytes_per_step,
        'is_elastic': row.is_elastic,
      }
      for row in plan.rows
    ],
  }


def figure(plan: ParoPlan) -> matplotlib.figure.Figure:
  """Plot of peak memory against communication, with their frontier."""
  title = 'Memory and communication of each PaRO code'
  result, axes = report_plots.titled(title, 4.8, width=7.6)
  front = plan.frontier()
  axes.step(
    [row.peak_bytes / 1e9 for row in front],
    [_shown(row) for row in front],
    ':',
    where='pre',
    color=SOFT,
    zorder=1,
  )
  order = sorted(plan.rows, key=lambda r: (r.peak_bytes, r.comm_s))
  for i, row in enumerate(order):
    color = _FITS if row.fits else _TOO_LARGE
    if row is plan.best:
      color = _BEST
    x, y = row.peak_bytes / 1e9, _shown(row)
    axes.plot([x], [y], 'o', color=color, markersize=9 if color == _BEST else 6)
    # Neighbors by memory are often close: their names alternate in height.
    up = i % 2 == 0
    axes.annotate(
      row.code,
      (x, y),
      xytext=(0, 8 if up else -8),
      textcoords='offset points',
      ha='center',
      va='bottom' if up else 'top',
      fontsize=8,
      color=INK if row.fits else SOFT,
      fontweight='bold' if color == _BEST else 'normal',
    )
  note: dict[str, Any] = {'ha': 'right', 'fontsize': 8, 'color': SOFT}
  if plan.best.compute_s > 0:
    axes.axhline(plan.best.compute_s, color=SOFT, linewidth=0.8)
    where = axes.get_yaxis_transform()  # x is a share of the width.
    x, y = 1, plan.best.compute_s
    axes.text(x, y, 'computation', va='bottom', transform=where, **note)
  if plan.device_bytes is not None:
    axes.axvline(plan.device_bytes / 1e9, color=SOFT, linewidth=0.8)
    where = axes.get_xaxis_transform()
    x, y, text = plan.device_bytes / 1e9, 1, 'memory of a device '
    axes.text(x, y, text, va='top', rotation=90, transform=where, **note)
  axes.set_xscale('log')
  axes.set_yscale('log')
  for axis in (axes.xaxis, axes.yaxis):
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(_tick))
    axis.set_minor_formatter(matplotlib.ticker.FuncFormatter(_tick))
  axes.set_xlabel('peak memory of a device, GB', color=SOFT)
  axes.set_ylabel('communication in a step, s', color=SOFT)
  axes.margins(0.08, 0.12)
  axes.grid(True, which='both', color='#eef1f6', linewidth=0.6)
  return result


def _tick(value: float, position: int | None) -> str:
  """Plain numbers at 1, 2 and 5 times each power of ten."""
  del position
  return f'{value:g}' if f'{value:e}'[0] in '125' else ''


def _shown(row: Row) -> float:
  """Seconds for a logarithmic axis, which has no zero."""
  return max(row.comm_s, 1e-6)


def html(plan: ParoPlan, facts: Mapping[str, Any]) -> str:
  """The report as one self-contained page: choice, table, plot, facts."""
  head = (
    *('code', 'known as', 'state', 'peak', 'inside groups', 'between groups'),
    *('communication', 'exposed', 'predicted step', 'elastic'),
  )
  rows = []
  for row in plan.rows:
    cells = (
      f'<b>{row.code}</b>' if row is plan.best else row.code,
      KNOWN_AS.get(row.code, ''),
      f'{row.state_bytes / 1e9:,.2f} GB',
      f'{row.peak_bytes / 1e9:,.2f} GB' + ('' if row.fits else ' (too much)'),
      f'{row.intra_bytes_per_step / 1e9:,.2f} GB',
      f'{row.inter_bytes_per_step / 1e9:,.2f} GB',
      f'{row.comm_s:,.3f} s',
      f'{row.exposed_s:,.3f} s',
      f'{row.step_s:,.3f} s',
      'yes' if row.is_elastic else '',
    )
    rows.append(
      '<tr class="first">' + ''.join(f'<td>{c}</td>' for c in cells) + '</tr>'
    )
  note = (
    '<p class="note">Bytes of one device; sent bytes are those of a step. The'
    ' dotted line joins codes that no other beats in both memory and'
    ' communication. Times are predictions from the speeds of the links.</p>'
  )
  sections = (
    report_page.section('All codes', report_page.table(head, rows) + note),
    report_page.section(
      'Memory and communication',
      f'<figure>{report_plots.svg(figure(plan), "plan")}</figure>',
    ),
  )
  return report_page.whole(
    f'PaRO plan: {plan.best.code}',
    plan.reason,
    ', '.join(f'{name} {value}' for name, value in facts.items()),
    sections,
  )


def write(
  plan: ParoPlan, folder: str | pathlib.Path, facts: Mapping[str, Any]
) -> dict[str, pathlib.Path]:
  """Writes plan.json, frontier.png and report.html; returns their paths."""
  folder = paths.local(folder)
  folder.mkdir(parents=True, exist_ok=True)
  files = {
    name: folder / name for name in ('plan.json', 'frontier.png', 'report.html')
  }
  text = json.dumps({'facts': dict(facts)} | to_dict(plan), indent=2)
  files['plan.json'].write_text(text + '\n')
  figure(plan).savefig(files['frontier.png'], dpi=150)
  files['report.html'].write_text(html(plan, facts))
  return files
