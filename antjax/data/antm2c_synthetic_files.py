# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes synthetic files in AntM2C's format.

  antm2c_synthetic_part0, ...         CSV, as `antm2c` says
  AntM2C_synthetic_image.tar.gz       AntM2C_synthetic_image/<item_id>.png
  antm2c_synthetic_truth.parquet      what the rows were drawn with, see `TRUTH`
  antm2c_synthetic.json               the configuration

A chunk of rows a thread is in memory at a time; users and items are, always:
about 100 bytes each.
"""

from collections.abc import Callable, Sequence
import dataclasses
import io
import json
import os
import pathlib
import tarfile

import numpy as np
from PIL import Image
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from antjax import paths
from antjax.data import (
  antm2c_synthetic,
  event_antm2c,
  thread_map,
)
from antjax.data.antm2c_synthetic import (
  CHUNK,
  DIM,
  FIRST_DAY,
  Rows,
  SyntheticConfig,
  TOPICS,
  World,
)
from antjax.shards import data_shard

PREFIX = 'antm2c_synthetic'
IMAGES = 'AntM2C_synthetic_image'
# The truth: one row a row of the parts, in their order. `row` is the number
# that `antm2c` gives it.
TRUTH = pa.schema(
  [
    ('row', pa.int64()),
    ('user_id', pa.string()),
    ('item_id', pa.string()),
    ('time', pa.int64()),
    ('scene', pa.int8()),
    ('label', pa.int8()),
    ('probability', pa.float32()),
  ]
)
_WITHOUT_IMAGE = 0.05  # Share of the items.
_CELLS = 8  # Cells of an image's pattern along each side.
# Before a word, in a list of what was paid, used or asked for.
BILLS = ('', 'paid-', 'refund-', 'monthly-')
SERVICES = ('', 'book-', 'near-me-')
QUERIES = ('', 'cheap-', 'best-', 'how-to-choose-', '\u63a8\u8350-')
# Words of titles. Some need quotes in a CSV file, one a line end.
OPENINGS = (
  'Fresh',
  'New:',
  'Weekend deal,',
  'The "original"',
  '\u9650\u65f6',
  'Daily',
)
ENDINGS = ('', ' for you', ' & more', ', 20% off', '\nwhile it lasts', ' club')
_FIRST_USER, _FIRST_ITEM = 1_000_000, 100_000
_MOST_WORDS = 6  # In a text of a user.
_LEVELS = pa.array([f'{i / 1000:g}' for i in range(1001)])
_WORDS = pa.array([w for words in TOPICS.values() for w in words])
_PER_TOPIC = len(next(iter(TOPICS.values())))
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


def write(
  out: str | os.PathLike[str],
  config: SyntheticConfig,
  *,
  image_size: int = 32,
  progress: Callable[[str], None] = lambda text: None,
) -> list[pathlib.Path]:
  """Makes the folder of the module's docstring; it must not exist, or be empty.

  `image_size` is pixels each way, a multiple of 8; 0 makes no images.

  Returns:
    The parts.

  Raises:
    ValueError: `out` is not empty, or another size of images.
  """
  out = paths.local(out, 'out')
  if image_size % _CELLS:
    raise ValueError(
      f'image_size={image_size}; needed: a multiple of {_CELLS}, or 0.'
    )
  if out.exists() and any(out.iterdir()):
    raise ValueError(f'out={out} is not empty; choose another folder.')
  with paths.staged(out) as stage:
    world = World(config)
    borders = np.linspace(0, config.num_rows, config.num_parts + 1)
    borders = np.round(borders).astype(np.int64).tolist()
    truth = stage / f'{PREFIX}_truth.parquet'
    with pq.ParquetWriter(truth, TRUTH) as writer:
      for part in range(config.num_parts):
        path = stage / f'{PREFIX}_part{part}'
        progress(f'writing {path.name}')
        _write_part(path, world, part, borders[part], borders[part + 1], writer)
    if image_size:
      progress('writing images')
      _write_images(stage / f'{IMAGES}.tar.gz', world, image_size)
    text = json.dumps(dataclasses.asdict(config), indent=2)
    (stage / f'{PREFIX}.json').write_text(text + '\n')
  return [out / f'{PREFIX}_part{part}' for part in range(config.num_parts)]


def _write_part(
  path: pathlib.Path,
  world: World,
  part: int,
  start: int,
  stop: int,
  truth: pq.ParquetWriter,
) -> None:
  """Writes the rows start <= number < stop."""
  with open(path, 'wb') as file:
    file.write((','.join(event_antm2c.COLUMNS) + '\n').encode())

    def made(number: int) -> tuple[Rows, pa.Array]:
      rows = antm2c_synthetic.rows(world, number)
      columns = _columns(world, rows)
      return rows, _lines(columns)

    numbers = range(start // CHUNK, -(-stop // CHUNK))
    threads = os.cpu_count() or 1
    for rows, lines in thread_map.in_order(made, numbers, threads):
      first, last = max(start - rows.first, 0), min(stop - rows.first, CHUNK)
      _, offsets, data = lines.buffers()
      a, b = np.frombuffer(offsets, np.int32)[[first, last]]
      file.write(memoryview(data)[a:b])
      # Records of a file are counted from its header.
      shift = event_antm2c.row_number(part, 1) + rows.first - start
      truth.write_table(_truth(rows, shift).slice(first, last - first))


def _truth(rows: Rows, shift: int) -> pa.Table:
  columns = [
    np.arange(CHUNK) + shift,
    _ids(rows.user, _FIRST_USER),
    _ids(rows.item, _FIRST_ITEM),
    rows.time,
    rows.scene.astype(np.int8),
    rows.label.astype(np.int8),
    rows.probability.astype(np.float32),
  ]
  return pa.table(columns, schema=TRUTH)


def _write_images(path: pathlib.Path, world: World, size: int) -> None:
  """Writes an image an item: its redness, in a pattern of its own."""
  ids = _ids(np.arange(len(world.redness)), _FIRST_ITEM)
  rng = np.random.default_rng((world.config.seed, 2))
  with tarfile.open(path, 'w:gz', compresslevel=1) as tar:
    for item, redness in zip(ids.to_pylist(), world.redness):
      cells = rng.random((_CELLS, _CELLS, 3)) * 0.4 + 0.3
      # The pattern changes nothing in the mean of red.
      red = cells[..., 0] - cells[..., 0].mean()
      cells[..., 0] = np.clip(redness + 0.3 * red, 0, 1)
      if rng.random() < _WITHOUT_IMAGE:
        continue
      pixels = np.repeat(np.repeat(cells, size // _CELLS, 0), size // _CELLS, 1)
      image = Image.fromarray(np.round(255 * pixels).astype(np.uint8))
      data = io.BytesIO()
      image.save(data, 'png', compress_level=1)
      entry = tarfile.TarInfo(f'{IMAGES}/{item}.png')
      entry.size = data.tell()
      data.seek(0)
      tar.addfile(entry, data)


def _ids(numbers: np.ndarray, first: int) -> pa.Array:
  """user_id of users, or item_id of items, strings [n]."""
  return pa.array(numbers + first).cast(pa.string())


def _columns(world: World, rows: Rows) -> dict[str, pa.Array]:
  """The 37 columns of rows, as strings [n] without CSV's quotes."""
  rng, num = rows.rng, len(rows.time)
  shares = _topic_shares(world, rows.user)
  texts = [
    _user_text(rng, shares, before, world.config.empty_text)
    for before in (
      BILLS,
      SERVICES,
      QUERIES,
    )
  ]
  variant = (rng.random(num) < _OTHER_ENTITIES).astype(np.int64)
  found = {
    'user_id': _ids(rows.user, _FIRST_USER),
    'item_id': _ids(rows.item, _FIRST_ITEM),
    'log_time': pa.array(rows.time).cast(pa.timestamp('s')).cast(pa.string()),
    'label': _number(rows.label.astype(np.int64)),
    **dict(zip(event_antm2c.TEXTS, texts)),
    'item_entity_names': _item_entities(world, rows.item, variant),
    event_antm2c.TITLE: _titles(world, rows.item),
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
  for number in range(event_antm2c.NUM_FEATURES):
    found[f'deep_features_{number}'] = features[number]
  return found


def _lines(found: dict[str, pa.Array]) -> pa.Array:
  """Rows as lines of CSV, with their line ends, strings [n]."""
  texts = {*event_antm2c.TEXTS, event_antm2c.TITLE}
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


def _titles(world: World, items: np.ndarray) -> pa.Array:
  """item_title: words of the item's topic, strings [n]."""
  openings, endings = OPENINGS, ENDINGS
  # Rare endings for the rare cases: most titles have none.
  ending = np.maximum(_mix(items, 2) % 12 - 6, 0) % len(endings)
  return pc.binary_join_element_wise(
    _take(openings, _mix(items, 1) % len(openings)),
    _word(world, items, 3),
    pc.binary_join_element_wise(
      _word(world, items, 4),
      _take(endings, ending),
      '',
    ),
    ' ',
  )


def _word(world: World, items: np.ndarray, salt: int) -> pa.Array:
  """A word of the item's topic, the same for all its rows."""
  word = world.topic[items] * _PER_TOPIC + _mix(items, salt) % _PER_TOPIC
  return _WORDS.take(pa.array(word))


def _item_entities(
  world: World, items: np.ndarray, variant: np.ndarray
) -> pa.Array:
  topic = _take([*TOPICS], world.topic[items])
  first, second, other = (_word(world, items, salt) for salt in (3, 5, 6))
  second = pc.if_else(pa.array(variant > 0), other, second)
  return pc.binary_join_element_wise(topic, first, second, ',')


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
  offset = np.uint64((salt + 1) * int(data_shard.GOLDEN) % 2**64)
  mixed = data_shard.mix(numbers.astype(np.uint64) + offset)
  return (mixed >> np.uint64(1)).astype(np.int64)
