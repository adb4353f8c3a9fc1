# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Common parts of the jobs' reports; each job adds its own."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import datetime
import json
import os
import pathlib
import statistics
from typing import Any, Literal

import rich
import rich.box
import rich.table

from antjax import config as config_lib
from antjax.report import progress, report
from antjax.train.trainer import Trainer

Lines = Sequence[Mapping[str, Any]]
# Panels of a run that trains and validates a click model.
CLICK_CURVES = {
  'loss': {'train': 'loss', 'validation': 'validation_log_loss'},
  'AUC': {
    'validation': 'validation_auc',
    'validation, within users': 'validation_gauc',
  },
  'grad norm': {'train': 'grad_norm'},
}


def write(
  folder: pathlib.Path,
  numbers: Any,
  *,
  config: Any,
  command: str = '',
  trainer: Trainer | None = None,
  notes: Iterable[str] = (),
  acknowledgement: str | None = '',
  **sections: Any,
) -> None:
  """Writes results.json and report.html; says where. On process 0.

  Args:
    folder: Run folder.
    numbers: JSON-able content of results.json; None: no such file.
    config: Settings of the run, a dataclass.
    command: Command that repeats the run.
    trainer: Trainer of the run, for its memory; None: of several runs.
    notes: Further sentences.
    acknowledgement: Whom to acknowledge for the data; '' or None: nobody.
    **sections: Further fields of `report.Report`.
  """
  if numbers is not None:
    write_json(folder / 'results.json', numbers)
  revision = config_lib.git_revision() or {'revision': '', 'dirty': False}
  credits = [f'Data: {acknowledgement}'] if acknowledgement else []
  if trainer is not None:
    sections['memory'] = memory(trainer) + list(sections.get('memory', ()))
  page = report.write_report(
    report.Report(
      config=dataclasses.asdict(config),
      command=command,
      revision=revision['revision'][:12] + '+' * revision['dirty'],
      machine=report.describe_machine(),
      date=f'{datetime.datetime.now():%Y-%m-%d %H:%M}',
      notes=[*notes, *credits],
      **sections,
    ),
    folder,
  )
  rich.print(f'Report: {page}')


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes a JSON file whole or not at all."""
  temporary = path.with_suffix('.new')
  temporary.write_text(json.dumps(content, indent=2), encoding='utf-8')
  os.replace(temporary, path)


def read_lines(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Lines of the metrics log in a folder; none where there is no log."""
  path = folder / progress.METRICS_FILE
  return progress.read_metrics(path) if path.exists() else []


def points(lines: Lines, key: str) -> list[tuple[float, float]]:
  """(step, value) of the lines with a value."""
  return [(r['step'], r[key]) for r in lines if r.get(key) is not None]


def curves(
  lines: Lines, panels: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, list[tuple[float, float]]]]:
  """Panel -> name of a line -> its points, given the metric of each line."""
  return {
    title: {name: points(lines, key) for name, key in named.items()}
    for title, named in panels.items()
  }


def medians(lines: Lines, named: Mapping[str, str]) -> dict[str, float]:
  """Name -> median of a metric over the steps, of those with any value."""
  values = {n: [y for _, y in points(lines, k)] for n, k in named.items()}
  return {name: statistics.median(v) for name, v in values.items() if v}


def memory(trainer: Trainer) -> list[dict[str, Any]]:
  """Bytes of each part of the state on each device, with its level."""
  pieces = []
  for part, size in trainer.bytes_per_device().items():
    if part.startswith('tables/'):
      level = part.split('/')[1].split('_')[0]
    else:
      level = getattr(trainer.paro, part).name.lower()
    pieces += on_devices(trainer, part, level, size)
  return pieces


def on_devices(
  trainer: Trainer, part: str, level: str, size: int
) -> list[dict[str, Any]]:
  """A part of so many bytes on every device."""
  return [
    {'device': device, 'level': level, 'part': part, 'bytes': size}
    for device in range(trainer.mesh.size)
  ]


def memory_notes(planned: Mapping[str, Any]) -> list[str]:
  """Reports a device's memory, as planned and as compiled.

  Args:
    planned: Bytes by name: 'state' (by part), perhaps 'table', 'activations',
      and 'compiled' (empty, or 'arguments' and 'temporary').
  """
  compiled = planned['compiled']
  if not compiled:
    return []
  state = sum(planned['state'].values()) + planned.get('table', 0)
  show = report.format_bytes
  return [
    'Memory of a device, planned and as the compiler has it: state'
    f'{" and table" * ("table" in planned)} {show(state)}, arguments'
    f' {show(compiled["arguments"])}; activations'
    f' {show(planned["activations"])}, temporary'
    f' {show(compiled["temporary"])}.'
  ]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a table as Markdown."""
  lines = [head, ['---'] * len(head), *rows]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def show_table(
  title: str,
  head: Sequence[str],
  rows: Iterable[Sequence[str]],
  *,
  num_left: int = 1,
  show_header: bool = True,
) -> None:
  """Prints a table on the terminal; an empty row begins a new section.

  Args:
    title: Title of the table.
    head: Names of the columns.
    rows: Cells of each row.
    num_left: Columns at the left that are no numbers.
    show_header: Whether the names are shown.
  """
  table = rich.table.Table(title=title, show_header=show_header)
  for i, name in enumerate(head):
    justify: Literal['left', 'right'] = 'left' if i < num_left else 'right'
    table.add_column(name, justify=justify, no_wrap=True)
  for row in rows:
    if row:
      table.add_row(*row)
    else:
      table.add_section()
  rich.print(table)
