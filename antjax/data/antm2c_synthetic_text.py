# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes synthetic rows as lines of AntM2C's files, by the column."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from antjax.data import antm2c, antm2c_words, splitmix
from antjax.data.antm2c_synthetic import DIM, FIRST_DAY, Rows, World

_FIRST_USER, _FIRST_ITEM = 1_000_000, 100_000
_MOST_WORDS = 6  # In a text of a user.
_LEVELS = pa.array([f'{i / 1000:g}' for i in range(1001)])
_WORDS = pa.array([w for words in antm2c_words.TOPICS.values() for w in words])
_PER_TOPIC = len(next(iter(antm2c_words.TOPICS.values())))
_OTHER_ENTITIES = 0.05  # Share of an item's rows with other entities.
# Categories that mean nothing: deep_features -> (of what, number of values).
_HASHED = {
  1: ('user', 40),
  2: ('user', 2),
  3: ('user', 7),
  4: ('user', 5),
  8: ('item', 50),
  9: ('row', 100),
  10: ('user', 1000),
  11: ('item', 300),
  12: ('user', 6),
  15: ('user', 12),
  16: ('item', 9),
  17: ('row', 3),
  18: ('user', 250),
}


def user_ids(users: np.ndarray) -> pa.Array:
  """user_id of users, strings [n]."""
  return pa.array(users + _FIRST_USER).cast(pa.string())


def item_ids(items: np.ndarray) -> pa.Array:
  """item_id of items, strings [n]."""
  return pa.array(items + _FIRST_ITEM).cast(pa.string())


def columns(world: World, rows: Rows) -> dict[str, pa.Array]:
  """The 37 columns of rows, as strings [n] without CSV's quotes."""
  rng, num = rows.rng, len(rows.time)
  shares = _topic_shares(world, rows.user)
  texts = [
    _user_text(rng, shares, before, world.config.empty_text)
    for before in (
      antm2c_words.BILLS,
      antm2c_words.SERVICES,
      antm2c_words.QUERIES,
    )
  ]
  variant = (rng.random(num) < _OTHER_ENTITIES).astype(np.int64)
  found = {
    'user_id': user_ids(rows.user),
    'item_id': item_ids(rows.item),
    'log_time': pa.array(rows.time).cast(pa.timestamp('s')).cast(pa.string()),
    'label': _number(rows.label.astype(np.int64)),
    **dict(zip(antm2c.TEXTS, texts)),
    'item_entity_names': _item_entities(world, rows.item, variant),
    antm2c.TITLE: titles(world, rows.item),
    'scene': _number(rows.scene),
  }
  hour = (rows.time - FIRST_DAY) // 3600
  features = {
    0: _number(world.profile[rows.user]),
    5: _number((world.likes_red[rows.user] > 0).astype(np.int64)),
    6: _number(hour % 24),
    7: _number(hour // 24 % 7),
    13: _take([''], np.zeros(num, np.int64)),
    19: _level(rows.position),
    20: _level(world.price[rows.item]),
    21: _level(_mix(rows.user, 21) % 1000 / 1000),
  }
  for number, (what, size) in _HASHED.items():
    if what == 'row':
      features[number] = _number(rng.integers(0, size, num))
    else:
      features[number] = _number(_mix(getattr(rows, what), number) % size)
  for number in (14, 22, 23, 24, 25):
    features[number] = _level(rng.random(num))
  last = np.where(
    rng.random(num) < 0.03, len(_LEVELS), rng.integers(0, 1001, num)
  )
  features[26] = _take([*_LEVELS.to_pylist(), ''], last)
  for number in range(antm2c.NUM_FEATURES):
    found[f'deep_features_{number}'] = features[number]
  return found


def lines(found: dict[str, pa.Array]) -> pa.Array:
  """Rows as lines of CSV, with their line ends, strings [n]."""
  texts = {*antm2c.TEXTS, antm2c.TITLE}
  parts = [
    _quoted(column) if name in texts else column
    for name, column in found.items()
  ]
  joined = pc.binary_join_element_wise(*parts, ',')
  return pc.binary_join_element_wise(joined, '\n', '')


def _quoted(column: pa.Array) -> pa.Array:
  doubled = pc.replace_substring(column, '"', '""')
  whole = pc.binary_join_element_wise('"', doubled, '"', '')
  needs = pc.match_substring_regex(column, '[",\n\r]')
  return pc.if_else(needs, whole, column)


def titles(world: World, items: np.ndarray) -> pa.Array:
  """item_title: words of the item's topic, strings [n]."""
  openings, endings = antm2c_words.OPENINGS, antm2c_words.ENDINGS
  # Rare endings for the rare cases: most titles have none.
  ending = np.maximum(_mix(items, 2) % 12 - 6, 0) % len(endings)
  return pc.binary_join_element_wise(
    _take(openings, _mix(items, 1) % len(openings)),
    _WORDS.take(pa.array(_word(world, items, 3))),
    pc.binary_join_element_wise(
      _WORDS.take(pa.array(_word(world, items, 4))),
      _take(endings, ending),
      '',
    ),
    ' ',
  )


def _word(world: World, items: np.ndarray, salt: int) -> np.ndarray:
  """Number of a word of the item's topic, the same for all its rows."""
  return world.topic[items] * _PER_TOPIC + _mix(items, salt) % _PER_TOPIC


def _item_entities(
  world: World, items: np.ndarray, variant: np.ndarray
) -> pa.Array:
  topic = _take([*antm2c_words.TOPICS], world.topic[items])
  words = [_WORDS.take(pa.array(_word(world, items, salt))) for salt in (3, 5)]
  other = _WORDS.take(pa.array(_word(world, items, 6)))
  return pc.binary_join_element_wise(
    topic, words[0], pc.if_else(pa.array(variant > 0), other, words[1]), ','
  )


def _topic_shares(world: World, users: np.ndarray) -> np.ndarray:
  """Cumulative shares of the topics in what users do, float32 [n, T]."""
  scores = 2 * world.users[users] @ world.topics.T / np.sqrt(DIM)
  weights = np.exp(scores - scores.max(1, keepdims=True))
  total = np.cumsum(weights, axis=1, dtype=np.float32)
  return total / total[:, -1:]


def _user_text(
  rng: np.random.Generator,
  shares: np.ndarray,
  before: Sequence[str],
  empty: float,
) -> pa.Array:
  """Lists of words by a user's taste, parted by commas, strings [n]."""
  num = len(shares)
  length = rng.integers(1, _MOST_WORDS + 1, num)
  length[rng.random(num) < empty] = 0
  row = np.repeat(np.arange(num), length)
  drawn = rng.random(len(row), np.float32)
  topic = (shares[row] < drawn[:, None]).sum(1)
  word = topic * _PER_TOPIC + rng.integers(0, _PER_TOPIC, len(row))
  # Most words come as they are.
  mark = rng.integers(0, 2 * len(before), len(row)) % len(before)
  mark[rng.random(len(row)) < 0.5] = 0
  entities = [b + w for b in before for w in _WORDS.to_pylist()]
  values = pa.array(entities).take(pa.array(mark * len(_WORDS) + word))
  offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int32)
  return pc.binary_join(pa.ListArray.from_arrays(offsets, values), ',')


def _take(values: Sequence[str], index: np.ndarray) -> pa.Array:
  return pa.array(list(values), pa.string()).take(pa.array(index))


def _number(values: np.ndarray) -> pa.Array:
  """Small numbers from 0, as strings."""
  return _take([str(i) for i in range(int(values.max()) + 1)], values)


def _level(values: np.ndarray) -> pa.Array:
  """Numbers from 0 to 1 in thousandths, as strings."""
  return _LEVELS.take(pa.array((values * 1000).astype(np.int64)))


def _mix(numbers: np.ndarray, salt: int) -> np.ndarray:
  """Even hash of numbers, int64 from 0."""
  offset = np.uint64((salt + 1) * int(splitmix.STEP) % 2**64)
  mixed = splitmix.mix(numbers.astype(np.uint64) + offset)
  return (mixed >> np.uint64(1)).astype(np.int64)
