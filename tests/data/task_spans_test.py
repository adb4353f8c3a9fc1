# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Spans against loops over tasks; records against the rows they name."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antjax.data import task_spans
from antjax.data.task_spans import TaskConfig

CONFIG = TaskConfig(
  query_size=3, max_support=5, min_rows=5, test_share=0.25, max_rows=7
)


def as_tuples(spans):
  return list(
    zip(
      spans.task.tolist(),
      spans.start.tolist(),
      spans.stop.tolist(),
      spans.num_query.tolist(),
    )
  )


@hypothesis.given(st.lists(st.tuples(st.integers(1, 60), st.booleans())))
def test_spans_are_those_of_a_loop_over_tasks(tasks):
  num_rows = np.array([n for n, _ in tasks], np.int64)
  is_warm = np.array([w for _, w in tasks], bool)
  num_test = np.array([max(int(n * 0.25), 3) * (n >= 5) for n, _ in tasks], int)
  train, evaluated, first = [], [], 0
  for task, (n, warm) in enumerate(tasks):
    test = max(int(n * 0.25), 3) if n >= 5 else 0
    if warm:
      for a in range(0, n - test, 7):
        train.append((task, first + a, first + min(a + 7, n - test), 0))
      for a in range(n - test, n, 3):
        b = min(a + 3, n)
        evaluated.append((task, first + max(a - 5, 0), first + b, b - a))
    first += n
  given = num_rows, num_test, is_warm, CONFIG
  assert as_tuples(task_spans.training(*given)) == train
  assert as_tuples(task_spans.evaluation(*given)) == evaluated


def test_rows_of_no_span_are_not_held(tmp_path, monkeypatch):
  total = 100_000
  path = tmp_path / 'rows.parquet'
  table = pa.table({'a': np.arange(total)})
  pq.write_table(table, path, row_group_size=20_000, compression='none')
  spans = task_spans.Spans(*(np.array([x]) for x in (0, total - 5, total, 2)))
  held = []
  concat_tables = pa.concat_tables

  def watched(tables):
    held.append(sum(map(len, tables)))
    return concat_tables(tables)

  monkeypatch.setattr(task_spans.pa, 'concat_tables', watched)
  (batch,) = task_spans.record_batches(path, spans, ['a'])
  assert batch['a'].to_pylist() == [[*range(total - 5, total)]]
  assert max(held) < 20_000


@pytest.mark.parametrize('num_files', [1, 3])
@pytest.mark.parametrize('config', [CONFIG])
def test_records_hold_the_rows_of_their_spans(tmp_path, num_files, config):
  rng = np.random.default_rng(0)
  num_rows = rng.integers(1, 90, 1500)
  total = int(num_rows.sum())
  lengths = rng.integers(0, 4, total).astype(np.int32)
  values = pa.table({'tags': pa.array(np.arange(lengths.sum()), pa.int32())})
  rows = pa.table(
    {
      'a': pa.array(np.arange(total), pa.int64()),
      'other': np.zeros(total),
      'b': pa.array(rng.random(total), pa.float32()),
      'tags': lengths,
    }
  )
  path, tags = tmp_path / 'rows.parquet', tmp_path / 'tags.parquet'
  for table, to in ((rows, path), (values, tags)):
    if num_files == 1:
      pq.write_table(table, to, row_group_size=10_000)
      continue
    to.mkdir()  # As Spark writes them.
    cuts = np.linspace(0, len(table), num_files + 1).astype(int)
    for i, (a, b) in enumerate(zip(cuts[:-1], cuts[1:])):
      pq.write_table(table.slice(a, b - a), to / f'part-{i:05d}.parquet')
    (to / '_SUCCESS').write_bytes(b'')
  first = np.cumsum(lengths) - lengths
  is_warm = rng.random(1500) < 0.6
  for spans in (
    task_spans.training(num_rows, num_rows // 4, is_warm, config),
    task_spans.evaluation(num_rows, num_rows // 4, ~is_warm, config),
  ):
    batches = list(
      task_spans.record_batches(path, spans, ['a', 'b', 'tags'], {'tags': tags})
    )
    assert {b.num_rows for b in batches[:-1]} == {256}
    table = pa.Table.from_batches(batches)
    assert table['task'].to_pylist() == spans.task.tolist()
    assert table['num_query'].to_pylist() == spans.num_query.tolist()
    labels = rows['b'].to_pylist()
    for a, b, x, label, lists in zip(
      spans.start,
      spans.stop,
      table['a'].to_pylist(),
      table['b'].to_pylist(),
      table['tags'].to_pylist(),
    ):
      assert x == list(range(a, b))
      assert label == labels[a:b]
      assert lists == [
        list(range(first[i], first[i] + lengths[i])) for i in range(a, b)
      ]
