# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Synthetic files, prepared, with their images encoded, as a user does it."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from antjax import config_values
from antjax.data import antm2c_synthetic, behavior_examples, output_folder
from antjax.jobs import prepare_data
from antjax.jobs.clicks import encode_images
from antjax.jobs.clicks import make_synthetic as make_antm2c_synthetic


@pytest.mark.slow
def test_from_synthetic_files_to_vectors_of_images(tmp_path, capsys):
  make_antm2c_synthetic.main(
    make_antm2c_synthetic.Config(
      out=f'{tmp_path}/source',
      synthetic=antm2c_synthetic.SyntheticConfig(
        num_rows=3000, num_users=200, num_items=100
      ),
    )
  )
  assert '3,000 synthetic rows' in capsys.readouterr().out
  prepare_data.main(
    prepare_data.Config(
      dataset='antm2c',
      views=('examples',),
      source=f'{tmp_path}/source',
      out=f'{tmp_path}/data',
      examples=behavior_examples.ExampleConfig(
        train_until='2023-08-03 00:00:00',
        validation_until='2023-08-05 00:00:00',
      ),
    )
  )
  told = capsys.readouterr()
  assert 'texts are parted by' in told.err
  assert 'behaviors a text of bill: 0: ' in told.out
  description = output_folder.load_description(tmp_path / 'data' / 'examples')
  assert description['is_synthetic']
  assert description['counts']['examples'] == 3000
  assert description['config']['events']['antm2c']['scenes'] == list('01234')
  splits = {k: v['examples'] for k, v in description['splits'].items()}
  # Rows are spread evenly over 31 days, of which 24 come before August 3.
  assert splits['train'] == pytest.approx(3000 * 24 / 31, abs=100)
  assert splits['validation'] == pytest.approx(3000 * 2 / 31, abs=60)
  config = encode_images.Config(
    data=f'{tmp_path}/data',
    images=f'{tmp_path}/source/AntM2C_synthetic_image.tar.gz',
    out=f'{tmp_path}/images',
  )
  encode_images.main(config)
  assert '192 numbers an image' in capsys.readouterr().out
  encode_images.main(config)
  assert 'nothing was done' in capsys.readouterr().out
  about = output_folder.load_description(tmp_path / 'images')
  vectors = np.load(tmp_path / 'images' / 'vectors.npy')
  has_image = np.load(tmp_path / 'images' / 'has_image.npy')
  assert (
    vectors.shape == (description['num_items'], 192) and about['dim'] == 192
  )
  assert has_image.sum() == about['counts']['images'] > 50
  ids = pq.read_table(tmp_path / 'data' / 'examples' / 'ids_item.parquet')
  red = vectors[:, 0::3].mean(1)
  truth = pq.read_table(tmp_path / 'source' / 'antm2c_synthetic_truth.parquet')
  assert {*truth['item_id'].to_pylist()} == {*ids['value'].to_pylist()}
  assert np.ptp(red[has_image]) > 1 and not vectors[~has_image].any()


def test_what_is_needed_is_named(tmp_path):
  with pytest.raises(ValueError, match='--images is needed'):
    encode_images.main(encode_images.Config(data='x'))
  with pytest.raises(ValueError, match='image_size=0'):
    encode_images.Config(image_size=0)
  for name in ('no.such:module', 'json', 'json:nothing'):
    with pytest.raises(ValueError, match='encoder=.*needed is package.module:'):
      encode_images.main(
        encode_images.Config(data='x', images='x', out='x', encoder=name)
      )
  assert config_values.imported('encoder', 'numpy:mean', '') is np.mean
