# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data sets of Hugging Face `datasets` and of TFDS as sources of records.

Each is a `grain.sources.RandomAccessDataSource`, for `grain.MapDataset.source`,
and a `RecordSource`, for `antjax.Agent.dataset`. A record is a dict of numpy
values, and of `str` where a column holds texts. Neither package is imported
here: pass what they opened.

  rows = datasets.load_dataset('org/name', split='train')
  data = grain.MapDataset.source(HuggingFaceSource(rows)).shuffle(seed=0)

  digits = tfds.data_source('mnist', split='train')
  data = grain.MapDataset.source(TfdsSource(digits)).shuffle(seed=0)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from antjax.data import arrow_columns, record_schema
from antjax.shards.record_source import check_block, Record


class HuggingFaceSource:
  """The rows of a `datasets.Dataset`, in its own dtypes.

  Attributes:
    texts: Columns that hold texts.
  """

  def __init__(self, dataset: Any, columns: Sequence[str] | None = None):
    """Takes columns of one split; None: all.

    Raises:
      ValueError: It is streamed, or of several splits, or has no such column.
    """
    if isinstance(dataset, Mapping) or not hasattr(dataset, 'select_columns'):
      raise _not_one_split('HuggingFaceSource', dataset, 'datasets.Dataset')
    if not hasattr(dataset, '__len__'):
      raise ValueError(
        'HuggingFaceSource: the data set is streamed, so that no row can be'
        ' chosen; load it with streaming=False.'
      )
    if columns is not None:
      dataset = dataset.select_columns(list(columns))
    self._rows = dataset.with_format('arrow')
    fields = {f.name: f.type for f in self._rows.features.arrow_schema}
    self.texts = tuple(
      name
      for name, kind in fields.items()
      if pa.types.is_string(kind) or pa.types.is_large_string(kind)
    )

  def __len__(self) -> int:
    return len(self._rows)

  def __repr__(self) -> str:  # Grain shows it.
    return f'HuggingFaceSource({len(self)} rows)'

  def __getitem__(self, index: int) -> Record:
    return self.__getitems__([index])[0]

  def __getitems__(self, indices: Sequence[int]) -> list[Record]:
    return self._records(self._rows[[int(i) for i in indices]])

  def read(self, start: int, stop: int) -> list[Record]:
    """Returns the records start <= index < stop; see `RecordSource`."""
    check_block(repr(self), start, stop, len(self))
    return self._records(self._rows[start:stop])

  def _records(self, table: pa.Table) -> list[Record]:
    try:
      return arrow_columns.records_from_arrow(table, {})
    except ValueError as error:
      raise ValueError(
        f'{self!r}: {record_schema.one_line(error)} Fill them by map(), leave'
        ' their rows out by filter(), or name other columns=.'
      ) from error


class TfdsSource:
  """The examples of a `tfds.data_source`, texts decoded.

  Attributes:
    texts: Features that are texts.
  """

  def __init__(self, source: Any):
    """Takes one split.

    Raises:
      ValueError: It is something else, e.g. a dict of splits.
    """
    if isinstance(source, Mapping) or not hasattr(source, 'dataset_info'):
      raise _not_one_split(
        'TfdsSource', source, 'tfds.data_source(..., split=...)'
      )
    self._source = source
    self._features = dict(source.dataset_info.features.items())
    # By name: TFDS is not imported.
    self.texts = tuple(
      name
      for name, feature in self._features.items()
      if type(feature).__name__ == 'Text'
    )

  def __len__(self) -> int:
    return len(self._source)

  def __repr__(self) -> str:
    return f'TfdsSource({len(self)} examples)'

  def __getitem__(self, index: int) -> Record:
    return self._record(self._source[int(index)])

  def read(self, start: int, stop: int) -> list[Record]:
    """Returns the records start <= index < stop; see `RecordSource`."""
    check_block(repr(self), start, stop, len(self))
    indices = list(range(start, stop))
    return [self._record(x) for x in self._source.__getitems__(indices)]

  def _record(self, example: Mapping[str, Any]) -> Record:
    return {name: self._value(name, x) for name, x in example.items()}

  def _value(self, name: str, value: Any) -> Any:
    if name in self.texts:
      return value.decode('utf-8') if isinstance(value, bytes) else value
    dtype = getattr(self._features[name], 'np_dtype', None)
    if isinstance(value, Mapping) or isinstance(dtype, Mapping):
      return value
    return np.asarray(value, dtype)


def _not_one_split(name: str, got: Any, needed: str) -> ValueError:
  splits = f' of {", ".join(map(str, got))}' if isinstance(got, Mapping) else ''
  return ValueError(
    f'{name}: got a {type(got).__name__}{splits}; needed: one split, as a'
    f' {needed}.'
  )
