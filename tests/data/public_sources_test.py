# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data sets of Hugging Face and TFDS as sources of records."""

import types

import grain
import numpy as np
import pytest

from antjax.data.public_sources import HuggingFaceSource, TfdsSource

# What a source of either kind gives for row i, see `_check`.
TEXTS = [f'text {i}' for i in range(7)]


def _check(source):
  assert len(source) == len(TEXTS) and source.texts == ('text',)
  records = [source[0], *source.read(1, 5), *source.read(5, 7)]
  assert sorted(int(record['number']) for record in records) == [*range(7)]
  for record in records:
    i = int(record['number'])
    assert type(record['text']) is str and record['text'] == TEXTS[i]
    assert record['number'].dtype == np.int32
    np.testing.assert_array_equal(record['list'], np.ones(i % 3))
    assert record['list'].dtype == np.float32
  data = (
    grain.MapDataset.source(source).shuffle(seed=0).map(lambda r: r['text'])
  )
  assert sorted(data) == TEXTS and list(data) != TEXTS
  with pytest.raises(ValueError, match=r'read\(5, 8\).*<= 7'):
    source.read(5, 8)


class _Text:
  pass


_Text.__name__ = 'Text'


class _DataSource(list):
  """As `tfds.data_source` gives them."""

  def __init__(self, rows):
    super().__init__(rows)
    tensor = types.SimpleNamespace
    features = {
      'text': _Text(),
      'number': tensor(np_dtype=np.int32),
      'list': tensor(np_dtype=np.float32),
    }
    self.dataset_info = types.SimpleNamespace(features=features)

  def __getitems__(self, indices):
    return [self[i] for i in indices]


def test_tfds_like_sources():
  rows = [
    {'text': text.encode(), 'number': i, 'list': (i % 3) * [1.0]}
    for i, text in enumerate(TEXTS)
  ]
  _check(TfdsSource(_DataSource(rows)))
  with pytest.raises(
    ValueError, match='got a dict of train, test; needed: one'
  ):
    TfdsSource({'train': _DataSource(rows), 'test': _DataSource(rows)})


@pytest.mark.slow
def test_tfds(tmp_path):
  tfds = pytest.importorskip('tensorflow_datasets')  # Without TensorFlow.

  class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')
    pkg_dir_path = None

    def _info(self):
      features = tfds.features.FeaturesDict(
        {
          'text': tfds.features.Text(),
          'number': np.int32,
          'list': tfds.features.Sequence(np.float32),
        }
      )
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for i, text in enumerate(TEXTS):
        yield i, {'text': text, 'number': i, 'list': (i % 3) * [1.0]}

  builder = Builder(data_dir=tmp_path, file_format='array_record')
  builder.download_and_prepare()
  _check(TfdsSource(builder.as_data_source(split='train')))


@pytest.mark.slow
def test_hugging_face():
  datasets = pytest.importorskip('datasets')
  features = datasets.Features(
    {
      'text': datasets.Value('string'),
      'number': datasets.Value('int32'),
      'list': datasets.List(datasets.Value('float32')),
      'gap': datasets.Value('int64'),
    }
  )
  columns = {
    'text': TEXTS,
    'number': range(7),
    'list': [(i % 3) * [1.0] for i in range(7)],
    'gap': [None, *range(6)],
  }
  rows = datasets.Dataset.from_dict(columns, features=features)
  _check(HuggingFaceSource(rows, ['text', 'number', 'list']))
  _check(HuggingFaceSource(rows.remove_columns('gap')))
  # Rows that were chosen are where they are now.
  turned = HuggingFaceSource(
    rows.select(range(6, -1, -1)).remove_columns('gap')
  )
  assert turned[1]['text'] == TEXTS[5]
  with pytest.raises(
    ValueError, match="'gap' has 1 empty values. Fill them by"
  ):
    HuggingFaceSource(rows).read(0, 3)
  with pytest.raises(ValueError, match='a DatasetDict of train; needed: one'):
    HuggingFaceSource(datasets.DatasetDict(train=rows))
  with pytest.raises(ValueError, match='is streamed.*streaming=False'):
    HuggingFaceSource(rows.to_iterable_dataset())
