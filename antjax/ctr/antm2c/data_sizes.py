# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sizes of the data of a click model."""

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True)
class DataSizes:
  """Sizes of the data that a model depends on."""

  num_users: int  # Number of users, including the unknown one (0).
  num_items: int  # Number of items.
  num_behaviors: int  # Number of rows of the vocabulary of titles.
  num_scenarios: int  # Number of scenarios.
  columns: Mapping[str, int]  # Id column -> number of its ids.
  binned: tuple[str, ...] = ()  # Id columns that are bins of numbers.
  # Other numeric column -> linear, autodis or dense.
  numbers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  histories: tuple[int, ...] = ()  # Number of places of each history.
  # Id columns whose ids of past clicks are known.
  history_columns: tuple[str, ...] = ()
  # Bag -> (number of its ids, its pooling).
  bags: Mapping[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
  # Name of a text or image in the batch -> its width.
  modal: Mapping[str, int] = dataclasses.field(default_factory=dict)
  labels: tuple[str, ...] = ('label',)  # Names of the labels.
