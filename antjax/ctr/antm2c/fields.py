# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of the fields of a click model and of their embedding rows."""

from collections.abc import Sequence
import dataclasses
from typing import Annotated, Literal

from antjax.ctr.antm2c import bags, numbers, times
from antjax.embedding import pooled, rounding
from antjax.networks.fusion import Way

_FIELDS = ('user', 'item', 'title', 'columns', 'numeric', 'history')
MODAL = ('text', 'image')


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldConfig:
  """Data that the model sees, and its tables."""

  use: Annotated[
    tuple[str, ...],
    'Fields that the model sees: user, item, title (by id), columns (all id'
    ' columns), numeric, history; also text and image if vectors are given.',
  ] = _FIELDS
  columns: Annotated[
    tuple[str, ...], 'Id columns to use as fields. Empty: all.'
  ] = ()
  time: Annotated[
    tuple[str, ...],
    f'Any of {", ".join(times.NUM_IDS)}: hour of day (UTC), day of week,'
    " logarithm of the time since the user's previous click. Id columns such"
    ' as time_hour.',
  ] = ()
  bags: Annotated[
    tuple[str, ...],
    'Sequences to use as bags of ids, one field each, such as words of texts'
    ' or multi-valued columns. Pooling is the mean, or as in'
    ' tags,words=attention: mean, sum or attention (by the candidate). A'
    ' pooling alone applies to all other multi-valued columns.',
  ] = ()
  history_columns: Annotated[
    tuple[str, ...],
    'Id columns of the item, such as category, to add to the title of each'
    ' click in histories.',
  ] = ()
  crosses: Annotated[
    tuple[str, ...],
    'Pairs of user, item, title, scenario and id columns, as in user*scenario.'
    ' Each pair is a field with a row for every pair of values.',
  ] = ()
  numbers: Annotated[
    tuple[str, ...],
    'How a number becomes a field: bins (one row per quantile bin), linear (a'
    ' vector times it), log (a vector times its logarithm), autodis (a mixture'
    ' of vectors), or dense (no field; an input of the bottom MLP of dlrm).'
    ' Single columns can differ, as in bins,price=log.',
  ] = ('bins',)
  num_bins: Annotated[int, 'Number of bins per numeric column.'] = 32
  min_count: Annotated[
    int,
    'Minimum number of training clicks for an id, a pair or a value of a bag'
    ' to get its own row. Rarer ones share the unknown row.',
  ] = 1
  hash_buckets: Annotated[
    int,
    'Number of rows per table that rare ids are hashed to. 0: they share the'
    ' unknown row.',
  ] = 0
  knows_scenario: Annotated[
    bool, 'Whether the model sees the scenario, or treats all as one.'
  ] = True
  embedding_dim: Annotated[int, 'Width of a field, D.'] = 16
  dim_rule: Annotated[
    Literal['same', 'auto'],
    'Width of the rows of a table. same: D. auto: 6 n^(1/4) for n ids, at most'
    ' D, with a learned projection to D.',
  ] = 'same'
  optimizer: Annotated[
    Literal['adam', 'rowwise_adagrad'],
    'Optimizer of the touched embedding rows.',
  ] = 'adam'
  learning_rate: Annotated[float, 'Learning rate of the embedding rows.'] = 1e-3
  row_dtype: Annotated[
    rounding.Dtype,
    'Dtype of the embedding rows. bfloat16 takes half the memory, int8 (with a'
    ' unit per row) a quarter; updates are rounded stochastically.',
  ] = 'float32'
  lookup: Annotated[
    pooled.Engine,
    'How rows of bags that are summed or averaged are looked up. xla: gathered,'
    ' then summed. kernel: in one pass, by a kernel of the device (GPUs from'
    ' Hopper on, TPUs with SparseCores; D a multiple of 128), else as xla.',
  ] = 'xla'
  device_rows: Annotated[
    int,
    'Rows of each table on all devices together. Further ones, in float32, are'
    ' in files on a local disk, and those of the next steps are brought ahead:'
    ' so tables may be larger than the memory. 0: all rows.',
  ] = 0
  home: Annotated[
    str,
    'Folder of the files of device_rows. Empty: the folder of the training.',
  ] = ''
  level: Annotated[
    Literal['auto', 'none', 'intra', 'global'],
    'Sharding of the tables: a copy on every device (none), or rows sharded'
    ' over a group (intra) or all devices (global). auto: copies of small'
    ' tables.',
  ] = 'auto'
  init_scale: Annotated[
    float, 'Standard deviation of the initial values of rows.'
  ] = 0.01
  l2: Annotated[
    float,
    'L2 penalty of the rows: half of it times their squared norm is added to'
    ' the sum of the losses of all training examples, as for a Gaussian prior'
    ' of variance 1 / l2.',
  ] = 0.0
  dropout: Annotated[float, 'Dropout rate of the hidden layers.'] = 0.0
  id_dropout: Annotated[
    float,
    'Share of training rows whose user, and separately whose item, is replaced'
    ' by the unknown id, so that its vector is trained for new ones.',
  ] = 0.0
  fusion: Annotated[
    Way,
    'How text and image vectors enter the model: as fields (concat), weighted'
    ' by the ids (gated), or weighted by the scenario (per_scenario).',
  ] = 'concat'

  def __post_init__(self) -> None:
    known = (*_FIELDS, *MODAL)
    if wrong := sorted(set(self.use) - set(known)):
      raise ValueError(
        f'fields.use={self.use}: {wrong} unknown; use {", ".join(known)}.'
      )
    if self.embedding_dim < 1 or not self.learning_rate > 0:
      raise ValueError(
        f'fields.embedding_dim={self.embedding_dim} and fields.learning_rate='
        f'{self.learning_rate} must be positive.'
      )
    if self.home and not self.device_rows:
      raise ValueError(
        f'fields.home={self.home}: nothing is there; say how many rows of a'
        ' table stay on the devices, as in fields.device_rows=1000000.'
      )
    for name in ('dropout', 'id_dropout'):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(
          f'fields.{name}={getattr(self, name)}: must be from 0 to below 1.'
        )
    numbers.ways('fields.numbers', self.numbers, None, numbers.WAYS)
    if self.num_bins < 2:
      raise ValueError(f'fields.num_bins={self.num_bins}: must be at least 2.')
    if wrong := sorted(set(self.time) - set(times.NUM_IDS)):
      raise ValueError(
        f'fields.time={",".join(self.time)}: {", ".join(wrong)} unknown; use'
        f' some of {", ".join(times.NUM_IDS)}.'
      )
    self.ways_of_bags()
    if self.hash_buckets < 0 or (self.hash_buckets and self.min_count < 2):
      raise ValueError(
        f'fields.hash_buckets={self.hash_buckets} and fields.min_count='
        f'{self.min_count}: buckets are for ids below min_count; it must be at'
        ' least 2.'
      )
    if self.l2 < 0 or self.min_count < 1:
      raise ValueError(
        f'fields.l2={self.l2} must not be negative, fields.min_count='
        f'{self.min_count} at least 1.'
      )

  def ways_of_bags(self, columns: Sequence[str] = ()) -> dict[str, str]:
    """Sequence -> its pooling; `columns` are the multi-valued ones."""
    alone = [text for text in self.bags if text in bags.WAYS]
    named = [text for text in self.bags if text not in bags.WAYS]
    texts = [text if '=' in text else f'{text}=mean' for text in named]
    rest, found = numbers.ways('fields.bags', alone + texts, None, bags.WAYS)
    return dict.fromkeys(columns if alone else (), rest) | found
