# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables of fewer rows than a feature has values, of which frequent ones win.

Ids of the data are then keys, which the processes of a job share.
"""

from collections.abc import Mapping
import dataclasses
from typing import Annotated, Any, Literal

import numpy as np

from antjax.embedding.key_store import KeyStore, KeyStoreConfig
from antjax.embedding.table import EmbeddingTables
from antjax.train.checkpoint import Checkpointer
from antjax.train.keys import Keys

Features = Mapping[str, Mapping[str, int]]
_LEAST = 128  # Slots of a part, or more.


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeysConfig:
  """Features whose values get rows as they are seen in training."""

  rows: Annotated[
    tuple[str, ...],
    'Features and the rows of their tables, e.g. item=50000. Values get rows as'
    ' they are seen; each process holds a part of them. Other features have a'
    ' row per value.',
  ] = ()
  min_count: Annotated[
    int, 'Number of times a value must be seen to get a row.'
  ] = 1
  eviction: Annotated[
    Literal['none', 'ttl', 'lfu'],
    'Which values lose their rows if there is none left: none; those not seen'
    ' for keys.ttl steps; or the less frequent ones.',
  ] = 'none'
  ttl: Annotated[int, 'Number of steps, for keys.eviction=ttl.'] = 0

  def __post_init__(self) -> None:
    self._configs()  # Checks the values.

  def stores(self) -> dict[str, KeyStore]:
    """Feature -> an empty store of its keys, of this process."""
    return {name: KeyStore(one) for name, one in self._configs().items()}

  def _configs(self) -> dict[str, KeyStoreConfig]:
    found = {}
    for text in self.rows:
      name, equals, value = text.partition('=')
      if not equals or not value.isdecimal() or int(value) < 2:
        raise ValueError(
          f'keys.rows={text}: say feature=rows, 2 rows or more; one of them is'
          ' for what is unknown.'
        )
      num_rows = int(value)
      found[name] = KeyStoreConfig(
        num_ids=num_rows,
        num_parts=max(1, min(KeyStoreConfig.num_parts, num_rows // _LEAST)),
        min_count=self.min_count,
        eviction=self.eviction,
        ttl=self.ttl,
        unknown_key=0,
      )
    return found

  def of(self, features: Features) -> dict[str, Mapping[str, int]]:
    """The features of a data set with the rows that they have here.

    Raises:
      ValueError: It has no such feature.
    """
    num_rows = {name: one.num_ids for name, one in self._configs().items()}
    if unknown := sorted({*num_rows} - {*features}):
      raise ValueError(
        f'keys.rows={",".join(self.rows)}: the data set has no'
        f' {", ".join(unknown)}; it has {", ".join(features)}.'
      )
    return {
      name: {**facts, 'num_ids': num_rows.get(name, facts['num_ids'])}
      for name, facts in features.items()
    }

  def by_id(
    self,
    rows: Mapping[str, Any],
    features: Features,
    tables: EmbeddingTables,
    saver: Checkpointer,
    step: int,
  ) -> dict[str, Any]:
    """Tables of a checkpoint with a row for each id of the data."""
    stores = self.stores()
    saver.restore_keys(step, Keys(stores, tables))
    found = dict(rows)
    for name, store in stores.items():
      ids = store.lookup(np.arange(features[name]['num_ids']))
      found[name] = np.asarray(rows[name])[ids]
    return found
