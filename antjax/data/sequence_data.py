# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads a folder of sequences that launch/prepare_data.py wrote.

Two ways to split users' events, chosen when the folder is opened:

  last    leave-one-out, for all users: the last event of each is the test
          target, the one before it the validation target, both with all that
          came before; training sees the rest. Who has fewer than 3 events is
          trained on only.
  source  the source's own split of users: training sees all events of its
          training users and none of the others, whose last event is the target.
          So test users are new ones.
"""

from collections.abc import Mapping
import functools
import os
import pathlib
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from antjax.data import output_folder
from antjax.data.sequence_events import SequenceEvents

# Shape suffixes: N = items with the padding, U = users, X = examples.

KIND = 'sequences'
SPLITS = ('train', 'validation', 'test')
ITEMS, USERS = 'items.parquet', 'users.parquet'
EVENTS, OFFSETS = 'events.npy', 'offsets.npy'
# Below this a user has no event to hold out beside a history to train on.
MIN_EVENTS = 3

Split = Literal['last', 'source']


class SequenceData:
  """Users' events over all domains, and the items.

  Attributes:
    description: Content of `dataset.json`.
    split: How events are split, see the module.
    domain_names: Name of each domain.
    domains: int32 [N], the domain of each item; -1 for the padding, item 0.
    all_events: All events of all users; histories of any example are in them.
    user_split: int8 [U], the source's own split, a place in `SPLITS`; None
      where it has none.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    description: Mapping[str, Any],
    split: Split,
  ):
    """Use `open`."""
    self._folder = pathlib.Path(folder)
    self.description, self.split = description, split
    self.domain_names = [d['name'] for d in description['domains']]
    items = pq.read_table(self._folder / ITEMS, columns=['domain', 'count'])
    self.domains = items['domain'].to_numpy()
    self._counts = items['count'].to_numpy()
    # The head of an empty array cannot be mapped: such data are not written.
    self.events = np.load(self._folder / EVENTS, mmap_mode='r')
    self.offsets = np.load(self._folder / OFFSETS)
    self.all_events = SequenceEvents(
      self.events, self.offsets[:-1], self.offsets[1:]
    )
    self.user_split = None
    if description['has_user_split']:
      column = pq.read_table(self._folder / USERS, columns=['split'])['split']
      self.user_split = column.to_numpy()

  @classmethod
  def open(
    cls, folder: str | os.PathLike[str], *, split: Split = 'last'
  ) -> 'SequenceData':
    """Opens a folder; events stay on disk until they are asked for.

    Raises:
      FileNotFoundError: There are no prepared data.
      ValueError: They are no sequences, or have no split of their own.
    """
    folder = output_folder.find_view(folder, KIND)
    description = output_folder.load_description(folder)
    if description.get('kind') != KIND:
      raise ValueError(
        f'{folder} holds {description.get("name")}, no sequences;'
        ' launch/prepare_data.py --views=sequences makes them.'
      )
    if split == 'source' and not description['has_user_split']:
      raise ValueError(
        f'split=source: {description["name"]} in {folder} came without a split'
        ' of its users; use split=last.'
      )
    if split not in ('last', 'source'):
      raise ValueError(f'split={split!r}: use last or source.')
    return cls(folder, description, split)

  @property
  def num_users(self) -> int:
    return len(self.offsets) - 1

  @property
  def num_items(self) -> int:
    """Items with the padding, N."""
    return len(self.domains)

  @functools.cached_property
  def titles(self) -> list[str]:
    """Title of each item, [N]; '' for the padding."""
    return self._column(ITEMS, 'title')

  @functools.cached_property
  def keys(self) -> list[str]:
    """Name of each item in the source, [N]."""
    return self._column(ITEMS, 'key')

  @functools.cached_property
  def num_domains(self) -> np.ndarray:
    """int32 [U], domains of each user's events."""
    table = pq.read_table(self._folder / USERS, columns=['num_domains'])
    return table['num_domains'].to_numpy()

  def _column(self, file: str, name: str) -> list[str]:
    return pq.read_table(self._folder / file, columns=[name])[name].to_pylist()

  @functools.cached_property
  def counts(self) -> np.ndarray:
    """int64 [N], events of each item that training sees; 0: a cold item."""
    if self.split == 'last':
      return self._counts
    return self.training().count_items(self.num_items)

  # Splits.

  @functools.cached_property
  def _num_held(self) -> np.ndarray:
    """int64 [U], events at the end that training does not see."""
    lengths = self.all_events.lengths
    if self.split == 'last':
      return np.where(lengths >= MIN_EVENTS, 2, 0)
    return np.where(self.user_split == 0, 0, lengths)

  def training(
    self,
    *,
    only: str = '',
    without: str = '',
    num_users: int = 0,
    seed: int = 0,
  ) -> SequenceEvents:
    """The events that training sees; its examples are all but each first one.

    Args:
      only: Domain that alone is kept; '': all.
      without: Domain to leave out, so that it is new in the test (zero-shot).
      num_users: Users to draw of those with examples in any domain, so that
        models of one domain and of all have the same; 0: all.
      seed: Seed of that sample.

    Raises:
      ValueError: No such domain, or a negative number of users.
    """
    if num_users < 0:
      raise ValueError(f'training(num_users={num_users}): must be 0 or more.')
    whole = self.all_events
    found = SequenceEvents(
      self.events, whole.starts, whole.stops - self._num_held
    )
    users = np.flatnonzero(found.lengths > 1)
    if 0 < num_users < len(users):
      rng = np.random.default_rng(seed)
      users = np.sort(rng.choice(users, num_users, replace=False))
      found = SequenceEvents(
        self.events, found.starts[users], found.stops[users]
      )
    if not (only or without):
      return found
    is_kept = np.ones(self.num_items, bool)
    if only:
      is_kept &= self.domains == self.domain_id(only)
    if without:
      is_kept &= self.domains != self.domain_id(without)
    return found.of_items(is_kept)

  def examples(self, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Examples (user, position) int32 [X] of a split, in the order of users.

    The target is the event at that position of the user's `all_events`.

    Raises:
      ValueError: Another name of a split.
    """
    if split not in SPLITS:
      raise ValueError(f'examples({split!r}): use {", ".join(SPLITS)}.')
    if split == 'train':
      return self.training().examples()
    lengths = self.all_events.lengths
    if self.split == 'last':
      user = np.flatnonzero(lengths >= MIN_EVENTS)
      position = lengths[user] - (1 if split == 'test' else 2)
    else:
      is_mine = self.user_split == SPLITS.index(split)
      user = np.flatnonzero(is_mine & (lengths > 1))
      position = lengths[user] - 1
    return user.astype(np.int32), position.astype(np.int32)

  def domain_id(self, name: str) -> int:
    """Place of a domain in `domain_names`; ValueError if it is not there."""
    if name not in self.domain_names:
      raise ValueError(
        f'domain {name!r}: {self.description["name"]} has'
        f' {", ".join(self.domain_names)}.'
      )
    return self.domain_names.index(name)
