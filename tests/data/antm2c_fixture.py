# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows in AntM2C's format, made by hand."""

import csv
import io

from antjax.data import event_antm2c

COLUMNS = event_antm2c.COLUMNS


def row(number=0, **fields):
  """A good row as texts; `fields` replaces some."""
  found = {
    'user_id': f'{1000 + number % 7}',
    'item_id': f'{200 + number % 5}',
    'log_time': f'2023-07-{10 + number % 20} 12:00:{number % 60:02}',
    'label': str(number % 3 % 2),
    'bill_entity_seq': '\u54a1\u5561,\u5730\u94c1' if number % 2 else '',
    'service_entity_seq': 'taxi;bus',
    'query_entity_seq': 'tea, "green"\nor not' if number % 4 == 1 else 'tea',
    'item_entity_names': 'coffee',
    'item_title': f'Title "{number % 5}", new',
    'scene': str(number % 5),
    **{f'deep_features_{i}': f'{i}' for i in range(27)},
    'deep_features_14': f'{number / 8}',
    'deep_features_20': '' if number % 3 == 0 else '-1.5e2',
  }
  return found | fields


def rows(num):
  return [row(number) for number in range(num)]


def text(found, end='\n'):
  """Rows as a file: dicts, or lines that are taken as they are."""
  out = io.StringIO(newline='')
  writer = csv.writer(out, lineterminator=end)
  writer.writerow(COLUMNS)
  for one in found:
    if isinstance(one, str):
      out.write(one)
    else:
      writer.writerow(one[name] for name in COLUMNS)
  return out.getvalue()


def line(number=0, **fields):
  """A row as a line of CSV."""
  out = io.StringIO(newline='')
  csv.writer(out, lineterminator='\n').writerow(row(number, **fields).values())
  return out.getvalue()
