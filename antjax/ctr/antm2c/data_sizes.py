# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sizes of the data of a click model."""

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True)
class DataSizes:
  """Sizes of the data that a model depends on.

  Attributes:
    num_users: Number of users, including the unknown one (0).
    num_items: Number of items.
    num_behaviors: Number of rows of the vocabulary of titles.
    num_scenarios: Number of scenarios.
    columns: Id column -> number of its ids.
    binned: Id columns that are bins of numbers.
    numbers: Other numeric column -> linear, autodis or dense.
    histories: Number of places of each history.
    history_columns: Id columns whose ids of past clicks are known.
    bags: Bag -> (number of its ids, its pooling).
    modal: Name of a text or image in the batch -> its width.
    labels: Names of the labels.
  """

  num_users: int
  num_items: int
  num_behaviors: int
  num_scenarios: int
  columns: Mapping[str, int]
  binned: tuple[str, ...] = ()
  numbers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  histories: tuple[int, ...] = ()
  history_columns: tuple[str, ...] = ()
  bags: Mapping[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
  modal: Mapping[str, int] = dataclasses.field(default_factory=dict)
  labels: tuple[str, ...] = ('label',)
