# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Report section on which workers waited, and when actions were taken.

`antjax.Agent` writes a file `timeline.<worker>.jsonl` per worker to the run
folder. Each line is a JSON object, for a worker's step (`step worker end_unix_s
compute_s wait_s num_micro_batches`; it computed for `compute_s`, then waited
for the others for `wait_s`, until `end_unix_s`) or an action (`time action
reason generation`).
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import math
import os
import pathlib
import re
import time
from typing import Any

import matplotlib.patches
import matplotlib.path
import numpy as np

from antjax.report import page
from antjax.report import plots as report_plots

FILE_NAMES = 'timeline*.jsonl'
# More would enlarge the page and be too narrow to see.
_MAX_BLOCKS = 4000
_MAX_WORKERS = 40
_MAX_MARKS = 60
_COMPUTE, _WAIT = '#0072b2', '#f0c987'
_ACTION, _GENERATION = '#d55e00', '#1d2433'


@dataclasses.dataclass(frozen=True)
class TimelineBlock:
  """A step, or several joined ones: computation, then waiting."""

  start_s: float
  end_s: float
  wait_share: float


@dataclasses.dataclass(frozen=True)
class Mark:
  """An action, or (if `is_generation`) the start of a generation."""

  time_s: float
  action: str
  reason: str
  generation: int
  is_generation: bool


@dataclasses.dataclass(frozen=True)
class Timeline:
  """Data of the drawing, of bounded size for any length of the files."""

  start_unix_s: float  # Origin of the times of blocks and marks.
  blocks: Mapping[str, Sequence[TimelineBlock]]  # Blocks of a worker, by time.
  wait_shares: Mapping[str, float]  # Share of a worker's time spent waiting.
  steps_a_block: float  # Mean number of steps per block.
  marks: Sequence[Mark]  # By time.
  num_workers_left_out: int = 0  # In files but not in `blocks`.
  num_marks_left_out: int = 0
  num_damaged: int = 0  # Lines that could not be parsed.

  @property
  def is_joined(self) -> bool:
    """Whether blocks have several steps."""
    return self.steps_a_block > 1.5


def _numbers(record: Mapping[str, Any], *names: str) -> tuple[float, ...]:
  values = tuple(float(record[name]) for name in names)
  # A time a century ahead is invalid, and would hide all others.
  if not all(math.isfinite(value) and 0 <= value < 1e10 for value in values):
    raise ValueError
  return values


@dataclasses.dataclass(frozen=True)
class _Step:
  worker: str
  start_s: float
  end_s: float
  compute_s: float
  wait_s: float

  def joined(self, other: '_Step') -> '_Step':
    return _Step(
      self.worker,
      min(self.start_s, other.start_s),
      max(self.end_s, other.end_s),
      self.compute_s + other.compute_s,
      self.wait_s + other.wait_s,
    )


def _parse(line: str) -> _Step | Mark:
  record = json.loads(line)
  if 'action' in record:
    (time_s,) = _numbers(record, 'time')
    return Mark(
      time_s,
      str(record['action'])[:80],
      str(record.get('reason', ''))[:300],
      int(record.get('generation', 0)),
      is_generation=False,
    )
  end_s, compute_s, wait_s = _numbers(
    record, 'end_unix_s', 'compute_s', 'wait_s'
  )
  start_s = end_s - compute_s - wait_s
  return _Step(str(record['worker'])[:80], start_s, end_s, compute_s, wait_s)


def _lines(folder: pathlib.Path) -> Iterator[_Step | Mark | None]:
  """Yields parsed lines; None for an invalid one."""
  for path in sorted(folder.glob(FILE_NAMES)):
    with path.open(encoding='utf-8', errors='replace') as file:
      for line in file:
        try:
          yield _parse(line)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
          yield None


def read(folder: str | os.PathLike[str]) -> Timeline:
  """Reads a timeline in two passes over the files, with bounded memory.

  Incomplete lines of killed processes are counted and left out. Steps of a long
  run are joined by time; each block then shows their mean.
  """
  folder = pathlib.Path(folder)
  waits: dict[str, list[float]] = {}  # Worker -> compute, wait, steps.
  marks: list[Mark] = []
  first_s, last_s = math.inf, -math.inf
  num_damaged = num_marks = generation = 0
  for entry in _lines(folder):
    if isinstance(entry, _Step):
      sums = waits.setdefault(entry.worker, [0.0, 0.0, 0.0])
      sums[0] += entry.compute_s
      sums[1] += entry.wait_s
      sums[2] += 1
      first_s = min(first_s, entry.start_s)
      last_s = max(last_s, entry.end_s)
    elif entry is None:
      num_damaged += 1
    else:
      is_new = entry.generation > generation > 0
      generation = max(generation, entry.generation)
      num_marks += 1
      if len(marks) < _MAX_MARKS:
        marks.append(dataclasses.replace(entry, is_generation=is_new))
  if not waits:
    first_s = last_s = min((mark.time_s for mark in marks), default=0.0)

  shares = {
    worker: wait_s / (compute_s + wait_s) if compute_s + wait_s else 0.0
    for worker, (compute_s, wait_s, _) in waits.items()
  }
  # Show the workers that the others waited for.
  shown = sorted(shares, key=shares.__getitem__)[:_MAX_WORKERS]
  num_steps = sum(waits[worker][2] for worker in shown)
  num_bins = max(_MAX_BLOCKS // max(len(shown), 1), 1)
  bin_s = max(last_s - first_s, 1e-9) / num_bins
  steps: dict[tuple[str, int], _Step] = {}
  for number, entry in enumerate(_lines(folder)):
    if not isinstance(entry, _Step) or entry.worker not in shown:
      continue
    if num_steps > _MAX_BLOCKS:
      number = min(int((entry.end_s - first_s) / bin_s), num_bins - 1)
    key = entry.worker, number
    steps[key] = steps[key].joined(entry) if key in steps else entry
  blocks: dict[str, list[TimelineBlock]] = {
    worker: [] for worker in sorted(shown, key=_natural)
  }
  for (worker, _), step in steps.items():
    spent_s = step.compute_s + step.wait_s
    share = step.wait_s / spent_s if spent_s else 0.0
    blocks[worker].append(
      TimelineBlock(step.start_s - first_s, step.end_s - first_s, share)
    )
  num_blocks = sum(len(of_worker) for of_worker in blocks.values())
  return Timeline(
    start_unix_s=first_s,
    blocks={
      worker: sorted(of_worker, key=lambda block: block.start_s)
      for worker, of_worker in blocks.items()
    },
    wait_shares=shares,
    steps_a_block=num_steps / num_blocks if num_blocks else 0.0,
    marks=[
      dataclasses.replace(mark, time_s=mark.time_s - first_s)
      for mark in sorted(marks, key=lambda mark: mark.time_s)
    ],
    num_workers_left_out=len(shares) - len(shown),
    num_marks_left_out=num_marks - len(marks),
    num_damaged=num_damaged,
  )


def _natural(name: str) -> list[tuple[int, int, str]]:
  """Sorts w2 before w10."""
  return [
    (0, int(part), '') if part.isdecimal() else (1, 0, part)
    for part in re.split(r'(\d+)', name)
  ]


def plot(timeline: Timeline) -> str:
  """Draws a row per worker and a line per mark, as an <svg> element."""
  workers = list(timeline.blocks)
  height = 1.3 + 0.34 * max(len(workers), 1)
  figure, axes = report_plots.titled('', height, width=11.0)
  for row, worker in enumerate(workers):
    spans = np.array(
      [(b.start_s, b.end_s, b.wait_share) for b in timeline.blocks[worker]]
    )
    start_s, end_s, wait_share = spans.T
    top, bottom = row - 0.34, row + 0.34
    if timeline.is_joined:
      # For many steps, shares: single steps are too narrow to see.
      turn = top + wait_share * (bottom - top)
      _boxes(axes, start_s, end_s, turn, bottom, _COMPUTE)
      _boxes(axes, start_s, end_s, top, turn, _WAIT)
    else:
      turn_s = end_s - wait_share * (end_s - start_s)
      _boxes(axes, start_s, turn_s, top, bottom, _COMPUTE)
      _boxes(axes, turn_s, end_s, top, bottom, _WAIT)
    axes.annotate(
      f'waits {timeline.wait_shares[worker]:.0%}',
      (1.0, row),
      xycoords=('axes fraction', 'data'),
      xytext=(6, 0),
      textcoords='offset points',
      va='center',
      fontsize=9,
      color=report_plots.SOFT,
    )
  for number, mark in enumerate(timeline.marks, start=1):
    color = _GENERATION if mark.is_generation else _ACTION
    axes.axvline(
      mark.time_s,
      color=color,
      linewidth=1.1,
      linestyle='-' if mark.is_generation else '--',
    )
    axes.annotate(
      str(number),
      (mark.time_s, 1.0),
      xycoords=('data', 'axes fraction'),
      # Alternating heights, so that numbers of neighbors do not overlap.
      xytext=(0, 3 if number % 2 else 12),
      textcoords='offset points',
      ha='center',
      fontsize=8,
      color=color,
    )
  # A dollar sign would start math mode.
  names = [name[:40].replace('$', r'\$') for name in workers]
  axes.set_yticks(range(len(workers)), names)
  axes.set_ylim(max(len(workers), 1) - 0.5, -0.5)
  times = [mark.time_s for mark in timeline.marks]
  for of_worker in timeline.blocks.values():
    times += [of_worker[0].start_s, max(block.end_s for block in of_worker)]
  first, last = min(times, default=0.0), max(times, default=0.0)
  margin = 0.005 * (last - first) or 1.0
  axes.set_xlim(first - margin, last + margin)
  axes.set_xlabel('seconds', fontsize=9, color=report_plots.SOFT)
  return report_plots.svg(figure, 'timeline')


def _boxes(
  axes: Any, left: Any, right: Any, top: Any, bottom: Any, color: str
) -> None:
  """Adds boxes as one path: separate patches would make the page large."""
  left, right, top, bottom = np.broadcast_arrays(left, right, top, bottom)
  x = np.stack([left, right, right, left, left], 1)
  points = np.stack([x, np.stack([top, top, bottom, bottom, top], 1)], -1)
  kinds = matplotlib.path.Path
  codes = [kinds.MOVETO, *[kinds.LINETO] * 3, kinds.CLOSEPOLY] * len(left)
  axes.add_patch(
    matplotlib.patches.PathPatch(
      kinds(points.reshape(-1, 2), codes), facecolor=color, linewidth=0
    )
  )


def section(timeline: Timeline) -> str:
  """Returns the section of the report: plot, legend, marks with reasons."""
  if not timeline.blocks:
    return ''
  square = '<span aria-hidden="true" style="color:{}">■</span>'
  words = [
    f'{square.format(_COMPUTE)} computes, {square.format(_WAIT)} waits for '
    'slower workers; the worker that waits least is the one the others wait '
    'for.'
  ]
  if timeline.is_joined:
    words.append(
      f'Each block joins about {timeline.steps_a_block:,.0f} steps: its '
      'height is split by the time they computed and waited.'
    )
  for number, what in (
    (timeline.num_workers_left_out, 'workers, which wait more, are left out'),
    (timeline.num_damaged, 'damaged lines are left out'),
  ):
    if number:
      words.append(f'{number:,} {what}.')
  body = f'<figure>{plot(timeline)}</figure><p class="note">{" ".join(words)}'
  rows = []
  for number, mark in enumerate(timeline.marks, start=1):
    at = time.gmtime(timeline.start_unix_s + mark.time_s)
    rows.append(
      f'<tr><td class="number">{number}</td><td class="number">'
      f'{time.strftime("%H:%M:%S", at)}</td><td>{page.text(mark.action)}</td>'
      f'<td>{page.text(mark.reason)}</td><td class="number">'
      f'{mark.generation or ""}</td></tr>'
    )
  body += '</p>'
  if rows:
    body += page.table(
      ['', 'time (UTC)', 'action', 'reason', 'generation'], rows
    )
  if timeline.num_marks_left_out:
    body += (
      f'<p class="note">and {timeline.num_marks_left_out:,} later ones.</p>'
    )
  return page.section('Who waited for whom', body)
