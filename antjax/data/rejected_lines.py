# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Lists of malformed lines, and one list where several steps make one each."""

import csv
import pathlib

from antjax.data import delimited


def put_aside(rejected: pathlib.Path, name: str) -> None:
  """Puts the list of a step aside: the next one writes the file anew.

  Args:
    rejected: The CSV file, which need not exist.
    name: Of the step.
  """
  if rejected.exists():
    rejected.rename(rejected.with_name(f'rejected-{name}.csv'))


def join(rejected: pathlib.Path) -> None:
  """Makes one list of those that were put aside, if any."""
  parts = sorted(rejected.parent.glob('rejected-*.csv'))
  texts = [part.read_text(encoding='utf-8') for part in parts]
  if texts:
    header = texts[0].partition('\n')[0] + '\n'
    rest = [text.partition('\n')[2] for text in texts]
    rejected.write_text(header + ''.join(rest), encoding='utf-8')


class BadLines:
  """Lists malformed lines of small text files in a CSV file.

  Attributes:
    num_lines: How many there are so far.
  """

  def __init__(self, path: pathlib.Path):
    """The file is made with the first line."""
    self.num_lines = 0
    self._path = path

  def add(self, file: pathlib.Path, line: int, why: str, text: str) -> None:
    """Adds a line."""
    with open(self._path, 'a', newline='', encoding='utf-8') as out:
      writer = csv.writer(out, lineterminator='\n')
      if not self.num_lines:
        writer.writerow(delimited.REJECTED_COLUMNS)
      writer.writerow((file, line, 'items', 'line', why, text))
    self.num_lines += 1

  def close(
    self, num_lines: int, where: str, max_rejected_share: float
  ) -> None:
    """Raises ValueError if there are too many of `num_lines`."""
    if self.num_lines > max_rejected_share * num_lines:
      raise ValueError(
        f'{self.num_lines} of {num_lines} lines of {where} are malformed, more'
        f' than max_rejected_share={max_rejected_share:g}. All are in'
        f' {self._path}; correct them or raise max_rejected_share.'
      )
