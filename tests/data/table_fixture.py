# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Made-up clicks as a CSV file, and the tasks they have to become."""

import math
import pathlib
import random

from antjax.data import schema_file

SCHEMA = schema_file.make(
  {
    'user': 'string',
    'item': 'string',
    'price': {'type': 'float32', 'empty': 0},
    'when': 'int64',
    'click': 'int32',
  },
  label='click',
  task='user',
  time='when',
  log=['price'],
  name='clicks',
)

SCHEMA_WITH_TAGS = schema_file.make(
  {
    'user': 'string',
    'tags': {'type': 'string', 'separator': '|'},
    'when': 'int64',
    'click': 'int32',
  },
  label='click',
  task='user',
  time='when',
  name='clicks',
)


def make_rows(num_rows=900, seed=0):
  """Returns (user, item, price, when, click); times repeat, prices lack."""
  rng = random.Random(seed)
  return [
    (
      f'u{int(rng.paretovariate(0.6)) % 40}',
      f'caf\xe9, "{int(rng.paretovariate(0.5)) % 90}"',
      rng.choice(('', '12.5', '-3', '1e2')),
      rng.randint(0, 50),
      rng.randint(0, 1),
    )
    for _ in range(num_rows)
  ]


def write(path: pathlib.Path, rows) -> pathlib.Path:
  """Writes the rows as CSV with a header."""
  lines = ['user,item,price,when,click']
  for user, item, *rest in rows:
    quoted = item.replace('"', '""')
    lines.append(','.join([user, f'"{quoted}"', *map(str, rest)]))
  path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
  return path


def make_rows_with_tags(num_rows, seed=0):
  """Returns (user, tags, when, click); no two times are equal.

  Tags are texts of integers, which sort otherwise than these; some rows have
  none, some one twice.
  """
  rng = random.Random(seed)
  times = rng.sample(range(10 * num_rows), num_rows)
  return [
    (
      f'u{int(rng.paretovariate(0.6)) % 30}',
      [str(int(rng.paretovariate(0.5)) % 60) for _ in range(rng.randint(0, 5))],
      when,
      rng.randint(0, 1),
    )
    for when in times
  ]


def write_with_tags(path: pathlib.Path, rows) -> pathlib.Path:
  """Writes rows of `make_rows_with_tags` as CSV with a header."""
  lines = ['user,tags,when,click']
  for user, tags, when, click in rows:
    lines.append(f'{user},{"|".join(tags)},{when},{click}')
  path.write_text('\n'.join(lines) + '\n')
  return path


def by_task(rows):
  """Returns user -> [(item, price, when, click)] in time, by user."""
  tasks: dict[str, list] = {}
  for number, (user, item, price, when, click) in enumerate(rows):
    value = float(price or 0)
    price = math.copysign(math.log1p(abs(value)), value)
    tasks.setdefault(user, []).append((when, number, item, price, click))
  return {
    user: [
      (item, price, when, click) for when, _, item, price, click in sorted(t)
    ]
    for user, t in sorted(tasks.items())
  }
