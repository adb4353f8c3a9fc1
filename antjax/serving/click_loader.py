# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores clicks with an exported model; needs numpy, jax and flatbuffers.

This file and `loader.py` are all that is needed where a model is served: they
import nothing else of antjax. docs/click_models.md says what a folder holds.

  model = ClickScorer('runs/clicks/seed_0/export')
  model.score({'user': ['u1', 'u2'], 'item': ['i7', 'i9'], 'price': [3.5, 1.0]})
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import os
import pathlib
import re
from typing import Any
import unicodedata

import jax
from jax import export
import numpy as np

from antjax.serving import loader

ARRAYS = 'arrays.npz'
PREDICTION, SCORE = 'prediction', 'score'
_UNK = 1  # Id of titles that are not known.
_MOST_KEPT = 1 << 18  # Ids of values that are kept, at most.
_CONTROL = re.compile(r'[\x00-\x1f\x7f-\x9f]+')
_FIRST = ('user', 'item', 'title', 'scenario')

# Shape suffixes: N = rows, M = places of a history.


@dataclasses.dataclass(frozen=True)
class Repeated:
  """A column of runs of equal values, each looked up once.

  Attributes:
    values: Value of each run.
    counts: Number of rows of each run.
  """

  values: Sequence[Any]
  counts: Sequence[int]

  def __len__(self) -> int:
    return sum(self.counts)


Rows = Mapping[str, Sequence[Any] | Repeated]


class ClickScorer(loader.Model):
  """An exported click model.

  Attributes:
    clicks: What the manifest says of rows: columns, fields, sizes.
    arrays: What is known of users, items and columns, by name.
  """

  def __init__(self, folder: str | os.PathLike[str], is_live: bool = False):
    """Opens the folder `export` of a run of launch/train_clicks.py.

    Raises:
      FileNotFoundError: It holds no model.
      ValueError: The model is not whole, or is no click model.
    """
    super().__init__(folder, is_live)
    if 'clicks' not in self.manifest:
      raise ValueError(
        f'{folder} holds a model of the kind {self.manifest.get("kind")}, and'
        ' none of clicks; launch/score_gmeta.py scores with it.'
      )
    self.clicks: dict[str, Any] = self.manifest['clicks']
    self._kept: dict[str, dict[str | int, int]] = {}
    with np.load(pathlib.Path(folder) / ARRAYS) as arrays:
      self.arrays = dict(arrays)
    options = self.clicks['compiler_options'].get(jax.default_backend())
    if options:  # The kernels that training has: the same bits.
      for name, path in self.manifest['functions'].items():
        code = bytearray((pathlib.Path(folder) / path).read_bytes())
        call = export.deserialize(code).call
        self._functions[name] = jax.jit(call, compiler_options=options)

  def score(self, rows: Rows) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Scores rows.

    Args:
      rows: Column of the log -> values, texts or numbers, one a row. What the
        item is known by may be left out. Histories are those of the training
        log, unless a column of the name of one gives lists of texts, the oldest
        first.

    Returns:
      (logit of each output float32 [N], column -> rows with an unseen value).

    Raises:
      ValueError: A column is missing, or of another kind or length.
    """
    batch, unseen = self.batch(rows)
    count, sizes = len(batch['scenario']), self.clicks['sizes']
    pieces: list[dict[str, np.ndarray]] = []
    for start in range(0, count, sizes[-1]):
      index = np.arange(start, min(start + sizes[-1], count))
      if self.clicks['is_by_scenario']:
        index = index[np.argsort(batch['scenario'][index], kind='stable')]
      size = next(n for n in sizes if n >= len(index))
      padded = np.append(index, np.repeat(index[-1:], size - len(index)))
      part = jax.tree.map(lambda x: np.take(x, padded, axis=0), batch)
      part['weight'] = (np.arange(size) < len(index)).astype(np.float32)
      vectors = {n: self._vectors(n, ids) for n, ids in part['ids'].items()}
      run = self._functions[f'scores_{size}']
      found = run(self.params, vectors, part)
      piece = {n: np.asarray(x)[: len(index)] for n, x in found.items()}
      if self.clicks['is_by_scenario']:
        back = np.argsort(index)
        piece = {n: x[back] for n, x in piece.items()}
      pieces.append(piece)
    outputs = self.clicks['outputs']
    empty = [np.zeros(0, np.float32)]
    return {
      n: np.concatenate([p[n] for p in pieces] or empty) for n in outputs
    }, unseen

  def _vectors(self, feature: str, ids: np.ndarray) -> np.ndarray:
    """Vectors [..., D] of a feature's ids, of one table or one each."""
    tables = self.clicks['features'][feature]
    if len(tables) == 1:
      return self.tables[tables[0]].read(ids)
    read = [self.tables[t].read(ids[:, i]) for i, t in enumerate(tables)]
    return np.stack(read, axis=1)

  # Rows to what the functions read.

  def batch(self, rows: Rows) -> tuple[dict[str, Any], dict[str, int]]:
    """What the functions read of rows, and unseen values by column."""
    about, arrays = self.clicks, self.arrays
    self._check(rows)
    unseen: dict[str, int] = {}

    def ids(vocabulary: str, column: str) -> np.ndarray:
      found = _each(rows[column], lambda x: self._ids_of(vocabulary, column, x))
      unseen[column] = int(np.count_nonzero(found == 0))
      return found

    count = len(next(iter(rows.values())))
    user_N = item_N = np.zeros(count, np.int32)
    if about['user']:
      user_N = ids('user', about['user'])
    if about['item']:
      item_N = ids('item', about['item'])
    elif len(arrays['item:title']) > 1:
      item_N = np.ones(count, np.int32)  # All rows have the same one.
    data = {
      n: arrays[f'known:{n}'][x]
      for n, x in (('user', user_N), ('item', item_N))
    }
    for name in ('user', 'item'):
      if column := about[name]:
        unseen[column] = int(np.count_nonzero(data[name] == 0))
    if about['text'] and about['text'] in rows:
      data['title'] = _each(rows[about['text']], self._titles)
      unseen[about['text']] = int(np.count_nonzero(data['title'] == _UNK))
    else:
      data['title'] = arrays['item:title'][item_N]
    for name in about['ids']:
      if name in rows:
        data[name] = ids(f'id:{name}', name)
      else:  # Known of the item.
        data[name] = arrays[f'item:id:{name}'][item_N]
    data['scenario'] = np.zeros(count, np.int32)
    if about['scenario']:
      data['scenario'] = arrays['scenario'][data[about['scenario']]]
    if about['times']:
      time = _each(rows[about['time']], lambda x: np.asarray(x, np.float64))
      time = np.floor(time).astype(int)
      of_time = {
        'hour': time // 3600 % 24,
        'weekday': (time // 86_400 + 3) % 7,
      }
      data |= {f'time_{n}': of_time[n].astype(np.int32) for n in about['times']}
    numbers = {n: self._numbers(n, rows, item_N) for n in about['numbers']}
    fed = self._fed(data, numbers)
    batch: dict[str, Any] = {'ids': self._lookups(fed)}
    batch['scenario'] = fed['scenario'] * np.int32(about['knows_scenario'])
    if len(arrays['mean']):
      batch['numeric'] = self._standard(numbers)
    batch['ids'] |= self._histories(rows, user_N) | self._bags(rows, count)
    if 'text' in arrays:
      batch['text_title'] = arrays['text'][data['title']].astype(np.float32)
    if 'image' in arrays:
      batch['image'] = arrays['image'][item_N].astype(np.float32)
    batch['ids'] = {n: batch['ids'][n] for n in about['features']}
    kept = {n: batch[n] for n in about['read'] if n != 'weight'}
    return kept | {'ids': batch['ids']}, unseen

  def _check(self, rows: Rows) -> None:
    missing = [n for n in self.clicks['needed'] if n not in rows]
    if missing:
      raise ValueError(
        f'ClickScorer: the rows lack {", ".join(missing)}; needed:'
        f' {", ".join(self.clicks["needed"])}.'
      )
    sizes = {n: len(x) for n, x in rows.items()}
    if len({*sizes.values()}) > 1:
      raise ValueError(f'ClickScorer: columns of unequal lengths: {sizes}.')

  def _ids_of(
    self, vocabulary: str, column: str, values: Sequence[Any]
  ) -> np.ndarray:
    """Ids of a column; those of lists are kept, since values come again."""
    kinds = {*map(type, values)} if type(values) is list else {object}
    if kinds not in ({str}, {int}):
      return self.ids(vocabulary, self.texts(values, column))
    kept = self._kept.setdefault(vocabulary, {})
    try:
      return np.fromiter(map(kept.__getitem__, values), np.int32, len(values))
    except KeyError:
      new = {x for x in values if x not in kept}  # A difference reads all.
    if len(kept) + len(new) > _MOST_KEPT:
      kept.clear()
      new = {*values}
    asked = [*new]
    ids = self.ids(vocabulary, self.texts(asked, column))
    kept.update(zip(asked, ids.tolist(), strict=True))
    return np.fromiter(map(kept.__getitem__, values), np.int32, len(values))

  def forget(self) -> None:
    """See the base class."""
    super().forget()
    self._kept.clear()

  def texts(self, values: Sequence[Any], column: str) -> np.ndarray:
    """Values as the vocabularies have them."""
    kind = self.clicks['columns'][column]['type']
    if kind != 'string':
      try:
        values = [np.dtype(kind).type(x) for x in values]
      except (TypeError, ValueError) as e:
        raise ValueError(f'ClickScorer: column {column!r}: {e}.') from e
    return np.array([str(x) for x in values], dtype=np.str_)

  def _titles(self, texts: Sequence[Any]) -> np.ndarray:
    """Behaviors of item texts, the unknown one where there is none."""
    most, lower = self.clicks['max_chars'], self.clicks['lower']
    found = [_normalized(str(text), lower) for text in texts]
    if most:
      found = [text[:most].rstrip(' ') for text in found]
    ids = self.ids('title', np.array(found, dtype=np.str_))
    return np.where(ids > 0, ids, _UNK).astype(np.int32)

  def _numbers(self, name: str, rows: Rows, item_N: np.ndarray) -> np.ndarray:
    """float32 [N], NaN where it is missing."""
    if name not in rows:
      return self.arrays[f'item:number:{name}'][item_N]
    column = self.clicks['columns'][name]
    empty = np.nan if column.get('empty') is None else column['empty']

    def parsed(values: Sequence[Any]) -> np.ndarray:
      if type(values) is not list or not {*map(type, values)} <= {float}:
        values = [empty if x is None or x == '' else x for x in values]
      return np.array(values, np.float64)

    try:
      values = _each(rows[name], parsed)
    except (TypeError, ValueError) as e:
      raise ValueError(
        f'ClickScorer: column {name!r}: {e}; needed: numbers.'
      ) from e
    if column['type'].startswith('float'):
      values = values.astype(column['type']).astype(np.float64)
    if column['is_log']:
      values = np.sign(values) * np.log(np.abs(values) + 1)
    return values.astype(np.float32)

  def _fed(
    self, data: Mapping[str, np.ndarray], numbers: Mapping[str, np.ndarray]
  ) -> dict[str, np.ndarray]:
    """Column -> ids of the model, as `ClickFeatures` makes them."""
    arrays, made = self.arrays, {}
    for cross in self.clicks['crosses']:
      left, right = data[cross['left']], data[cross['right']]
      codes_V = arrays[f'cross:{cross["name"]}']
      code = left.astype(np.int64) * cross['num_right'] + right
      place = np.searchsorted(codes_V, code)  # np.isin would sort all of them.
      known = (place < len(codes_V)) & (right < cross['num_right'])
      known[known] = codes_V[place[known]] == code[known]
      made[cross['name']] = np.where(known, place + 1, 0).astype(np.int32)
    for name, way in self.clicks['numbers'].items():
      if way == 'bins':
        place = np.searchsorted(arrays[f'edges:{name}'], numbers[name]) + 1
        made[name] = place.astype(np.int32) * ~np.isnan(numbers[name])
    found = {}
    for name in (*_FIRST, *self.clicks['fields']):
      found[name] = made[name] if name in made else data[name]
      if f'frequent:{name}' in arrays:
        found[name] = arrays[f'frequent:{name}'][found[name]]
    return found

  def _lookups(self, fed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    columns = [fed[n] for n in (*_FIRST, *self.clicks['fields'])]
    every = np.stack(columns, axis=1).astype(np.int32)
    if not self.clicks['knows_scenario']:
      every[:, _FIRST.index('scenario')] = 0
    return {n: every[:, at] for n, at in self.clicks['groups'].items()}

  def _standard(self, numbers: Mapping[str, np.ndarray]) -> np.ndarray:
    columns = []
    for name, way in self.clicks['numbers'].items():
      x = numbers[name]
      if way != 'bins':
        is_log = way == 'log'
        columns.append(np.sign(x) * np.log1p(np.abs(x)) if is_log else x)
    deviation = self.arrays['deviation']
    scale = np.where(deviation > 0, deviation, np.inf)
    scaled = (np.stack(columns, axis=1) - self.arrays['mean']) / scale
    clip = self.clicks['clip']
    return np.clip(scaled, -clip, clip).astype(np.float32)

  def _histories(self, rows: Rows, user_N: np.ndarray) -> dict[str, np.ndarray]:
    """'history' and 'history_...' int32 [N, H, M], -1 behind the newest."""
    arrays, names = self.arrays, self.clicks['histories']
    if not names:
      return {}
    found, most = [], self.clicks['max_history']
    lengths = self.clicks.get('history_lengths', {})
    for i, name in enumerate(names):
      if name not in rows:
        found.append(arrays[f'history:{i}'][user_N])
        continue
      cut = functools.partial(self._history, lengths.get(name, most), most)
      found.append(_each(rows[name], cut))
    history = np.stack(found, axis=1)
    titles = history
    if 'frequent:title' in arrays:
      titles = arrays['frequent:title'][history]
    columns = {'history': np.where(history == 0, -1, titles)}
    for name in self.clicks['history_columns']:
      of_title = arrays[f'history_column:{name}'][history]
      columns[f'history_{name}'] = np.where(history == 0, -1, of_title)
    return {n: x.astype(np.int32) for n, x in columns.items()}

  def _history(self, length: int, most: int, texts: Any) -> np.ndarray:
    return _newest([self._titles(x)[-length:] for x in texts], most)

  def _bags(self, rows: Rows, count: int) -> dict[str, np.ndarray]:
    """'bag_...' int32 [N, P] of lists of texts."""
    found = {}
    for name, bag in self.clicks['bags'].items():
      pieces = _each(rows[name], functools.partial(self._pieces, bag))
      found[f'bag_{name}'] = self.arrays[f'bag:{name}'][
        pieces.reshape(count, -1)
      ]
    # Those of linear terms are the same.
    weights = {f'{n}:weight': x for n, x in found.items()}
    return found | {
      n: x for n, x in weights.items() if n in self.clicks['features']
    }

  def _pieces(self, bag: Mapping[str, Any], values: Any) -> np.ndarray:
    lists = list[Any]()  # Ids [N, P], 0 at the end.
    for value in values:
      if isinstance(value, str):
        value = value.split(bag['separator']) if value else []
      texts = [_normalized(str(x), self.clicks['lower']) for x in value]
      kept = [text for text in texts if text]
      lists.append(self._titles(kept) if kept else [])
    return _newest(lists, bag['max_pieces'])


def _each(
  values: Sequence[Any] | Repeated, find: Callable[[Sequence[Any]], np.ndarray]
) -> np.ndarray:
  """What `find` finds of values [N, ...]: once for each run of equal ones."""
  if isinstance(values, Repeated):
    return np.repeat(find(values.values), values.counts, axis=0)
  return find(values)


def _newest(lists: Sequence[Any], length: int) -> np.ndarray:
  """The last `length` of each list, int32 [N, length], 0 at the end."""
  found = np.zeros((len(lists), length), np.int32)
  for row, values in zip(found, lists, strict=True):
    kept = values[-length:]
    row[: len(kept)] = kept
  return found


def _normalized(text: str, lower: bool) -> str:
  """As `antjax.data.behavior_text.Normalizer` has it."""
  if not text.isascii():
    text = unicodedata.normalize('NFKC', text)
  if lower:
    text = unicodedata.normalize('NFKC', text.lower())
  if not text.isprintable():
    text = _CONTROL.sub(' ', text)
  return ' '.join(text.split())
