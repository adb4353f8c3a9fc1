# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of batches of episodes."""

from collections.abc import Mapping
import dataclasses
from typing import Literal

import numpy as np


@dataclasses.dataclass(frozen=True)
class Bucket:
  """Task slots of one size."""

  support_size: int  # Number of support rows per slot, S.
  # Slots per batch of this process, T; a multiple of its devices times the
  # micro-batches.
  num_slots: int

  @property
  def name(self) -> str:
    """The bucket's key in a batch."""
    return f's{self.support_size}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
  """Settings by which records become batches."""

  buckets: tuple[Bucket, ...]  # Buckets of slots, by ascending support size.
  # Feature -> maximum number of its values (1: one id per row; more: a list of
  # ids, padded with -1). A scalar feature of a record applies to all its rows.
  features: Mapping[str, int]
  # Names of float columns, stacked to the input 'numeric' [T, S, N].
  numeric: tuple[str, ...] = ()
  label: str = 'rating'  # Name of the label column.
  # Number of query rows of an episode, Q; fewer if a task is short.
  query_size: int = 10
  # Minimum number of support rows; training records too short for them and one
  # query row are left out (counted and logged).
  min_support: int = 3
  # 'random', or 'time': the support precedes the query in `time`.
  split: Literal['random', 'time'] = 'random'
  # Name of the column for a 'time' split; it need not be a feature.
  time: str = 'timestamp'
  # Feature -> share of training rows whose id becomes 0 (unknown), so that the
  # model learns to predict without it.
  id_dropout: Mapping[str, float] = dataclasses.field(default_factory=dict)
  # Feature -> share of training tasks that lose all its ids, like a task with
  # only new items.
  task_id_dropout: Mapping[str, float] = dataclasses.field(default_factory=dict)
  # Seed of splits and dropout; together with the record's key it determines an
  # episode.
  seed: int = 0
  # Whether features have keys for `Trainer(vocabularies=...)`, int64, which
  # become ids in its steps. Dropout needs ids.
  with_keys: bool = False

  def __post_init__(self):
    sizes = [bucket.support_size for bucket in self.buckets]
    if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1:
      raise ValueError(
        f'EpisodeConfig(buckets={self.buckets}): at least one bucket is'
        ' needed, by rising support_size.'
      )
    if min(bucket.num_slots for bucket in self.buckets) < 1:
      raise ValueError(
        f'EpisodeConfig(buckets={self.buckets}): num_slots must be positive.'
      )
    if self.query_size < 1 or not 0 <= self.min_support <= sizes[-1]:
      raise ValueError(
        f'EpisodeConfig(query_size={self.query_size}, min_support='
        f'{self.min_support}): a query needs a row, and min_support must be'
        f' 0 to {sizes[-1]}, the largest bucket.'
      )
    if self.split not in ('random', 'time'):
      raise ValueError(
        f"EpisodeConfig(split={self.split!r}): needed: 'random' or 'time'."
      )
    for field in ('id_dropout', 'task_id_dropout'):
      shares = getattr(self, field)
      unknown = set(shares) - set(self.features)
      if unknown:
        raise ValueError(
          f'EpisodeConfig({field}=...): {sorted(unknown)} are not features; the'
          f' features are {sorted(self.features)}.'
        )
      if self.with_keys and any(shares.values()):
        raise ValueError(
          f'EpisodeConfig({field}={dict(shares)}, with_keys=True): id 0 is'
          ' unknown, key 0 is a key like others; leave the dropout out.'
        )
      if not all(0 <= share <= 1 for share in shares.values()):
        raise ValueError(
          f'EpisodeConfig({field}={dict(shares)}): a share is 0 to 1.'
        )

  @property
  def columns(self) -> tuple[str, ...]:
    """Columns of a record that are used, except its task."""
    return (*self.features, *self.numeric, self.label)

  @property
  def num_tasks(self) -> int:
    """Number of task slots in a batch of this process."""
    return sum(bucket.num_slots for bucket in self.buckets)

  @property
  def id_type(self) -> type[np.signedinteger]:
    """Dtype of ids in a batch."""
    return np.int64 if self.with_keys else np.int32
