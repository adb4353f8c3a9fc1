# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exported models as requests use them: fields of JSON to scores.

Errors name field, row, what was got and what is needed.
"""

from collections.abc import Mapping, Sequence
import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from antjax.serving import loader, scorer
from antjax.serving.batcher import Request
from antjax.serving.click_loader import ClickScorer, PREDICTION, Repeated, SCORE

_MAX_TEXT = 2_000  # Characters.
_MAX_LIST = 1_000  # Values of a list in one row.
_LARGEST = 2**63
_TASKS = (1, 8)  # Users scored at once by a meta-learned model.
_QUERY_ROWS = (128, 1024)


class BadField(ValueError):
  """A field of a request is wrong; `facts` are for programs."""

  def __init__(self, field: str, got: str, needed: str, row: int | None = None):
    where = field if row is None else f'{field}, row {row}'
    super().__init__(f'{where}: got {got}; needed is {needed}.')
    self.facts = {'field': field, 'row': row, 'got': got, 'needed': needed}


def shown(value: Any) -> str:
  """A value as an error has it, at most 80 characters."""
  text = repr(value)[:81]
  return text if len(text) < 81 else f'{text[:77]}...'


def need(fields: Any, known: Sequence[str], needed: Sequence[str]) -> None:
  """Checks the names in a request.

  Raises:
    BadField: It is no object, one is missing, or one is unknown.
  """
  if not isinstance(fields, dict):
    raise BadField('request', shown(fields), f'an object: {", ".join(needed)}')
  for name in needed:
    if name not in fields:
      got = ', '.join(map(str, fields)) or 'nothing'
      raise BadField(name, f'only {got[:80]}', 'this field too')
  for name in fields:
    if name not in known:
      raise BadField(str(name)[:80], 'an unknown field', ', '.join(known))


def check_count(field: str, count: int, most: int) -> None:
  """Checks a number of rows."""
  if not 0 < count <= most:
    raise BadField(field, f'{count} rows', f'1 to {most} rows a request')


class ServedClicks:
  """A click model: {"rows": {column: values}} or {"rows": [{column: value}]}.

  A value alone holds for all rows.
  """

  def __init__(self, model: ClickScorer, max_rows: int):
    """Compiles nothing yet; a request has at most `max_rows`."""
    self.model, self._max_rows = model, max_rows
    about = model.clicks
    self._kinds: dict[str, str] = {
      n: c['type'] for n, c in about['columns'].items()
    }
    self._kinds |= dict.fromkeys(about['numbers'], 'number')
    if about['times']:
      self._kinds[about['time']] = 'time'
    self._kinds |= dict.fromkeys(about['histories'], 'texts')
    self._kinds |= dict.fromkeys(about['bags'], 'bag')

  def read(self, fields: Any) -> Request:
    """See `Served`."""
    need(fields, ['rows'], ['rows'])
    rows = fields['rows']
    if isinstance(rows, list):
      rows = self._columns(rows)
    if not isinstance(rows, dict):
      raise BadField('rows', shown(rows), 'an object of columns, or objects')
    for name in self.model.clicks['needed']:
      if name not in rows:
        needed = ', '.join(self.model.clicks['needed'])
        raise BadField('rows', f'no column {name!r}', needed)
    rows = {n: x for n, x in rows.items() if n in self._kinds}
    sizes = {n: len(x) for n, x in rows.items() if isinstance(x, list)}
    count = max(sizes.values(), default=1)
    check_count('rows', count, self._max_rows)
    for name, values in rows.items():
      if sizes.get(name, count) != count:
        got = f'{sizes[name]} values'
        raise BadField(f'rows.{name}', got, f'{count}, as other columns have')
      is_list = isinstance(values, list)
      _check_column(name, self._kinds[name], values if is_list else [values])
    return Request(rows, count)

  def _columns(self, rows: list[Any]) -> dict[str, list[Any]]:
    names = [*rows[0]] if rows and isinstance(rows[0], dict) else []
    for i, row in enumerate(rows):
      if not isinstance(row, dict) or row.keys() != {*names}:
        got = shown([*row] if isinstance(row, dict) else row)
        alike = f'an object of {", ".join(names)}, as row 0 has'
        needed = alike if names else 'an object of columns'
        raise BadField('rows', got, needed, i)
    return {n: [row[n] for row in rows] for n in names}

  def score(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
    """See `Served`: 'score' is a probability, 'logit' what it is made of."""
    alike: dict[frozenset[str], list[int]] = {}
    for i, request in enumerate(requests):
      alike.setdefault(frozenset(request.content), []).append(i)
    answers: list[dict[str, Any]] = [{}] * len(requests)
    for names, places in alike.items():
      some = [requests[i] for i in places]
      logits, _ = self.model.score({n: _joined(n, some) for n in names})
      found: dict[str, np.ndarray] = {}
      for name, values in logits.items():
        name = SCORE if name == PREDICTION else name
        found[name] = 1 / (1 + np.exp(-values.astype(np.float64)))
        found[f'{name}_logit'] = values
      start = 0
      for i, request in zip(places, some, strict=True):
        stop = start + request.num_rows
        answers[i] = {n: x[start:stop] for n, x in found.items()}
        start = stop
    return answers

  def warm(self) -> None:
    """See `Served`."""
    row: dict[str, Any] = {}
    for name in self.model.clicks['needed']:
      kind = self._kinds[name]
      row[name] = '' if kind in ('string', 'bag') else 0
    for size in self.model.clicks['sizes']:
      self.model.score({n: [x] * size for n, x in row.items()})


def _joined(name: str, requests: Sequence[Request]) -> list[Any] | Repeated:
  """A column of all rows of requests."""
  values = [request.content[name] for request in requests]
  counts = [request.num_rows for request in requests]
  if not any(isinstance(value, list) for value in values):
    return Repeated(values, counts)
  lists = (
    value if isinstance(value, list) else [value] * count
    for value, count in zip(values, counts, strict=True)
  )
  return [*itertools.chain.from_iterable(lists)]


def _check_column(name: str, kind: str, values: list[Any]) -> None:
  """Raises BadField at the first value that is not of a column's kind."""
  if kind == 'number':
    kinds, needed = {int, float, type(None)}, 'a number, or null'
  elif kind == 'time' or kind.startswith('float'):
    kinds, needed = {int, float}, 'a number'
  elif kind == 'texts':
    kinds, needed = {list}, f'a list of at most {_MAX_LIST} texts'
  elif kind == 'bag':
    kinds, needed = {str, list}, 'a text, or a list of texts'
  elif kind == 'string':
    kinds, needed = {str, int}, f'a text of at most {_MAX_TEXT} characters'
  else:
    kinds, needed = {int}, f'an integer ({kind})'
  found = {*map(type, values)}
  least, most = -_LARGEST, _LARGEST - 1
  if kind.startswith(('int', 'uint')):
    least, most = np.iinfo(kind).min, np.iinfo(kind).max
  if found <= kinds and not found & {list, int}:
    if float in found:
      is_good = all(map(math.isfinite, filter(None, values)))
    else:
      is_good = str not in found or len(max(values, key=_length)) <= _MAX_TEXT
    if is_good:
      return
  for row, value in enumerate(values):
    is_good = type(value) in kinds
    if type(value) is int:
      is_good &= least <= value <= most
    elif type(value) is str:
      is_good &= len(value) <= _MAX_TEXT
    elif type(value) is float:
      is_good &= math.isfinite(value)
    elif type(value) is list:
      is_good &= len(value) <= _MAX_LIST and all(
        type(x) is str and len(x) <= _MAX_TEXT for x in value
      )
    if not is_good:
      raise BadField(f'rows.{name}', shown(value), needed, row)


def _length(value: Any) -> int:
  return len(value) if type(value) is str else 0


class _User(NamedTuple):
  group: tuple[int, int]  # Support rows and query rows that are computed.
  record: dict[str, Any]
  num_query: int
  fields: Any  # As they were asked: ids are of a revision.
  revision: int


class ServedUsers:
  """A meta-learned model: {"query": {feature: values}}, scored unadapted.

  With "support" and "labels", what the user has rated, it adapts to the user.
  """

  def __init__(self, model: loader.Model, max_rows: int):
    """Compiles nothing yet; a query has at most `max_rows`."""
    self.model, self._max_rows = model, max_rows
    least = model.manifest['query_size']
    sizes = {least, *(n for n in _QUERY_ROWS if n > least)}
    # Not above what requests have, rounded up as the model does.
    most = max(least, 1 << (max_rows - 1).bit_length())
    self._query_sizes = sorted(n for n in {*sizes, most} if n <= most)

  def read(self, fields: Any) -> Request:
    """See `Served`."""
    revision = self.model.revision
    is_adapting = isinstance(fields, dict) and (
      'support' in fields or 'labels' in fields
    )
    parts = ('query',) + ('support', 'labels') * is_adapting
    need(fields, ['support', 'labels', 'query'], parts)
    query, num_query = self._part('query', fields['query'])
    check_count('query', num_query, self._max_rows)
    size = next(n for n in self._query_sizes if n >= num_query)
    padded = _edged(query, num_query, size)
    record = {'num_query': size, 'labels': [0.0] * size, **padded}
    num_support = 0
    if is_adapting:
      labels = fields['labels']
      support, num_support = self._part('support', fields['support'])
      most = self.model.manifest['support_sizes'][-1]
      check_count('support', num_support, most)
      self._check_labels(labels, num_support)
      support = _edged(support, num_support, num_support)
      record['labels'] = [*labels, *record['labels']]
      for name, values in support.items():
        record[name] = np.concatenate([values, padded[name]])
    sizes = self.model.manifest['support_sizes']
    group = next(n for n in (0, *sizes) if n >= num_support), size
    user = _User(group, record, num_query, fields, revision)
    return Request(user, num_query)

  def _part(self, what: str, values: Any) -> tuple[dict[str, np.ndarray], int]:
    """Ids of one part, and its rows."""
    if not isinstance(values, dict):
      raise BadField(what, shown(values), 'an object: feature -> values')
    for name, given in values.items():
      listed = given if isinstance(given, list) else [given]
      for row, value in enumerate(listed):
        for x in value if isinstance(value, list) else [value]:
          if type(x) not in (str, int, float) or (
            len(x) > _MAX_TEXT if type(x) is str else abs(x) >= _LARGEST
          ):
            needed = 'a text or a number'
            raise BadField(f'{what}.{name}', shown(x), needed, row)
    try:
      ids = scorer.user_ids(self.model, values)
    except ValueError as error:
      raise ValueError(f'{what}: {error}') from error
    features = self.model.manifest['features']
    counts = {}
    for name, array in ids.items():
      is_list = features.get(name, {}).get('max_values', 1) > 1
      if array.ndim == 1 + is_list:
        counts[name] = len(array)
    if len({*counts.values()}) > 1:
      raise BadField(what, f'unequal lengths {counts}', 'one value a row')
    return ids, next(iter(counts.values()), 1)

  def _check_labels(self, labels: Any, count: int) -> None:
    if not isinstance(labels, list) or len(labels) != count:
      got = f'{len(labels)} values' if isinstance(labels, list) else 'no list'
      raise BadField('labels', got, f'a list of {count}, one a support row')
    known = loader.LABELS.get(self.model.manifest.get('kind', ''), ())
    for row, label in enumerate(labels):
      if type(label) not in (int, float) or (known and label not in known):
        needed = ', '.join(map(str, known)) or 'a number'
        raise BadField('labels', shown(label), needed, row)

  def score(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
    """See `Served`: columns of the model, such as 'prediction'."""
    users: list[_User] = [
      request.content
      if request.content.revision == self.model.revision
      else self.read(request.content.fields).content
      for request in requests
    ]
    groups: dict[tuple[int, int], list[int]] = {}
    for i, user in enumerate(users):
      groups.setdefault(user.group, []).append(i)
    answers: list[dict[str, Any]] = [{} for _ in requests]
    for places in groups.values():
      tasks = _TASKS[0] if len(places) == 1 else _TASKS[-1]
      records = ({'task': i, **users[i].record} for i in places)
      for found in scorer.score(
        self.model, records, label='labels', batch_size=tasks
      ):
        task = found.pop('task')
        found.pop('row')
        for i in np.unique(task):
          rows = np.flatnonzero(task == i)[: users[i].num_query]
          answers[i] = {n: x[rows].tolist() for n, x in found.items()}
    return answers

  def warm(self) -> None:
    """See `Served`."""
    manifest = self.model.manifest
    label = loader.LABELS.get(manifest.get('kind', ''), (1,))[0]
    for size in self._query_sizes:
      for support in (0, *manifest['support_sizes']):
        count = support + size
        record: dict[str, Any] = {'num_query': size, 'labels': [label] * count}
        for name, feature in manifest['features'].items():
          width = feature['max_values']
          shape = (count, width)[: 1 + (width > 1)]
          record[name] = np.zeros(shape, np.int32)
        for name in manifest['numeric']:
          record[name] = np.zeros(count, np.float32)
        user = _User((support, size), record, size, {}, self.model.revision)
        for tasks in _TASKS:
          self.score([Request(user, size)] * tasks)


def _edged(
  columns: Mapping[str, np.ndarray], count: int, size: int
) -> dict[str, np.ndarray]:
  """Columns of `count` rows, or one for all, as `size`: the last repeated."""
  place = np.minimum(np.arange(size), count - 1)
  return {
    n: x[place] if x.ndim else np.full(size, x) for n, x in columns.items()
  }
