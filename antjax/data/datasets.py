# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The data sets that are known by name."""

from collections.abc import Sequence
import os
from typing import Literal

from antjax.data import (
  event_amazon,
  event_antm2c,
  event_food_kitchen,
  event_movielens,
  event_table,
  table_layouts,
  table_source,
)
from antjax.data.antm2c import Antm2cConfig
from antjax.data.events import Source

Name = Literal[
  'ml-1m',
  'amazon-2018',
  'food-kitchen',
  'antm2c',
  'ali-ccp',
  'avazu',
  'criteo',
]
_LAYOUTS = {
  'ali-ccp': table_layouts.ali_ccp,
  'avazu': table_layouts.avazu,
  'criteo': table_layouts.criteo,
}


def source(
  name: Name,
  path: str | os.PathLike[str],
  *,
  domains: Sequence[str] = (),
  task: str = '',
  antm2c: Antm2cConfig | None = None,
  allow_other_counts: bool = True,
) -> Source:
  """Names the events of a data set.

  Args:
    name: Name of the data set.
    path: Its files; '' downloads ml-1m by package name.
    domains: For amazon-2018: see `event_amazon.find_files`.
    task: For ali-ccp, avazu and criteo: see `table_layouts`.
    antm2c: For antm2c: what the columns hold.
    allow_other_counts: For ml-1m: see `event_movielens.source`.

  Raises:
    FileNotFoundError: No such files.
    ValueError: The files are of another kind.
  """
  if name == 'ml-1m':
    return event_movielens.source(path, allow_other_counts=allow_other_counts)
  if name == 'amazon-2018':
    return event_amazon.source(path, domains)
  if name == 'food-kitchen':
    return event_food_kitchen.source(path)
  if name == 'antm2c':
    return event_antm2c.source(path, antm2c)
  first_line = table_source.first_line(table_source.find_files(path)[0])
  return event_table.source(path, _LAYOUTS[name](first_line, task))
