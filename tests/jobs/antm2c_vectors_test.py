# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts and images go with the data that they were made of."""

import dataclasses
import io
import tarfile

import numpy as np
from PIL import Image
import pyarrow.parquet as pq
import pytest

from antjax.jobs.bahe import build_store as build_behavior_store
from antjax.jobs.clicks import data as antm2c_data
from antjax.jobs.clicks import encode_images
from antjax.jobs.clicks import vectors as antm2c_vectors
from tests.jobs import ratings
from tests.jobs.train_antm2c_test import config_of, job_of, SMALL


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Data, other data without the first films, and a language model."""
  folder = tmp_path_factory.mktemp('vectors')
  for name, first in (('data', 0), ('other', 6)):
    ratings.prepare(folder, 'examples', name, first)
  ratings.write_model(folder)
  return folder


def load(folder, run_dir, use, **vectors):
  fields = dataclasses.replace(SMALL['fields'], use=use)
  config = config_of(folder, run_dir, fields=fields, **vectors)
  return antm2c_data.ScenarioData(config, job_of(config))


def encoded(folder, name):
  """Images of two items, of one color each, as vectors."""
  archive, out = folder / f'{name}.tar', folder / f'images_{name}'
  items = pq.read_table(folder / name / 'examples' / 'ids_item.parquet')[
    'value'
  ][:2]
  with tarfile.open(archive, 'w') as tar:
    for i, item in enumerate(items.to_pylist()):
      file = io.BytesIO()
      Image.new('RGB', (8, 8), (200 * i, 50, 0)).save(file, 'png')
      entry = tarfile.TarInfo(f'images/{item}.png')
      entry.size = file.tell()
      tar.addfile(entry, io.BytesIO(file.getvalue()))
  encode_images.main(
    encode_images.Config(
      data=str(folder / name), images=str(archive), out=str(out)
    )
  )
  return str(out)


def stored(folder, name):
  """A store of sentence vectors."""
  out = folder / f'store_{name}'
  build_behavior_store.build(
    build_behavior_store.Config(
      vocabulary=str(folder / name),
      model=str(folder / 'model'),
      out=str(out),
      num_low=3,
      max_tokens=16,
    )
  )
  return str(out)


@pytest.mark.slow
def test_images_are_those_of_the_items(folder, tmp_path):
  use = ('user', 'item', 'image')
  data = load(folder, tmp_path, use, image_vectors=encoded(folder, 'data'))
  ((name, width),) = data.sizes.modal.items()
  assert name == 'image'
  clicks = data.splits['train']
  batch = clicks.batch(np.arange(len(clicks)), len(clicks))
  assert batch['image'].shape == (len(clicks), width)
  has_image = np.abs(batch['image']).sum(axis=1) > 0
  np.testing.assert_array_equal(has_image, clicks.image_items <= 2)


def test_images_of_other_items_are_refused(folder, tmp_path):
  with pytest.raises(ValueError, match='items of other data'):
    load(
      folder,
      tmp_path,
      ('user', 'image'),
      image_vectors=encoded(folder, 'other'),
    )


def test_texts_are_principal_components_of_the_store(folder, tmp_path):
  use = ('user', 'text')
  store = stored(folder, 'data')
  data = load(folder, tmp_path, use, text_vectors=store, text_dim=4)
  assert data.sizes.modal == {'text_title': 4}
  vectors = np.asarray(data.splits['train'].text.vectors, np.float32)
  assert not vectors[:2].any()
  covariance = np.cov(vectors[2:].T, bias=True)
  off = covariance - np.diag(np.diag(covariance))
  assert np.abs(off).max() < 1e-2
  assert np.diag(covariance).mean() == pytest.approx(1, rel=0.01)
  first = data.made_of['text vectors']
  whole = load(folder, tmp_path, use, text_vectors=store, text_dim=0)
  assert whole.made_of['text vectors'] != first
  assert antm2c_vectors.digest(None) == ''


def test_a_store_of_other_texts_is_refused(folder, tmp_path):
  with pytest.raises(ValueError, match='vocabulary|texts'):
    load(
      folder, tmp_path, ('user', 'text'), text_vectors=stored(folder, 'other')
    )
