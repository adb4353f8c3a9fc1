# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The data sets that are known by name.

Click data without a reader of its own is recognised by the first line of a
file: Criteo's display advertising challenge, as released (tab-separated,
without a header) or as CSV with one; Avazu's, as released or with all columns
encoded; Ali-CCP, as CSV with a column a feature field.
"""

from collections.abc import Sequence
import os
import re
from typing import Any, Literal

from antjax.data import (
  event_amazon,
  event_antm2c,
  event_food_kitchen,
  event_movielens,
  event_table,
  schema_file,
  table_source,
)
from antjax.data.event_antm2c import Antm2cConfig
from antjax.data.events import Source
from antjax.data.schema import Schema

Name = Literal[
  'ml-1m',
  'amazon-2018',
  'food-kitchen',
  'antm2c',
  'ali-ccp',
  'avazu',
  'criteo',
]
_OPTIONAL = {'type': 'float32', 'empty': 0}
_CRITEO = {
  'label': 'int32',
  **{f'I{i}': _OPTIONAL for i in range(1, 14)},
  **{f'C{i}': 'string' for i in range(1, 27)},
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
  """Names the events of a data set; a path of '' downloads ml-1m.

  `domains` are for amazon-2018 and `allow_other_counts` for ml-1m, see their
  readers; `task`, a column whose values are the tasks, for ali-ccp, avazu and
  criteo; and `antm2c` says what the columns of antm2c hold.

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
  layouts = {'ali-ccp': ali_ccp, 'avazu': avazu, 'criteo': criteo}
  first_line = table_source.first_line(
    next(iter(table_source.find_files(path)))
  )
  return event_table.source(path, layouts[name](first_line, task))


def criteo(first_line: str, task: str = '') -> Schema:
  """Returns the schema of a Criteo file: 13 counts, 26 hashed categories.

  It names no user and no time: a task is a value of C1 by default, and its rows
  are in time as the file is. A count that is missing counts as 0.
  """
  has_header = first_line.startswith('label')
  delimiter = '\t' if '\t' in first_line else ','
  fields = first_line.split(delimiter)
  if len(fields) != len(_CRITEO) or (has_header and fields != [*_CRITEO]):
    raise _other('criteo', first_line, 'label, I1 to I13, C1 to C26')
  return schema_file.make(
    _CRITEO,
    label='label',
    task=task or 'C1',
    log=[f'I{i}' for i in range(1, 14)],
    delimiter=delimiter,
    header=has_header,
    quote='',
    name='criteo',
  )


def avazu(first_line: str, task: str = '') -> Schema:
  """Returns the schema of an Avazu file.

  As released, a task is a site and `hour` is its time; with encoded columns
  (label, feat_1 to feat_22, in the released order without the id) the fourth
  of them is the site, and rows are in time as the file is.
  """
  names = first_line.split(',')
  options: dict[str, Any] = {'quote': '', 'name': 'avazu'}
  if names[:3] == ['id', 'click', 'hour'] and 'site_id' in names:
    columns = dict.fromkeys(names, 'string')
    columns |= {'click': 'int32', 'hour': 'int64'}
    return schema_file.make(
      columns,
      label='click',
      task=task or 'site_id',
      time='hour',
      ignore=['id'],
      **options,
    )
  if names == ['label', *(f'feat_{i}' for i in range(1, 23))]:
    columns = dict.fromkeys(names, 'string') | {'label': 'int32'}
    return schema_file.make(
      columns, label='label', task=task or 'feat_4', **options
    )
  raise _other(
    'avazu', first_line, 'id, click, hour ... or label, feat_1 to feat_22'
  )


def ali_ccp(first_line: str, task: str = '') -> Schema:
  """Returns the schema of an Ali-CCP file: click, purchase, feature fields.

  Fields are numbers; those with a D are dense. A task is a user (101) by
  default; 301, the scenario, is another choice. Rows are in time as the file
  is. The purchase is left out.
  """
  names = first_line.split(',')
  fields = [n for n in names if re.fullmatch(r'D?[0-9]+(_14)?', n)]
  if names[:2] != ['click', 'purchase'] or names[2:] != fields or not fields:
    raise _other('ali-ccp', first_line, 'click, purchase, 101, 121, ...')
  columns = {n: 'float32' if n[0] == 'D' else 'string' for n in fields}
  return schema_file.make(
    {'click': 'int32', 'purchase': 'int32', **columns},
    label='click',
    task=task or '101',
    ignore=['purchase'],
    quote='',
    name='ali-ccp',
  )


def _other(name: str, first_line: str, needed: str) -> ValueError:
  return ValueError(
    f'dataset={name}: the source begins with {first_line[:80]!r}; needed: the'
    f' columns {needed}. With a schema file, --schema reads any'
    ' layout.'
  )
