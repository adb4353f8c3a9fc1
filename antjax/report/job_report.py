# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Common parts of the jobs' reports; each job adds its own."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import datetime
import json
import math
import pathlib
import resource
import statistics
import sys
from typing import Any

import jax

from antjax import config as config_lib
from antjax import paths
from antjax.report import progress, report, terminal
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
  numbers: Mapping[str, Any] | None,  # None: no results.json.
  *,
  config: Any,  # A dataclass.
  command: str = '',  # Command that repeats the run.
  trainer: Trainer | None = None,  # For code, memory; None: several runs.
  account: Mapping[str, Any] | None = None,  # From `jobs.trainer.account`.
  throughput: Mapping[str, float] | None = None,  # By unit.
  # Title -> name of a line -> its metric in the run's log.
  panels: Mapping[str, Mapping[str, str]] | None = None,
  notes: Iterable[str] = (),
  acknowledgement: str | None = '',  # Of the data; '' or None: none.
  **sections: Any,
) -> None:
  """Writes results.json and report.html on process 0; prints their paths.

  `sections` are further fields of `report.Report`.
  """
  told: dict[str, Any] = {'throughput': dict(throughput or {})}
  notes, pieces = list(notes), list[dict[str, Any]]()
  if trainer is not None:
    told |= {'paro': trainer.paro.code, 'peak_bytes': peak_bytes()}
    pieces = memory(trainer)
  if account is not None and trainer is not None:
    told['memory'] = account
    notes += memory_notes(account)
    if account.get('table'):
      level, size = account['table_level'], account['table']
      pieces += _on_devices(trainer, 'table of behaviors', level, size)
  if acknowledgement:
    notes.append(f'Data: {acknowledgement}')
  if numbers is not None:
    write_json(folder / 'results.json', {**numbers, **told})
  if panels is not None:
    lines = read_lines(folder)
    sections['curves'] = {
      title: {name: points(lines, key) for name, key in named.items()}
      for title, named in panels.items()
    }
  revision = config_lib.git_revision() or {'revision': '', 'dirty': False}
  page = report.write_report(
    report.Report(
      config=dataclasses.asdict(config),
      command=command,
      revision=revision['revision'][:12] + '+' * revision['dirty'],
      machine=report.describe_machine(),
      date=f'{datetime.datetime.now():%Y-%m-%d %H:%M}',
      notes=notes,
      memory=pieces,
      throughput={
        name.replace('_', ' '): x for name, x in told['throughput'].items()
      },
      **sections,
    ),
    folder,
  )
  where = paths.origin(page)
  terminal.show(f'Report: {where if paths.is_url(where) else page}')


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes a JSON file atomically."""
  with paths.replaced(path) as new:
    text = json.dumps(_plain(content), indent=2, allow_nan=False)
    new.write_text(text, encoding='utf-8')


def _plain(value: Any) -> Any:
  """Replaces numbers that are not finite by None, since JSON lacks them."""
  if isinstance(value, Mapping):
    return {name: _plain(x) for name, x in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(x) for x in value]
  is_float = isinstance(value, float)
  return None if is_float and not math.isfinite(value) else value


def read_lines(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Lines of the metrics log in a folder; empty without a log."""
  path = folder / progress.METRICS_FILE
  return progress.read_metrics(path) if path.exists() else []


def points(lines: Lines, key: str) -> list[tuple[float, float]]:
  """(step, value) of the lines with a value."""
  return [(r['step'], r[key]) for r in lines if r.get(key) is not None]


def medians(lines: Lines, named: Mapping[str, str]) -> dict[str, float]:
  """Name -> median of a metric over the steps, for metrics with values."""
  values = {n: [y for _, y in points(lines, k)] for n, k in named.items()}
  return {name: statistics.median(v) for name, v in values.items() if v}


def peak_bytes() -> dict[str, int]:
  """Peak memory of this process and its devices so far.

  Devices without statistics (CPU) are left out; theirs is the process's.
  """
  unit = 1 if sys.platform == 'darwin' else 1024
  found = {'process': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
  for device in jax.local_devices():
    stats = device.memory_stats() or {}
    if 'peak_bytes_in_use' in stats:
      found[f'device {device.id}'] = stats['peak_bytes_in_use']
  return found


def memory(trainer: Trainer) -> list[dict[str, Any]]:
  """Bytes of each part of the state on each device, with its level."""
  pieces = []
  for part, size in trainer.bytes_per_device().items():
    if part.startswith('tables/'):
      level = part.split('/')[1].split('_')[0]
    else:
      level = getattr(trainer.paro, part).name.lower()
    pieces += _on_devices(trainer, part, level, size)
  return pieces


def _on_devices(
  trainer: Trainer, part: str, level: str, size: int
) -> list[dict[str, Any]]:
  return [
    {'device': device, 'level': level, 'part': part, 'bytes': size}
    for device in range(trainer.mesh.size)
  ]


def memory_notes(account: Mapping[str, Any]) -> list[str]:
  """A device's memory as planned and as compiled, if anything was compiled."""
  compiled, show = account['compiled'], report.format_bytes
  if not compiled:
    return []
  state = sum(account['state'].values()) + account.get('table', 0)
  return [
    'Memory of a device, planned and as the compiler has it: state'
    f'{" and table" * ("table" in account)} {show(state)}, arguments'
    f' {show(compiled["arguments"])}; activations'
    f' {show(account["activations"])}, temporary'
    f' {show(compiled["temporary"])}.'
  ]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a table as Markdown."""
  lines = [head, ['---'] * len(head), *rows]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
