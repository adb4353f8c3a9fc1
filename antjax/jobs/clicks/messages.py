# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Messages of a stream as tables: each is one event, a JSON object."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import os
import tempfile
from typing import Any, NamedTuple

from absl import logging
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data.rejects import BadRow, Rejects
from antjax.data.row_writer import ROW
from antjax.data.table_columns import Kind
from antjax.jobs.clicks import score
from antjax.serving.click_loader import ClickScorer


class Messages(NamedTuple):
  """Messages of one partition, in order.

  Attributes:
    where: Topic and partition, `clicks/0`.
    offsets: Their offsets.
    values: Their contents.
    event_s: Time of the newest, in seconds; 0: unknown.
  """

  where: str
  offsets: Sequence[int]
  values: Sequence[bytes | None]
  event_s: float

  @property
  def name(self) -> str:
    """Partition, first offset and last one."""
    return f'{self.where}:{self.offsets[0]}-{self.offsets[-1]}'

  def tables(
    self, model: ClickScorer, rejects: Rejects, labels: Mapping[str, Kind]
  ) -> Iterator[pa.Table]:
    """The good rows; the others are listed by their offsets.

    `ROW` and 1 are the offset.
    """
    about = model.clicks
    needed = [*about['needed'], *labels]
    known = {*needed, *about['columns'], *about['histories']}
    rows, bad = [], []
    for offset, value in zip(self.offsets, self.values, strict=True):
      try:
        rows.append((offset, _row(value, needed, known)))
      except (ValueError, RecursionError) as error:
        bad.append(_bad(offset, error))
    kinds = {n: x['type'] for n, x in about['columns'].items()} | {**labels}
    yield from _parts(rows, model, kinds, labels, bad)
    rejects.add(self.where, sorted(bad, key=lambda row: row.line))
    if bad:
      logging.warning(
        '%s: %d of %d messages are in quarantine, listed in %s.',
        *(self.name, len(bad), len(self.offsets), rejects.path),
      )


_Rows = list[tuple[int, dict[str, Any]]]  # Offsets, and columns.


def _parts(
  rows: _Rows,
  model: ClickScorer,
  kinds: Mapping[str, str],
  labels: Mapping[str, Kind],
  bad: list[BadRow],
) -> Iterator[pa.Table]:
  """Tables of rows; of those that form none each half is read, and so on.

  So a bad message takes no other with it.
  """
  if not rows:
    return
  with tempfile.TemporaryDirectory() as work:
    listed = _Listed(os.path.join(work, 'rejected'), 1.0)
    path = os.path.join(work, 'messages.parquet')
    try:
      pq.write_table(score.from_rows([row for _, row in rows], kinds), path)
      found = [*score.tables(model, path, listed, labels)]
    except (ValueError, TypeError, pa.ArrowException) as error:
      found = []
      if len(listed.rows) < len(rows):  # Else there is no good one.
        if len(rows) == 1:
          bad.append(_bad(rows[0][0], error))
        half = len(rows) // 2
        for some in (rows[:half], rows[half:]) if half else ():
          yield from _parts(some, model, kinds, labels, bad)
        return
  offsets = np.array([offset for offset, _ in rows])
  bad += [
    dataclasses.replace(row, line=int(offsets[row.line - 1]))
    for row in listed.rows
  ]
  for table in found:
    place = table.column_names.index(ROW)
    at = pa.array(offsets[table[ROW].to_numpy()] - 1)
    yield table.set_column(place, ROW, at)


class _Listed(Rejects):
  """Rejects that are told later, with other lines."""

  def __init__(self, path: str, max_share: float):
    super().__init__(path, max_share)
    self.rows: list[BadRow] = []

  def add(self, where: str | os.PathLike[str], rows: Sequence[BadRow]) -> None:
    self.rows += rows


def _bad(offset: int, error: Exception) -> BadRow:
  return BadRow(offset, '', 'message', ' '.join(str(error).split()))


def _row(
  value: bytes | None, needed: Sequence[str], known: set[str]
) -> dict[str, Any]:
  """Columns of a message.

  Raises:
    ValueError: It is no JSON object with the columns that are needed.
  """
  if value is None:
    raise ValueError('the message is empty; needed is a JSON object')
  row = json.loads(value.decode('utf-8'))
  if not isinstance(row, dict):
    raise ValueError('the message is no JSON object')
  if missing := [name for name in needed if name not in row]:
    raise ValueError(f'the message lacks {", ".join(missing)}')
  return {name: x for name, x in row.items() if name in known}
