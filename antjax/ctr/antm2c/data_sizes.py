# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sizes of the data that a click model is made for."""

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True)
class DataSizes:
  """What a model has to know of the data.

  Attributes:
    num_users: Users, the unknown one (0) included.
    num_items: Items.
    num_behaviors: Rows of the vocabulary of titles.
    num_scenarios: Scenarios.
    columns: Id column -> its ids.
    binned: Those of the id columns that are bins of numbers.
    numbers: Other numeric column -> linear, autodis or dense.
    histories: Places of each history.
    history_columns: Id columns whose ids of past clicks are known.
    bags: Bag -> (its ids, its pooling).
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
