# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes any number of synthetic clicks of ids, for `antm2c_scale_bench`.

  python -m benchmarks.click_rows --out=FOLDER --num_rows=100000000

`clicks/part_*.csv` have a user, an item, a time, a label, eight ids of 10 to
10^6 values and a number: 54 bytes a row. Items and ids follow Zipf's law with
exponent 1. A label is drawn from a logit of the user, the item, an id, and a
group of users with a group of items. `schema.yaml` says what the columns mean.
DuckDB writes them, in 1.5 microseconds of CPU a row.
"""

import dataclasses
import pathlib
from typing import Annotated

import duckdb

from benchmarks import harness

_NUM_VALUES = (10, 50, 100, 1_000, 5_000, 20_000, 100_000, 1_000_000)
_IDS = tuple(f'c{i}' for i in range(len(_NUM_VALUES)))
_ITEMS, _ROWS_OF_A_USER, _ROWS_OF_A_FILE = 200_000, 50, 5_000_000
_COLUMNS = '\n  '.join(f'{name}: string' for name in _IDS)
_SCHEMA = f"""\
columns:
  user: string
  item: string
  time: int64
  label: int32
  {_COLUMNS}
  price: float32
user: user
item: item
time: time
label: label
ids: [{', '.join(_IDS)}]
numeric: [price]
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  out: Annotated[str, 'Folder to create.']
  num_rows: Annotated[int, 'Number of clicks.'] = 1_000_000


def _uniform(key: str) -> str:
  """SQL of a number in [0, 1) that a hash of the key gives."""
  return f'((hash({key}) >> 11) / 9007199254740992.0)'


def _zipf(key: str, num: int) -> str:
  return f'floor(exp({_uniform(key)} * ln({num + 1}.0)))::BIGINT - 1'


def rows(first: int, last: int, num_users: int) -> str:
  """SQL of the rows `first` to `last`, which depend on their numbers alone."""
  drawn = [f'floor({_uniform("i * 16")} * {num_users})::BIGINT AS user']
  drawn.append(f'{_zipf("i * 16 + 1", _ITEMS)} AS item')
  for i, (name, num) in enumerate(zip(_IDS, _NUM_VALUES, strict=True)):
    drawn.append(f'{_zipf(f"i * 16 + {2 + i}", num)} AS {name}')
  groups = 'user % 7 * 1000 + item % 100'
  tastes = (('user', 2), ('item', 3), (_IDS[3], 2), (groups, 4))
  logit = ' + '.join(
    f'{scale} * ({_uniform(f"({key}) * 8 + {i}")} - 0.5)'
    for i, (key, scale) in enumerate(tastes)
  )
  return f"""
    SELECT user, item, 1600000000 + i // 4 AS time,
      ({_uniform('i * 16 + 12')} < 1 / (1 + exp(1 - ({logit}))))::INT AS label,
      {', '.join(_IDS)}, round(exp(3 * {_uniform('i * 16 + 13')}), 3) AS price
    FROM (SELECT i, {', '.join(drawn)} FROM range({first}, {last}) AS t(i))"""


def main(config: Config) -> None:
  out, n = pathlib.Path(config.out), config.num_rows
  (out / 'clicks').mkdir(parents=True)
  (out / 'schema.yaml').write_text(_SCHEMA, encoding='utf-8')
  num_files = -(-n // _ROWS_OF_A_FILE)
  for i in range(num_files):
    part = rows(
      n * i // num_files, n * (i + 1) // num_files, n // _ROWS_OF_A_USER + 1
    )
    path = out / 'clicks' / f'part_{i:04d}.csv'
    duckdb.sql(f"COPY ({part}) TO '{path}' (HEADER)")


if __name__ == '__main__':
  harness.run(main, Config(out=''))
