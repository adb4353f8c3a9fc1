# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts of rows as behaviors: item titles, and pieces of long texts.

Ibis expressions, but for the text work itself: an engine calls `behavior_text`
for it. A title is normalized once, however many rows have it.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import itertools
from typing import Any

import ibis
from ibis.expr import datatypes as dt
from ibis.expr import types as ir
import numpy as np
import pyarrow as pa

from antjax.data import prepare
from antjax.data.behavior_rows import PART, RowLayout
from antjax.data.behavior_text import Normalizer, Pieces, Splitter
from antjax.data.behavior_vocabulary import UNK

_CACHED_PIECES, _CACHED_TEXTS = 1 << 16, 1 << 14


@dataclasses.dataclass(frozen=True)
class Texts:
  """All behaviors of a source, before they have ids."""

  # (raw, title, cut, count): normalized text of each item text.
  titles: ir.Table
  # For each long text and bag: (row, texts, num_dropped, num_cut).
  pieces: tuple[ir.Table, ...]
  distinct: ir.Table  # (text, count): what the vocabulary has to hold.
  # For `dataset.json`: what was cut, dropped or empty.
  counts: Mapping[str, int]

  @property
  def columns(self) -> list[str]:
    """Columns of the rows that hold long texts."""
    return [f'text_{i}' for i in range(len(self.pieces))]

  def with_titles(self, rows: ir.Table, ids: ir.Table) -> ir.Table:
    """Adds `title`, the id of the row's text; `UNK` where it is empty."""
    known = self.titles.left_join(ids, self.titles.title == ids.text)
    known = known.select('raw', _id=ibis.coalesce(known.id, UNK).cast('int32'))
    joined = rows.join(known, rows.text == known.raw)
    return joined.rename(title='_id').drop('raw')

  def events(self, number: int, examples: ir.Table, ids: ir.Table) -> ir.Table:
    """Returns (behavior) of a long text, in the order of the examples."""
    rows = examples.filter(examples.draw == 0).select('split', 'time', 'row')
    pieces = self.pieces[number].select('row', 'texts')
    each = rows.join(pieces, 'row')
    place = ibis.range(each.texts.length())
    # An offset of `Table.unnest` takes DuckDB eight times as long.
    each = each.mutate(piece=each.texts.zip(place).unnest())
    each = each.mutate(texts=each.piece.f1, place=each.piece.f2)
    named = each.join(ids, each.texts == ids.text)
    order = ['split', 'time', 'row', 'place']
    return named.order_by(order).select(behavior='id')

  def lengths(self, number: int) -> dict[str, int]:
    """How many texts have how many pieces: '0', '1', '2', '3-4', '5-8', ..."""
    pieces = self.pieces[number]
    found = pieces.group_by(num=pieces.texts.length()).agg(count=pieces.count())
    counts: dict[int, int] = {}
    for row in found.to_pyarrow().to_pylist():
      power = max(int(row['num']) - 1, 0).bit_length() + (row['num'] > 0)
      counts[power] = counts.get(power, 0) + int(row['count'])
    names = {0: '0', 1: '1', 2: '2'}
    return {
      names.get(p, f'{2 ** (p - 2) + 1}-{2 ** (p - 1)}'): counts[p]
      for p in sorted(counts)
    }

  def with_lengths(self, examples: ir.Table) -> ir.Table:
    """Adds length_i, the number of pieces of each long text."""
    for i, pieces in enumerate(self.pieces):
      length = pieces.texts.length().cast('int64')
      lengths = pieces.select('row', **{f'length_{i}': length})
      examples = examples.join(lengths, 'row')
    return examples


def collect(
  stored: prepare.Steps,
  rows: ir.Table,
  layout: RowLayout,
  normalizer: Normalizer,
  splitter: Splitter,
) -> Texts:
  """Normalises and splits the texts of all rows.

  `rows` have `row`, `text` and text_0, text_1, ... The normalizer is applied to
  all texts; `max_chars` of the splitter holds for titles too.
  """
  con, whole = stored.con, dataclasses.replace(splitter, max_chars=0)
  raw = rows.group_by(raw='text').agg(count=rows.count())
  titles = raw.mutate(
    title=title_column(con, raw.raw, normalizer, splitter),
    whole=title_column(con, raw.raw, normalizer, whole),
  )
  is_cut = titles.title.length() < titles.whole.length()
  titles = stored('titles', titles.mutate(cut=is_cut).drop('whole'))
  pieces = []
  of_bags = dataclasses.replace(
    splitter, separators=PART, pattern='', max_behaviors=0
  )
  for i, name in enumerate(layout.parted):
    found = pieces_column(
      con,
      rows[f'text_{i}'],
      normalizer,
      of_bags if name in layout.bags else splitter,
    )
    table = rows.select('row', found=found)
    table = table.select(
      'row', *(table.found[n].name(n) for n in table.found.names)
    )
    pieces.append(stored(f'pieces_{i}', table))
  named = titles.filter(titles.title != '')
  parts = [named.select(text='title', count='count')]
  for table in pieces:
    each = table.select(text=table.texts.unnest())
    parts.append(each.group_by('text').agg(count=each.count()))
  both = parts[0] if len(parts) == 1 else ibis.union(*parts)
  distinct = both.group_by('text').agg(count=both['count'].sum().cast('int64'))

  def total(value: ir.NumericScalar) -> int:
    return int(value.to_pyarrow().as_py() or 0)

  empty = titles.filter(titles.title == '')
  counts = {
    'rows_without_text': total(empty['count'].sum()),
    'texts_cut': total(titles.cut.sum())
    + sum(total(t.num_cut.sum()) for t in pieces),
    'behaviors_dropped': sum(total(t.num_dropped.sum()) for t in pieces),
  }
  return Texts(titles, tuple(pieces), stored('distinct', distinct), counts)


def title_column(
  con: ibis.BaseBackend,
  column: ir.StringValue,
  normalizer: Normalizer,
  splitter: Splitter,
) -> ir.StringValue:
  """A column of whole texts, normalized and cut."""

  def behavior_title(text: str) -> str:
    return splitter.cut(normalizer(text))

  def behavior_titles(texts: pa.ChunkedArray) -> pa.Array:
    return pa.array(map(behavior_title, texts.to_pylist()), pa.string())

  return _call(con, column, behavior_title, behavior_titles, dt.string)


def pieces_column(
  con: ibis.BaseBackend,
  column: ir.StringValue,
  normalizer: Normalizer,
  splitter: Splitter,
) -> ir.StructValue:
  """A column of long texts as structs, see `behavior_text.Pieces`."""

  def behavior_pieces(text: str) -> dict[str, object]:
    return splitter.split(text, normalizer)._asdict()

  # The same behaviors come again and again, and the texts of a user or item.
  cached = functools.lru_cache(_CACHED_PIECES)(normalizer)

  @functools.lru_cache(_CACHED_TEXTS)
  def split(text: str) -> Pieces:
    return splitter.split(text, cached)

  def behavior_pieces_of(texts: pa.ChunkedArray) -> pa.Array:
    found = [split(text) for text in texts.to_pylist()]
    offsets = np.cumsum([0, *(len(p.texts) for p in found)], dtype=np.int32)
    flat = itertools.chain.from_iterable(p.texts for p in found)
    columns = {
      'texts': pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(flat, pa.string())
      ),
      'num_dropped': pa.array((p.num_dropped for p in found), pa.int64()),
      'num_cut': pa.array((p.num_cut for p in found), pa.int64()),
    }
    return pa.StructArray.from_arrays([*columns.values()], [*columns])

  kind = dt.Struct(
    {
      'texts': dt.Array(dt.string),
      'num_dropped': dt.int64,
      'num_cut': dt.int64,
    }
  )
  return _call(con, column, behavior_pieces, behavior_pieces_of, kind)


def _call(
  con: ibis.BaseBackend,
  column: ir.StringValue,
  one: Callable[[str], object],
  many: Callable[[pa.ChunkedArray], pa.Array],
  kind: dt.DataType,
) -> Any:
  """Calls a function for a column: by the row, or by the chunk on DuckDB.

  By the chunk is four times as fast. Spark gives single texts to both.
  """
  signature = ((dt.string,), kind)
  if con.name == 'duckdb':
    return ibis.udf.scalar.pyarrow(many, signature=signature)(column)
  return ibis.udf.scalar.python(one, signature=signature)(column)
