# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A store of many builds takes the bytes of its rows, and is read from them."""

import dataclasses
import json
import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

from antjax.ctr.bahe import store, store_rows, table
from antjax.ctr.bahe.store import BehaviorStore, StoreWriter
from antjax.mesh import mesh as mesh_lib
from tests.ctr.bahe import store_test

NEW = dataclasses.replace(store_test.NEW, dim=384)


def rows_of(num_rows):
  rng = np.random.default_rng(0)
  return rng.standard_normal((num_rows, NEW.dim)).astype(np.float32)


def build(path, rows, new=NEW):
  """A build of what is missing."""
  writer = StoreWriter(path, new)
  for start, stop in writer.missing(0, len(rows)):
    writer.write(start, rows[start:stop])
  return writer.commit(len(rows))


def size_of(path):
  """Bytes on the disk, in blocks of 4 KiB."""
  sizes = [file.stat().st_size for file in path.rglob('*') if file.is_file()]
  return sum(-(-size // 4096) * 4096 for size in sizes)


def test_a_build_a_day_takes_the_bytes_of_its_rows(tmp_path):
  rows = rows_of(50 * 40)
  for stop in range(50, len(rows) + 1, 50):
    manifest = build(tmp_path, rows[:stop])
    assert len(manifest.parts) <= 1 + np.log2(stop / 50)
    if stop > 300:
      assert size_of(tmp_path) <= 1.2 * 2 * rows[:stop].size
  found = BehaviorStore.open(tmp_path)
  np.testing.assert_array_equal(found.load(np.float16), rows.astype('f2'))
  named = {name for _, _, name in manifest.parts}
  assert {file.name for file in (tmp_path / 'parts').iterdir()} == named


def test_joining_stops_at_large_files(tmp_path, monkeypatch):
  monkeypatch.setattr(store, '_MERGED_ROWS', 100)
  rows = rows_of(450)
  writer = StoreWriter(tmp_path, NEW)
  for start in range(0, 450, 30):
    writer.write(start, rows[start : start + 30])
  parts = writer.commit(450).parts
  assert [stop - start for start, stop, _ in parts] == [90] * 5
  assert StoreWriter(tmp_path, NEW).commit(450).parts == parts
  np.testing.assert_array_equal(
    BehaviorStore.open(tmp_path).load(np.float16), rows.astype('f2')
  )


@pytest.mark.parametrize('calls', range(5))
def test_a_killed_joining_leaves_a_whole_store(tmp_path, monkeypatch, calls):
  rows = rows_of(200)
  build(tmp_path, rows[:100])
  writer = StoreWriter(tmp_path, NEW)
  writer.write(100, rows[100:])
  left = [calls]
  for module, name in ((os, 'replace'), (os, 'fsync'), (os, 'unlink')):
    real = getattr(module, name)

    def killed(*args, real=real, **kwargs):
      left[0] -= 1
      if left[0] < 0:
        raise KeyboardInterrupt
      return real(*args, **kwargs)

    monkeypatch.setattr(module, name, killed)
  with pytest.raises(KeyboardInterrupt):
    writer.commit(200)
    store_rows.write(tmp_path / 'another', [b'file'])
  monkeypatch.undo()
  found = BehaviorStore.open(tmp_path)
  np.testing.assert_array_equal(
    found.load(np.float16), rows[: found.rows].astype('f2')
  )
  assert len(build(tmp_path, rows).parts) == 1
  for file in tmp_path.rglob('.*.new'):
    os.utime(file, (0, 0))
  build(tmp_path, rows)
  assert len([*tmp_path.rglob('*')]) == 4  # Manifest, lock, parts, one file.


def test_readers_go_on_while_files_are_joined(tmp_path, monkeypatch):
  rows = rows_of(120)
  build(tmp_path, rows[:60])
  reader = BehaviorStore.open(tmp_path)
  opened = store_rows.opened

  def late(*args):
    monkeypatch.undo()
    build(tmp_path, rows)  # Between the manifest and the files.
    return opened(*args)

  monkeypatch.setattr(store_rows, 'opened', late)
  found = BehaviorStore.open(tmp_path)
  assert found.rows == 120
  np.testing.assert_array_equal(reader.load(np.float16), rows[:60].astype('f2'))
  np.testing.assert_array_equal(found.load(np.float16), rows.astype('f2'))


@pytest.mark.parametrize('dtype', ['float16', 'int8'])
def test_hot_rows_are_those_of_the_files(tmp_path, dtype):
  new = dataclasses.replace(NEW, dtype=dtype)
  rows = rows_of(300)
  for stop in (200, 290, 300):
    build(tmp_path, rows[:stop], new)
  found = BehaviorStore.open(tmp_path)
  assert len(found.files) == 3
  expected = found.load()
  hot = found.table(hot_bytes=7 * 4 * NEW.dim)
  assert (hot.shape, hot.nbytes, hot.dtype) == (
    *((300, NEW.dim), 300 * 4 * NEW.dim, np.float32),
  )

  def ask(seed):
    rng = np.random.default_rng(seed)
    for _ in range(100):
      ids = rng.integers(0, rng.choice([5, 300]), rng.integers(0, 40))
      np.testing.assert_array_equal(hot[ids], expected[ids])

  threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
  for thread in threads:
    thread.start()
  ask(4)
  for thread in threads:
    thread.join()
  hot[np.arange(5)]
  hot._files = None  # Not asked again.
  np.testing.assert_array_equal(hot[np.array([4, 0, 4])], expected[[4, 0, 4]])
  np.testing.assert_array_equal(found.table()[3:290:7], expected[3:290:7])
  for wrong in (-1, 300):
    with pytest.raises(IndexError, match='of a store of 300 rows'):
      found.table()[np.array([0, wrong])]


@pytest.mark.parametrize('home', ['device', 'split', 'host', 'disk'])
def test_a_table_is_made_of_files(tmp_path, home):
  rows = rows_of(50)
  build(tmp_path, rows)
  mesh = mesh_lib.make_mesh(intra=1, devices=jax.devices()[:1])
  found = BehaviorStore.open(tmp_path).table(np.float16)
  placed, said = table.place(found, mesh, home=home, max_distinct=9)
  assert 'on the disk' in said or home != 'disk'
  if home in ('host', 'disk'):
    assert (placed.array is found) == (home == 'disk')
    placed = dataclasses.replace(placed, array=placed.array[:])
    np.testing.assert_array_equal(placed.array, rows.astype('f2'))
  else:
    np.testing.assert_array_equal(
      placed.constants['behavior_rows'], rows.astype('f2')
    )


def test_the_disk_is_where_memory_does_not_reach():
  mesh = mesh_lib.make_mesh(intra=1, devices=jax.devices()[:1])
  rows = np.zeros((10, 8), np.float32)
  for device_bytes, host_bytes, home in (
    *((1e4, 1e4, 'every device'), (1e2, 1e4, 'host'), (1e2, 1e2, 'disk')),
  ):
    _, said = table.place(
      rows,
      mesh,
      device_bytes=device_bytes,
      host_bytes=host_bytes,
      max_distinct=9,
    )
    assert f' on {"the " * (home != "every device")}{home}' in said


def write_old(path, rows, stops, dtype):
  """A store as versions before 2026-12 wrote it, a database a build."""
  stored = jnp.dtype(dtype)
  parts, start = [], 0
  scales = np.abs(rows).max(axis=1) / 127
  arrays = {'values': (rows.astype(stored), dtype)}
  if dtype == 'int8':
    arrays = {
      'values': (np.rint(rows / scales[:, None]).astype('i1'), 'int8'),
      'scales': (scales, 'float32'),
    }
  for number, stop in enumerate(stops):
    name = f'{number:016x}'
    base = {'driver': 'file', 'path': f'{path}/parts/{name}/'}
    for key, (values, kind) in arrays.items():
      shape = [2**31 - 1, *values.shape[1:]]
      spec = {
        'driver': 'zarr3',
        'kvstore': {'driver': 'ocdbt', 'base': base, 'path': f'{key}/'},
        'metadata': {
          'shape': shape,
          'data_type': kind,
          'chunk_grid': {
            'name': 'regular',
            'configuration': {'chunk_shape': [1024, *shape[1:]]},
          },
        },
      }
      array = ts.open(spec, create=True).result()
      array[start:stop].write(values[start:stop]).result()
    parts.append((start, stop, name))
    start = stop
  manifest = dataclasses.replace(
    NEW, dtype=dtype, rows=start, parts=tuple(parts), store='ab'
  )
  content = json.loads(manifest.to_json()) | {'version': 1}
  (path / 'manifest.json').write_text(json.dumps(content))
  return manifest


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'int8'])
def test_old_stores_are_read_and_their_small_builds_joined(tmp_path, dtype):
  rows = rows_of(300)
  manifest = write_old(tmp_path, rows, (200, 250, 290), dtype)
  before = BehaviorStore.open(tmp_path)
  expected = before.load()
  np.testing.assert_allclose(expected, rows[:290], rtol=0.05, atol=0.05)
  np.testing.assert_array_equal(
    before.table()[np.array([289, 0, 220])], expected[[289, 0, 220]]
  )
  name = manifest.parts[0][2]
  database = tmp_path / 'parts' / name / 'manifest.ocdbt'
  database.rename(tmp_path / 'away')
  with pytest.raises(ValueError, match=f'part {name} is gone'):
    BehaviorStore.open(tmp_path)
  (tmp_path / 'away').rename(database)
  size = size_of(tmp_path)
  build(tmp_path, rows, manifest)
  found = BehaviorStore.open(tmp_path)
  np.testing.assert_array_equal(found.load()[:290], expected)
  np.testing.assert_allclose(found.load(), rows, rtol=0.05, atol=0.05)
  assert len(found.files) == 1 and size_of(tmp_path) < 0.2 * size
