# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Features of clicks, based on statistics of training."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
from typing import Self

import numpy as np

from antjax.ctr.antm2c.crosses import Cross
from antjax.ctr.antm2c.fields import FieldConfig
from antjax.ctr.antm2c.numbers import Numbers, WAYS, ways

# Shape suffixes: N = clicks, K = numbers, V = ids of the data.

FIRST = ('user', 'item', 'title', 'scenario')
Chunks = Callable[[], Iterable[tuple[Mapping[str, np.ndarray], np.ndarray]]]
_TITLES = 2  # Padding and the unknown title keep their ids.


@dataclasses.dataclass(frozen=True, eq=False)
class Frequent:
  """Ids with their own rows; rare ids share the unknown row."""

  ids_V: np.ndarray  # int32, id in the data -> id in the model.
  num_ids: int  # Number of ids in the model.

  @classmethod
  def fit(
    cls, counts_V: np.ndarray, config: FieldConfig, *, num_fixed: int = 1
  ) -> Self:
    """Keeps the ids with enough training clicks, `counts_V`.

    The first `num_fixed` ids are kept; the last one of them is unknown.
    """
    is_kept, num_ids = counts_V >= config.min_count, len(counts_V)
    is_kept[:num_fixed] = False
    num_kept = int(is_kept.sum())
    first = num_fixed + config.hash_buckets
    found = np.full(num_ids, num_fixed - 1)
    if config.hash_buckets:  # Knuth's multiplicative hash, as ids are sorted.
      mixed = (np.arange(num_ids) * 2654435761 % (1 << 32)) >> 8
      found = num_fixed + mixed % config.hash_buckets
    found[:num_fixed] = np.arange(num_fixed)
    found[is_kept] = first + np.arange(num_kept)
    return cls(found.astype(np.int32), first + num_kept)


@dataclasses.dataclass(frozen=True, eq=False)
class ClickFeatures:
  """The id columns and the numbers of clicks."""

  # Id column -> number of its ids, for user, item, title and fields.
  num_ids: Mapping[str, int]
  # Id column -> its frequent ids, if rare ones are merged.
  frequent: Mapping[str, Frequent]
  crosses: tuple[Cross, ...]  # Pairs of columns.
  numbers: Numbers  # Numeric columns.

  @classmethod
  def fit(
    cls,
    config: FieldConfig,
    num_ids: Mapping[str, int],
    chunks: Chunks,
    num_clicks: int,
    numbers: Sequence[str],
  ) -> Self:
    """Reads the training clicks, and twice more for each cross.

    Args:
      config: Settings of the fields.
      num_ids: Column -> number of its ids in the data: user, item, title, and
        columns that are fields.
      chunks: Function that yields chunks: column -> its ids, int [n], including
        the scenario and columns only in crosses, and numbers [n, K].
      num_clicks: Number of training clicks, N.
      numbers: Names of the numeric columns.

    Raises:
      ValueError: A column in the settings does not exist.
    """
    counts = {}
    if config.min_count > 1:
      counts = {n: np.zeros(num, np.int64) for n, num in num_ids.items()}

    def values() -> Iterator[np.ndarray]:
      for ids, values_NK in chunks():
        for name, counts_V in counts.items():
          np.add.at(counts_V, ids[name], 1)
        yield values_NK

    rest, own = ways('fields.numbers', config.numbers, numbers, WAYS)
    number_ways = {name: own.get(name, rest) for name in numbers}
    read = Numbers.fit(number_ways, values(), num_clicks, config.num_bins)
    frequent = {
      name: Frequent.fit(
        counts_V, config, num_fixed=_TITLES if name == 'title' else 1
      )
      for name, counts_V in counts.items()
    }
    crosses = tuple(
      Cross.fit(text, lambda: (ids for ids, _ in chunks()), config.min_count)
      for text in config.crosses
    )
    every = {
      **{n: frequent[n].num_ids if frequent else x for n, x in num_ids.items()},
      **{cross.name: cross.num_ids for cross in crosses},
      **read.num_ids,
    }
    return cls(every, frequent, crosses, read)

  @property
  def titles(self) -> np.ndarray | None:
    """Title of the data -> title of the model [V]; None: equal."""
    return self.frequent['title'].ids_V if self.frequent else None

  @property
  def columns(self) -> dict[str, int]:
    """Id column other than `FIRST` -> number of its ids."""
    return {n: x for n, x in self.num_ids.items() if n not in FIRST}

  def __call__(
    self, ids: Mapping[str, np.ndarray], values_NK: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Column -> int [N]: `FIRST`, then `columns`; titles are unchanged."""
    made = {cross.name: cross(ids) for cross in self.crosses}
    made |= self.numbers.bins(values_NK)
    found = {}
    for name in (*FIRST, *self.columns):
      found[name] = made[name] if name in made else ids[name]
      if name in self.frequent and name != 'title':
        found[name] = self.frequent[name].ids_V[found[name]]
    return found


def by_title(
  names: Sequence[str],
  features: ClickFeatures,
  chunks: Chunks,
  num_behaviors: int,
) -> dict[str, np.ndarray]:
  """Column -> its id for each title [V], from the last training click.

  Raises:
    ValueError: A column is unknown.
  """
  found = {}
  for name in names:
    if name not in features.columns:
      raise ValueError(
        f'fields.history_columns={name}: the data have the id columns'
        f' {", ".join(features.columns) or "none"}; name some of them.'
      )
    found[name] = np.zeros(num_behaviors, np.int32)
  for ids, values_NK in chunks() if found else ():
    fed = features(ids, values_NK)
    for name, ids_V in found.items():
      ids_V[fed['title']] = fed[name]
  return found
