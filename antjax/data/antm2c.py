# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AntM2C's files: the 37 columns, and what a good row holds.

"AntM2C: A Large Scale Dataset For Multi-Scenario Multi-Modal CTR Prediction"
(Huan et al. 2023, arXiv 2308.16437). Column names and types are those that
readers of the public files agree on; what `deep_features_*` mean, and which of
them are numbers, is not published.
"""

import dataclasses
import os
import pathlib
import re
from typing import Annotated

from antjax.data import behavior_examples
from antjax.data.strict_columns import Column
from antjax.data.text_reader import Layout

TEXTS = (
  'bill_entity_seq',
  'service_entity_seq',
  'query_entity_seq',
  'item_entity_names',
)
TITLE = 'item_title'
NUM_FEATURES = 27
COLUMNS = (
  'user_id',
  'item_id',
  'log_time',
  'label',
  *TEXTS,
  TITLE,
  'scene',
  *(f'deep_features_{i}' for i in range(NUM_FEATURES)),
)
_FILE_BITS = 40
_PART = re.compile(r'antm2c.*part', re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Antm2cConfig:
  """What the columns of AntM2C's files hold."""

  numeric: Annotated[
    tuple[int, ...],
    'Which deep_features are numbers; the others are categories. The files do'
    ' not say: these are the choice of a public reader.',
  ] = (14, 19, 20, 21, 22, 23, 24, 25, 26)
  scenes: Annotated[
    tuple[str, ...], 'The values of scene; a row with another one is bad.'
  ] = ('0', '1', '2', '3', '4')
  fill_bad_time: Annotated[
    str,
    'What stands for a log_time that is none, such as 2023-08-01 12:00:00; such'
    ' rows are counted. Empty: they are bad rows.',
  ] = ''

  def __post_init__(self) -> None:
    if not all(0 <= i < NUM_FEATURES for i in self.numeric) or len(
      {*self.numeric}
    ) < len(self.numeric):
      raise ValueError(
        f'numeric={self.numeric}: needed: different numbers from 0 to'
        f' {NUM_FEATURES - 1}.'
      )
    if not self.scenes:
      raise ValueError('scenes is empty: no row would be good.')
    if self.fill_bad_time:
      behavior_examples.moment(self.fill_bad_time)

  @property
  def numeric_columns(self) -> tuple[str, ...]:
    """Columns of numbers."""
    return tuple(f'deep_features_{i}' for i in self.numeric)

  @property
  def categories(self) -> tuple[str, ...]:
    """Columns of categories, the scene first."""
    names = (f'deep_features_{i}' for i in range(NUM_FEATURES))
    return ('scene', *(n for n in names if n not in self.numeric_columns))

  def layout(self) -> Layout:
    """How the files are read: an empty number is 0."""
    columns = dict.fromkeys(COLUMNS, Column())
    number = Column(kind='float32', empty=0)
    columns |= dict.fromkeys(self.numeric_columns, number)
    columns |= dict.fromkeys(('user_id', 'item_id'), Column(is_needed=True))
    moment = self.fill_bad_time
    columns |= {
      'label': Column(kind='int8', values=('0', '1')),
      'scene': Column(values=self.scenes),
      'log_time': Column(
        kind='time',
        empty=behavior_examples.moment(moment) if moment else None,
      ),
    }
    return Layout(columns=columns, header=COLUMNS, file_bits=_FILE_BITS)


def row_number(file: int, record: int) -> int:
  """Number of a row over all files, which no other change of them changes.

  Args:
    file: Place of the file among the parts, from 0.
    record: Place of the record in the file; the header is 0, bad rows count.
  """
  return (file << _FILE_BITS) + record


def find_files(source: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Returns the parts in their order: antm2c_10m_part0, ...

  Args:
    source: One file, or a folder with files antm2c*part* without a suffix.

  Raises:
    FileNotFoundError: No such source, or a folder without parts.
  """
  source = pathlib.Path(source)
  if not source.exists():
    raise FileNotFoundError(f'source={source} does not exist.')
  if source.is_file():
    return [source]
  found = [p for p in source.iterdir() if _PART.match(p.name) and not p.suffix]
  if not found:
    raise FileNotFoundError(
      f'source={source} holds no file antm2c*part*, such as antm2c_10m_part0.'
    )

  def in_order(path: pathlib.Path) -> list[tuple[int, str]]:
    return [
      (int(x), '') if x.isdigit() else (-1, x)
      for x in re.split(r'(\d+)', path.name)
    ]

  return sorted(found, key=in_order)
