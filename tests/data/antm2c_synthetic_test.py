# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Synthetic files are in the true format and hold what is planted."""

import io
import tarfile

import numpy as np
from PIL import Image
import pyarrow.parquet as pq
import pytest

from antjax.data import (
  antm2c_synthetic,
  antm2c_synthetic_files,
  event_antm2c,
  text_reader,
)
from antjax.data.antm2c_synthetic import CHUNK, SyntheticConfig, World
from antjax.data.rejects import Rejects
from antjax.metrics import ranking as ranking_metrics

_CONFIG = SyntheticConfig(
  num_rows=CHUNK + 5000, num_users=500, num_items=300, num_parts=2
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp('synthetic') / 'out'
  antm2c_synthetic_files.write(out, _CONFIG, image_size=16)
  return out


@pytest.fixture(scope='module')
def read(folder, tmp_path_factory):
  """The rows of the parts, in their order, as columns."""
  parts = tmp_path_factory.mktemp('parts')
  files = event_antm2c.find_files(folder)
  assert [path.name for path in files] == [
    'antm2c_synthetic_part0',
    'antm2c_synthetic_part1',
  ]
  counts = text_reader.read(
    files,
    event_antm2c.Antm2cConfig().layout(),
    parts,
    Rejects(parts / 'rejected.csv', 0),
  )
  table = pq.read_table(parts).rename_columns({'__row': 'row'}).sort_by('row')
  assert counts.rows == table.num_rows == _CONFIG.num_rows
  return table


def truth(folder):
  return pq.read_table(folder / 'antm2c_synthetic_truth.parquet')


@pytest.mark.slow
def test_the_truth_is_that_of_the_rows(folder, read):
  told = truth(folder)
  for name in ('row', 'user_id', 'item_id', 'label'):
    assert told[name].to_pylist() == read[name].to_pylist()
  assert told['time'].to_pylist() == read['log_time'].to_pylist()
  assert [*map(str, told['scene'].to_pylist())] == read['scene'].to_pylist()
  probability = told['probability'].to_numpy().astype(np.float64)
  label = told['label'].to_numpy()
  # A mean of labels has a standard deviation of sqrt(p (1 - p) / n).
  spread = np.sqrt((probability * (1 - probability)).sum()) / len(label)
  assert abs(label.mean() - probability.mean()) < 4 * spread
  metric = ranking_metrics.AUC()
  metric.update(probability, label)
  assert 0.8 < metric.compute() < 0.95


def test_rows_depend_neither_on_parts_nor_on_each_other(folder, tmp_path):
  def lines(out):
    found = []
    for path in event_antm2c.find_files(out):
      found += path.read_bytes().split(b'\n', 1)[1:]
    return b''.join(found)

  config = SyntheticConfig(
    num_rows=4000, num_users=500, num_items=300, num_parts=3
  )
  antm2c_synthetic_files.write(tmp_path / 'out', config, image_size=0)
  assert lines(folder).startswith(lines(tmp_path / 'out'))
  assert not [*(tmp_path / 'out').glob('*.tar.gz')]


def test_nothing_is_shown_before_it_came(folder):
  world = World(_CONFIG)
  rows = antm2c_synthetic.rows(world, 0)
  moment = (rows.time - antm2c_synthetic.FIRST_DAY) / (
    antm2c_synthetic.NUM_DAYS * 86_400
  )
  second = 1 / (antm2c_synthetic.NUM_DAYS * 86_400)
  assert (world.item_from[rows.item] <= moment + 2 * second).all()
  assert (world.user_from[rows.user] <= moment + 2 * second).all()
  assert (world.item_from[rows.item] > 0.8).any()
  home = world.home[rows.item]
  assert ((home == rows.scene) | (home == -1)).all()
  assert len({*rows.scene.tolist()}) == antm2c_synthetic.NUM_SCENES


def test_effects_of_scenarios_cancel_out_over_all_of_them():
  world = World(_CONFIG)
  num = antm2c_synthetic.NUM_SCENES
  np.testing.assert_allclose(world.effects.sum(0), 0, atol=1e-12)
  user = np.repeat(np.arange(50), num)
  item = np.repeat(np.arange(50), num)
  scene = np.tile(np.arange(num), 50)
  zero = np.zeros(len(user))

  def log_odds(**changes):
    changed = SyntheticConfig(
      num_users=500, num_items=300, **{'drift': 0, **changes}
    )
    found = World(changed)
    odds = antm2c_synthetic.log_odds(found, zero, scene, user, item, zero)
    return odds.reshape(-1, num)

  plain = log_odds(profile=0, twist=0)
  # Without what is their own, scenarios differ by a constant.
  np.testing.assert_allclose(np.ptp(plain - plain[0], 1), 0, atol=1e-9)
  with_profile = log_odds(profile=1, twist=0)
  np.testing.assert_allclose((with_profile - plain).mean(1), 0, atol=1e-12)
  assert np.ptp(with_profile - plain, 1).min() > 0.5
  assert np.ptp(log_odds(profile=0, twist=1) - plain, 1).mean() > 0.5


def test_texts_spell_the_topic_out(folder, read):
  world = World(_CONFIG)
  first = antm2c_synthetic_files._ids(np.arange(1), 100_000)[0].as_py()
  items = read['item_id'].to_numpy().astype(np.int64) - int(first)
  topics = [*antm2c_synthetic.TOPICS]
  titles, entities = (
    read[name].to_pylist() for name in ('item_title', 'item_entity_names')
  )
  for place in range(2000):
    topic = topics[world.topic[items[place]]]
    words = antm2c_synthetic.TOPICS[topic]
    assert sum(word in titles[place] for word in words) >= 1
    assert entities[place].split(',')[0] == topic
  # Some titles need quotes and line ends, of an item all rows have one title.
  assert any('"' in t and ',' not in t for t in titles)
  assert any('\n' in t for t in titles)
  assert len({*zip(items.tolist(), titles)}) == len({*items.tolist()})
  assert len({*zip(items.tolist(), entities)}) > len({*items.tolist()})
  bills = read['bill_entity_seq'].to_pylist()
  empty = sum(not text for text in bills) / len(bills)
  assert abs(empty - _CONFIG.empty_text) < 0.02


def test_a_users_texts_tell_the_taste(read):
  world = World(_CONFIG)
  user = read['user_id'].to_numpy().astype(np.int64) - 1_000_000
  topic_of = {
    word: number
    for number, words in enumerate(antm2c_synthetic.TOPICS.values())
    for word in words
  }
  counts = np.zeros((_CONFIG.num_users, len(antm2c_synthetic.TOPICS)))
  for place, text in enumerate(read['bill_entity_seq'].to_pylist()):
    for word in filter(None, text.split(',')):
      for before in antm2c_synthetic_files.BILLS:
        if word.removeprefix(before) in topic_of:
          counts[user[place], topic_of[word.removeprefix(before)]] += 1
          break
  often = counts.sum(1) > 100
  shares = counts[often] / counts[often].sum(1, keepdims=True)
  taste = world.users[often] @ world.topics.T
  found = [np.corrcoef(a, b)[0, 1] for a, b in zip(shares, taste)]
  assert often.sum() > 50 and np.mean(found) > 0.5


def test_images_show_the_redness(folder):
  world = World(_CONFIG)
  redness, shown = [], []
  with tarfile.open(folder / 'AntM2C_synthetic_image.tar.gz') as tar:
    for member in tar:
      folder_name, _, name = member.name.partition('/')
      assert folder_name == 'AntM2C_synthetic_image'
      image = Image.open(io.BytesIO(tar.extractfile(member).read()))
      pixels = np.asarray(image)
      assert pixels.shape == (16, 16, 3)
      redness.append(world.redness[int(name.removesuffix('.png')) - 100_000])
      shown.append(pixels[..., 0].mean() / 255)
  assert 0.9 * _CONFIG.num_items < len(shown) < _CONFIG.num_items
  assert np.corrcoef(redness, shown)[0, 1] > 0.99


@pytest.mark.parametrize(
  'options, message',
  [
    ({'num_rows': 0}, 'num_rows=0'),
    ({'num_items': 4}, 'at least 5'),
    ({'new_items': 1}, 'from 0 to below 1'),
  ],
)
def test_settings_that_cannot_be_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    SyntheticConfig(**options)


def test_neither_other_files_nor_odd_images(tmp_path):
  with pytest.raises(ValueError, match='multiple of 8'):
    antm2c_synthetic_files.write(tmp_path / 'x', _CONFIG, image_size=12)
  (tmp_path / 'mine').write_text('')
  with pytest.raises(ValueError, match='is not empty'):
    antm2c_synthetic_files.write(tmp_path, _CONFIG)
