# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The list of what readers set aside, and how much of it is too much."""

from collections.abc import Sequence
import csv
import dataclasses
import os
import pathlib

from absl import logging

_MAX_TEXT = 2000  # Characters of a malformed line to list.


@dataclasses.dataclass(frozen=True)
class BadRow:
  """A row that is set aside."""

  line: int  # Line of the file in which it begins, from 1; of a table, the row.
  column: str  # Column at fault, '' for the row as a whole.
  reason: str  # One word, to count by.
  message: str  # Description of what is wrong.
  text: str = ''  # The line, '' where there is none.


class Rejects:
  """A CSV file that lists rows set aside, made with the first one."""

  def __init__(self, path: str | os.PathLike[str], max_share: float = 0.001):
    """Accepts up to `max_share` of the rows of a file; see `check`."""
    self.path, self.max_share = pathlib.Path(path), max_share
    self.num_rows = 0  # Listed so far.
    self._first: dict[str, BadRow] = {}

  def add(self, where: str | os.PathLike[str], rows: Sequence[BadRow]) -> None:
    """Lists rows of a file, or of what `where` says."""
    if not rows:
      return
    self._first.setdefault(os.fspath(where), rows[0])
    is_new = not self.path.exists()
    with open(self.path, 'a', newline='', encoding='utf-8') as file:
      # A CR in a text would be a line end without quotes.
      has_cr = any('\r' in row.text for row in rows)
      writer = csv.writer(
        file,
        lineterminator='\n',
        quoting=csv.QUOTE_ALL if has_cr else csv.QUOTE_MINIMAL,
      )
      if is_new:
        names = [field.name for field in dataclasses.fields(BadRow)]
        writer.writerow(('file', *names))
      for row in rows:
        text = row.text[:_MAX_TEXT]
        *values, _ = dataclasses.astuple(row)
        writer.writerow((os.fspath(where), *values, text))
    self.num_rows += len(rows)

  def check(
    self,
    where: str | os.PathLike[str],
    num_bad: int,
    num_rows: int,
    *,
    most: float | None = None,
    why: str = '',
    unit: str = 'lines',
  ) -> None:
    """Refuses too many rows of a file; else warns of any, at its end.

    Before its end the file has `most` rows at most. `why` says what was wrong
    with how many, and `unit` what its rows are.

    Raises:
      ValueError: There are more than `max_share`.
    """
    is_over = most is None
    text = f'{num_bad} of {num_rows} {unit} of {os.fspath(where)}'
    if num_bad > self.max_share * (num_rows if most is None else most):
      first = self._first[os.fspath(where)]
      where_in = f', column {first.column!r}' if first.column else ''
      so_far = '' if is_over else ' so far'
      raise ValueError(
        f'{text}{so_far} are malformed{f" ({why})" if why else ""}, more than'
        f' max_rejected_share={self.max_share:g}; the first is {unit[:-1]}'
        f' {first.line}{where_in}: {" ".join(first.message.split())}. All are'
        f' in {self.path}; correct them or raise max_rejected_share.'
      )
    if num_bad and is_over:
      logging.warning('%s are malformed and set aside in %s.', text, self.path)
