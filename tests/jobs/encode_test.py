# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts in files become vectors in files, by parts, once each."""

import gzip
import json

import jax
from jax.experimental import multihost_utils
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorstore

from antjax.jobs import encode, script
from antjax.lm.text_encoder import TextEncoder
from antjax.lm.token_cache import RowTokenizer

TEXTS = ['tea' * (i % 5) + f'{i}' for i in range(25)]
VECTORS = np.array([[len(text), ord(text[-1])] for text in TEXTS], np.float32)


class Encoder(TextEncoder):
  """(characters, the last one) of a text, in place of a language model."""

  def __init__(self, path, **options):
    self.options = options
    super().__init__(
      lambda params, tokens, lengths: np.float32(1) * tokens[:, :2],
      {},
      dim=2,
      max_tokens=4,
    )
    self.tokenizer = RowTokenizer.__new__(RowTokenizer)
    self.tokenizer.num_cut = 0

  def tokens(self, texts):
    rows = [[len(text), ord(text[-1])] if text else [] for text in texts]
    offsets = np.cumsum([0] + [len(row) for row in rows])
    return np.array(sum(rows, []), np.int32), offsets


@pytest.fixture
def config(monkeypatch, tmp_path):
  """A function that makes a config with a source of TEXTS."""
  monkeypatch.setattr(encode, 'SentenceEncoder', Encoder)
  monkeypatch.setattr(encode.distributed, 'initialize', lambda: None)
  monkeypatch.setattr(script.stop_request, 'install', lambda: None)
  monkeypatch.setattr(multihost_utils, 'sync_global_devices', lambda name: None)
  ids = [f'id {i}' for i in range(len(TEXTS))]
  table = pa.table({'text': TEXTS, 'id': ids})
  pq.write_table(table, tmp_path / 'texts.parquet', row_group_size=4)
  (tmp_path / 'model').mkdir()

  def made(**options):
    options = {'out': f'{tmp_path}/out', 'part_rows': 6} | options
    return encode.Config(
      model=f'{tmp_path}/model',
      texts=str(options.pop('texts', tmp_path / 'texts.parquet')),
      **options,
    )

  return made


def vectors(out):
  table = pq.read_table(out / 'vectors')
  assert table['row'].to_pylist() == list(range(len(table)))
  return np.array(table['vector'].to_pylist())


def test_a_killed_run_goes_on_and_other_settings_are_refused(
  config, tmp_path, monkeypatch
):
  out = tmp_path / 'out'
  write = encode._ParquetWriter.write

  def dies(self, part, vectors):
    if part[0] == 2:
      (out / 'vectors' / '.new-part-00002.parquet').write_text('half')
      raise KeyboardInterrupt
    write(self, part, vectors)

  monkeypatch.setattr(encode._ParquetWriter, 'write', dies)
  with pytest.raises(KeyboardInterrupt):
    encode.main(config(id_column='id'))
  assert json.loads((out / 'dataset.json').read_text())['files'] == {}
  times = {p: p.stat().st_mtime_ns for p in out.glob('vectors/part-*')}
  assert len(times) == 2
  monkeypatch.setattr(encode._ParquetWriter, 'write', write)
  encode.main(config(id_column='id'))
  assert all(path.stat().st_mtime_ns == n for path, n in times.items())
  np.testing.assert_array_equal(vectors(out), VECTORS)
  table = pq.read_table(out / 'vectors')
  assert table['id'].to_pylist()[7] == 'id 7'
  assert table.schema.field('vector').type == pa.list_(pa.float32(), 2)
  about = json.loads((out / 'dataset.json').read_text())
  assert (about['rows'], about['dim']) == (25, 2) and len(about['files']) == 5
  encode.main(config(id_column='id'))  # Nothing is left to do.
  with pytest.raises(ValueError, match='made with .*normalize=False .now True'):
    encode.main(config(id_column='id', normalize=True))
  encode.main(config(dtype='float16', overwrite=True, part_rows=20))
  assert len([*out.glob('vectors/part-*')]) == 2
  np.testing.assert_array_equal(vectors(out), VECTORS)


@pytest.mark.parametrize('format', ['parquet', 'tensorstore'])
def test_processes_share_the_parts(config, tmp_path, monkeypatch, format):
  monkeypatch.setattr(encode, '_CHUNK_ROWS', 6)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  for i, done in ((0, False), (1, True)):
    monkeypatch.setattr(jax, 'process_index', lambda i=i: i)
    encode.main(config(format=format))
    about = json.loads((tmp_path / 'out' / 'dataset.json').read_text())
    assert bool(about['files']) == done
  if format == 'parquet':
    found = vectors(tmp_path / 'out')
  else:
    kvstore = {'driver': 'file', 'path': f'{tmp_path}/out/vectors.zarr'}
    spec = {'driver': 'zarr3', 'kvstore': kvstore}
    found = tensorstore.open(spec).result().read().result()
  np.testing.assert_array_equal(found, VECTORS)


@pytest.mark.parametrize('kind', ['txt', 'csv', 'tsv'])
def test_text_files(config, tmp_path, kind):
  path = tmp_path / f'texts.{kind}'
  if kind == 'txt':
    path.write_text('\ufeff' + '\r\n'.join(TEXTS), newline='')
    with pytest.raises(ValueError, match='no column id'):
      encode.main(config(texts=path, id_column='id', out=f'{tmp_path}/ids'))
  else:
    mark = ',' if kind == 'csv' else '\t'
    lines = [f'{i}{mark}"{text}"' for i, text in enumerate(TEXTS)]
    path.write_text('\n'.join([f'id{mark}text', *lines]))
  encode.main(config(texts=path))
  np.testing.assert_array_equal(vectors(tmp_path / 'out'), VECTORS)
  path.write_bytes(b'id,text\n\xff,\xff\n')
  with pytest.raises(ValueError, match=f'texts.{kind} cannot be read'):
    encode.main(config(texts=path, out=f'{tmp_path}/other'))


LONG = 'x' * (1 << 25)


@pytest.mark.parametrize(
  'name, content, found',
  [
    ('a.txt', b'x\0y\n\nz\r\n', [[3, 121], [0, 0], [1, 122]]),
    ('a.txt.gz', gzip.compress(b'text\nz'), [[4, 116], [1, 122]]),
    ('a.tsv.gz', gzip.compress(b'n\ttext\n1\tz,\n'), [[2, 44]]),
    ('a.txt.gz', gzip.compress(b'text\nz')[:-9], 'a.txt.gz cannot be read: C'),
    ('a.txt', b'', 'a.txt holds no texts'),
    ('a.csv', b'text\r\n', 'a.csv holds no texts'),
    ('a.csv', b'', 'it has no header'),
    ('a.csv', b'text,text\na,b\n', 'it has 2 columns text'),
    ('a.csv', b'n,text\n1,x\n2,"a\n3,b\n', 'line 3: a quote is never closed'),
    ('a.csv', b'n,text\n1,a\n2\n', 'Expected 2 columns, got 1: 2'),
    ('a.csv', f'text\n{LONG}\nb'.encode(), [[len(LONG), 120], [1, 98]]),
    ('a.csv', b'n,text\n' + b'1,"a\r\nb"\r\n' * 2, [[4, 98]] * 2),
  ],
)
def test_odd_files_are_read_whole_or_refused(
  config, tmp_path, name, content, found
):
  path = tmp_path / name
  path.write_bytes(content)
  if isinstance(found, list):
    encode.main(config(texts=path))
    assert vectors(tmp_path / 'out').tolist() == found
    return
  with pytest.raises(ValueError, match=found):
    encode.main(config(texts=path))
  assert not (tmp_path / 'out').exists()


def test_columns_of_other_types(config, tmp_path):
  folder = tmp_path / 'files'
  folder.mkdir()
  texts = pa.array(['a', None, 'a'])
  kinds = [texts.dictionary_encode(), texts.cast(pa.string_view())]
  for i, kind in enumerate([texts, *kinds, texts.cast(pa.large_string())]):
    table = pa.table(
      {'text': kind, 'id': [i] * 3, 'other': ['x' if i > 2 else i] * 3}
    )
    pq.write_table(table, folder / f'{i}.parquet')
  encode.main(config(texts=folder, id_column='id'))
  want = [[1, 97], [0, 0], [1, 97]] * 4
  assert vectors(tmp_path / 'out').tolist() == want
  out = f'{tmp_path}/other'
  with pytest.raises(ValueError, match="column 'other' has several types"):
    encode.main(config(texts=folder, id_column='other', out=out, part_rows=20))
  bad = pa.array([b'\xff', b'a']).cast(pa.string(), safe=False)
  bad = pa.Array.from_buffers(pa.string(), 2, bad.buffers())
  pq.write_table(pa.table({'text': bad}), tmp_path / 'bad.parquet')
  with pytest.raises(
    ValueError, match='bad.parquet cannot be read: .*Invalid UTF'
  ):
    encode.main(config(texts=tmp_path / 'bad.parquet', out=f'{tmp_path}/bad'))
  with pytest.raises(ValueError, match='--column is needed'):
    encode.main(config(column=''))


def test_what_is_no_text(config, tmp_path):
  path = tmp_path / 'a.parquet'
  pq.write_table(pa.table({'text': ['', None, 'x'], 'n': [1, 2, 3]}), path)
  encode.main(config(texts=path))
  assert vectors(tmp_path / 'out').tolist() == [[0, 0], [0, 0], [1, 120]]
  for column, message in (('n', 'int64; needed'), ('m', 'no column m')):
    with pytest.raises(ValueError, match=message):
      encode.main(config(texts=path, column=column, out=f'{tmp_path}/{column}'))
  with pytest.raises(ValueError, match='part_rows=6 must be .* 1024'):
    config(format='tensorstore')
  for name in ('row', 'vector'):
    with pytest.raises(ValueError, match=f'id_column={name}: rename it'):
      config(id_column=name)
  out = f'{tmp_path}/texts'
  encode.main(config(texts=path, id_column='text', out=out))
  table = pq.read_table(f'{out}/vectors')
  assert table['text'].to_pylist() == ['', None, 'x']
