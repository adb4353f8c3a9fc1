# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables by id, a block at a time: the same rows, and little memory."""

import jax
import numpy as np
import pytest

from antjax.embedding import stream
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from tests.cases import first_fast


def make(level='global', intra=4, rows=(53, 240, 7), dim=3, dtype='float32'):
  specs = [
    TableSpec(f't{i}', n, dim, level, Adam(), dtype=dtype)
    for i, n in enumerate(rows)
  ]
  tables = EmbeddingTables(
    specs, {s.name: s.name for s in specs}, mesh=make_mesh(intra=intra)
  )
  init = jax.jit(tables.init, out_shardings=tables.shardings())
  return tables, init(jax.random.key(0))


@pytest.mark.parametrize(
  ('level', 'intra', 'dtype'),
  first_fast(
    ('global', 4, 'float32'),
    ('intra', 4, 'bfloat16'),
    ('none', 2, 'float32'),
    ('global', 8, 'bfloat16'),
    ('intra', 2, 'int8'),
  ),
)
def test_blocks_are_the_rows_in_order(monkeypatch, level, intra, dtype):
  monkeypatch.setattr(stream, '_BLOCK_BYTES', 200)
  tables, state = make(level, intra, dtype=dtype)
  whole = tables.to_canonical(state)
  for name, found in tables.streams(state).items():
    size = tables.specs[name].num_embeddings
    for one, other in zip(
      jax.tree.leaves(found), jax.tree.leaves(whole[name]), strict=True
    ):
      assert one.shape == (size, *other.shape[1:])
      assert one.nbytes == size * other[:1].nbytes
      np.testing.assert_array_equal(np.asarray(one), np.asarray(other)[:size])
  found = tables.streams(state)['t1']['table']
  firsts = [first for first, _ in found]
  w = tables.stack_of['t1'].num_owners
  assert firsts == [*range(0, 240, w * found.chunk[0])]
  assert (len(firsts) > 1) == (found.chunk[0] < -(-240 // w))


def live_bytes():
  """Bytes of arrays over all devices; views of a device's part are none."""
  return sum(
    x.nbytes for x in jax.live_arrays() if len(x.sharding.device_set) == 8
  )


def test_reading_and_writing_take_a_few_blocks_of_memory(monkeypatch):
  monkeypatch.setattr(stream, '_BLOCK_BYTES', 1 << 14)
  tables, state = make(rows=(100_000,), dim=16)
  most, before = 0, live_bytes()
  of = tables.streams(state)['t0']['table']
  rows = np.zeros(of.shape, of.dtype)
  for first, block in of:
    most = max(most, live_bytes() - before)
    part = np.asarray(block)[: len(of) - first]
    rows[first : first + len(part)] = part
  assert 0 < most <= 8 * 3 * (1 << 14)
  whole = np.asarray(tables.to_canonical(state)['t0']['table'])[: len(rows)]
  np.testing.assert_array_equal(rows, whole)
  del state, of, block
  sinks, most, before = tables.sinks(), 0, live_bytes()

  def read(start, stop):
    nonlocal most
    most = max(most, live_bytes() - before)
    return lambda: rows[start:stop]

  sinks['t0']['table'].take(1, read)
  assert most <= 8 * 3 * (1 << 14)
  new = tables.from_canonical(sinks)
  found = np.asarray(tables.to_canonical(new)['t0']['table'])[: len(rows)]
  np.testing.assert_array_equal(found, rows)


def test_a_block_takes_its_own_memory_only():
  tables, state = make(rows=(100_000,), dim=16)
  found = tables.streams(state)['t0']['table']
  at = found.array, np.int32(0)
  for rows in (64, 1024):
    args = tables.mesh, found.stack, found.spec, rows
    made = stream._block.lower(*args, *at).compile().memory_analysis()
    block = rows * 16 * 4
    assert made.output_size_in_bytes <= block
    assert made.temp_size_in_bytes <= 4 * block
