# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Items drawn as negatives for logs that only have what users did.

Uniform among the items of the event's domain, each once, none that the user
has at any time. Draws are a hash of (seed, row, attempt), so that they depend
neither on the engine nor on its threads.
"""

from collections.abc import Sequence

import ibis
from ibis.expr import types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import prepare
from antjax.shards import data_shard

# Draws beyond those needed, for items that the user has or that come twice.
_SPARE = 8


def draw(
  stored: prepare.Steps,
  positives: ir.Table,
  rows: ir.Table,
  item_columns: Sequence[str],
  num: int,
  seed: int,
) -> tuple[ir.Table, int]:
  """Returns the drawn examples, and how many are lacking.

  They have the columns of `positives`: those of the event, but with the drawn
  item, its title and `item_columns`, label 0 and `draw` from 1 to `num`.
  Features of items are ids already in `positives`, and users and items in
  `rows`, which are all rows of the source, with `domain`.
  """
  items = stored('items', _items(rows, positives, item_columns))
  domains = items.group_by('domain').agg(
    _first=items.place.min(), _size=items.count()
  )
  asked = positives.join(domains, 'domain').select('row', '_first', '_size')
  attempts = _attempts(stored, asked, num + _SPARE, seed)
  # A place names an item by itself: a join on the domain would let an engine
  # begin with all pairs of events and items of a domain.
  tried = attempts.join(items.select('place', 'item'), 'place')
  tried = tried.join(positives.select('row', 'user'), 'row')
  has = rows.select('user', 'item').distinct()
  tried = tried.anti_join(has, ['user', 'item'])
  tried = tried.group_by(['row', 'item']).agg(attempt=tried.attempt.min())
  order = ibis.window(group_by='row', order_by='attempt')
  tried = tried.mutate(draw=(ibis.row_number().over(order) + 1).cast('int32'))
  drawn = stored('drawn', tried.filter(tried.draw <= num))
  kept = [c for c in items.columns if c not in ('domain', 'place')]
  ours = drawn.select('row', 'item', 'draw').join(items.select(kept), 'item')
  rest = positives.drop('item', 'title', 'label', 'draw', *item_columns)
  joined = rest.join(ours, 'row').mutate(label=ibis.literal(0).cast('float32'))
  return joined, prepare.count(positives) * num - prepare.count(drawn)


def _items(
  rows: ir.Table, positives: ir.Table, item_columns: Sequence[str]
) -> ir.Table:
  """Returns the items: place, domain, title and features.

  Places number the items of a domain one after another. An item is what its
  first row says.
  """
  first = rows.group_by('item').agg(row=rows.row.min())
  items = rows.select('item', 'row', 'domain', 'title').join(
    first, ['item', 'row']
  )
  if item_columns:
    # Features are ids in `positives` only, which may lack an item's first row.
    seen = positives.group_by('item').agg(row=positives.row.min())
    coded = positives.select('item', 'row', *item_columns).join(
      seen, ['item', 'row']
    )
    items = items.inner_join(coded.drop('row'), 'item')
  order = ibis.window(order_by=['domain', 'item'])
  return items.mutate(place=ibis.row_number().over(order).cast('int64')).drop(
    'row'
  )


def _attempts(
  stored: prepare.Steps, asked: ir.Table, num: int, seed: int
) -> ir.Table:
  """(row, attempt, place), `num` of them a row."""
  path = stored.path('attempts')
  schema = pa.schema(
    [('row', pa.int64()), ('attempt', pa.int32()), ('place', pa.int64())]
  )
  attempt = np.arange(num, dtype=np.uint64)
  offset = np.uint64((seed + 1) * int(data_shard.GOLDEN) % 2**64)
  with pq.ParquetWriter(path, schema) as file:
    batches = prepare.stream(asked, path.parent, batch_rows=65_536)
    for batch in batches:
      row = batch['row'].to_numpy(zero_copy_only=False)
      size = batch['_size'].to_numpy(zero_copy_only=False).astype(np.uint64)
      bits = data_shard.mix(data_shard.mix(row.astype(np.uint64) + offset))
      bits = data_shard.mix(bits[:, None] + attempt[None] * data_shard.GOLDEN)
      place = (bits % size[:, None]).astype(np.int64)
      place += batch['_first'].to_numpy(zero_copy_only=False)[:, None]
      columns = [
        np.repeat(row, num),
        np.tile(attempt.astype(np.int32), len(row)),
        place.reshape(-1),
      ]
      file.write_batch(
        pa.record_batch([pa.array(c) for c in columns], schema=schema)
      )
  return stored.again('attempts')
