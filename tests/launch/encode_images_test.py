# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Synthetic files, prepared, with their images encoded, as a user does it."""

import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from antjax.input import output_folder
from launch import encode_images


def run(script, *arguments):
  done = subprocess.run(
    [sys.executable, '-m', f'launch.{script}', *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert 'Traceback' not in done.stderr
  return done


def test_from_synthetic_files_to_vectors_of_images(tmp_path):
  made = run(
    'make_antm2c_synthetic',
    f'--out={tmp_path}/source',
    '--synthetic.num_rows=3000',
    '--synthetic.num_users=200',
    '--synthetic.num_items=100',
  )
  assert made.returncode == 0, made.stderr
  assert '3,000 synthetic rows' in made.stdout
  prepared = run(
    'prepare_behaviors',
    '--dataset=antm2c',
    f'--source={tmp_path}/source',
    f'--out={tmp_path}/data',
    '--examples.train_until=2023-08-03 00:00:00',
    '--examples.validation_until=2023-08-05 00:00:00',
  )
  assert prepared.returncode == 0, prepared.stderr
  assert 'texts are parted by' in prepared.stderr
  assert 'behaviours a text of bill: 0: ' in prepared.stdout
  description = output_folder.load_description(tmp_path / 'data')
  assert description['is_synthetic']
  assert description['counts']['examples'] == 3000
  assert description['config']['antm2c']['scenes'] == list('01234')
  splits = {k: v['examples'] for k, v in description['splits'].items()}
  # Rows are spread evenly over 31 days, of which 24 come before August 3.
  assert splits['train'] == pytest.approx(3000 * 24 / 31, abs=100)
  assert splits['validation'] == pytest.approx(3000 * 2 / 31, abs=60)
  flags = (
    f'--data={tmp_path}/data',
    f'--images={tmp_path}/source/AntM2C_synthetic_image.tar.gz',
    f'--out={tmp_path}/images',
  )
  encoded = run('encode_images', *flags)
  assert encoded.returncode == 0, encoded.stderr
  again = run('encode_images', *flags)
  assert 'nothing was done' in again.stdout
  about = output_folder.load_description(tmp_path / 'images')
  vectors = np.load(tmp_path / 'images' / 'vectors.npy')
  has_image = np.load(tmp_path / 'images' / 'has_image.npy')
  assert (
    vectors.shape == (description['num_items'], 192) and about['dim'] == 192
  )
  assert has_image.sum() == about['counts']['images'] > 50
  ids = pq.read_table(tmp_path / 'data' / 'ids_item.parquet')
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
    with pytest.raises(ValueError, match='needed: module:function'):
      encode_images.load_encoder(name)
  assert encode_images.load_encoder('numpy:mean') is np.mean
