# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What of the data a click model sees, and how its rows are trained."""

from collections.abc import Sequence
import dataclasses
from typing import Annotated, Literal

from antjax.ctr.antm2c import bags, numbers, times
from antjax.networks.fusion import Way

_FIELDS = ('user', 'item', 'title', 'columns', 'numeric', 'history')
MODAL = ('text', 'image')


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldConfig:
  """What of the data the model sees, and its tables."""

  use: Annotated[
    tuple[str, ...],
    'user, item, title (its id), columns (all id columns), numeric, history;'
    ' text and image where vectors are given.',
  ] = _FIELDS
  columns: Annotated[
    tuple[str, ...], 'Id columns that are fields; empty: all.'
  ] = ()
  time: Annotated[
    tuple[str, ...],
    f'Some of {", ".join(times.NUM_IDS)} (of day, UTC; of the week; since the'
    " user's click before, by its logarithm): id columns, as time_hour.",
  ] = ()
  bags: Annotated[
    tuple[str, ...],
    'Sequences that are bags of ids, a field each: words of texts, values of'
    ' columns with many. Their pooling is the mean, or as in'
    ' tags,words=attention: mean, sum or attention (by the candidate). A'
    ' pooling alone is that of all other columns with many values.',
  ] = ()
  history_columns: Annotated[
    tuple[str, ...],
    "Id columns of the item, as category, that are beside a click's title in"
    ' histories.',
  ] = ()
  crosses: Annotated[
    tuple[str, ...],
    'Pairs of user, item, title, scenario and id columns that make a field'
    ' each, as user*scenario: each pair of values has a row.',
  ] = ()
  numbers: Annotated[
    tuple[str, ...],
    'How a number becomes a field: bins (a row each quantile bin), linear (a'
    ' vector times it), log (times its logarithm) or autodis (a mixture of'
    ' vectors); or dense, no field: as it is, for the bottom MLP of dlrm, say;'
    ' of single columns another way, as bins,price=log.',
  ] = ('bins',)
  num_bins: Annotated[int, 'Bins of a number.'] = 32
  min_count: Annotated[
    int,
    'Training clicks that an id, a pair or a value of a bag needs for a row of'
    ' its own; the others share the unknown one.',
  ] = 1
  hash_buckets: Annotated[
    int,
    'Rows of each table that ids with too few clicks share, instead of the'
    ' unknown one.',
  ] = 0
  knows_scenario: Annotated[
    bool, 'Whether the model is told the scenario; without, all are one to it.'
  ] = True
  embedding_dim: Annotated[int, 'Width of a field, D.'] = 16
  dim_rule: Annotated[
    Literal['same', 'auto'],
    'same: rows of all tables are D wide. auto: those of n ids are 6 n^(1/4)'
    ' wide, D at most, and a learned map widens them.',
  ] = 'same'
  optimizer: Annotated[
    Literal['adam', 'rowwise_adagrad'], 'Steps the touched rows.'
  ] = 'adam'
  learning_rate: Annotated[float, 'Learning rate of the rows.'] = 1e-3
  row_dtype: Annotated[
    Literal['float32', 'bfloat16'],
    'Type of the rows; bfloat16 takes half the memory, rounded at random.',
  ] = 'float32'
  level: Annotated[
    Literal['auto', 'none', 'intra', 'global'],
    'Where rows live: a copy on every device, or spread over the devices of a'
    ' group or of the job. auto: copies of small tables.',
  ] = 'auto'
  init_scale: Annotated[float, "Standard deviation of new rows' elements."] = (
    0.01
  )
  l2: Annotated[
    float,
    'L2 penalty of the rows: half of it times their squared norm is added to'
    " the sum of the training examples' losses, as by a Gaussian prior of"
    ' variance 1 / l2.',
  ] = 0.0
  dropout: Annotated[
    float, 'Share of the outputs of hidden layers that training drops.'
  ] = 0.0
  id_dropout: Annotated[
    float,
    'Share of training rows whose user, and whose item, is replaced by the'
    ' unknown one, so that its vector means something for new ones.',
  ] = 0.0
  fusion: Annotated[
    Way,
    'How texts and images come in: as fields (concat), weighed by the ids'
    ' (gated), or by the scenario (per_scenario).',
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
    """Sequence -> its pooling; `columns` are those with many values."""
    alone = [text for text in self.bags if text in bags.WAYS]
    named = [text for text in self.bags if text not in bags.WAYS]
    texts = [text if '=' in text else f'{text}=mean' for text in named]
    rest, found = numbers.ways('fields.bags', alone + texts, None, bags.WAYS)
    return dict.fromkeys(columns if alone else (), rest) | found
