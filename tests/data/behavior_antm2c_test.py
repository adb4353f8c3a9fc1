# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AntM2C's rows as examples: compared with plain Python, row by row."""

import re

import pytest

from antjax.data import event_antm2c, output_folder
from antjax.data.behavior_examples import ExampleConfig
from antjax.data.behavior_text import Normalizer, Splitter
from antjax.data.event_antm2c import Antm2cConfig
from antjax.data.view_examples import BehaviorConfig
from tests.data import antm2c_fixture, behavior_fixture, views
from tests.data.antm2c_test import seconds

# The first split of two that are in use: its last moments are midnights.
_SPLIT = ExampleConfig(
  train_until='2023-08-03 00:00:00', validation_until='2023-08-05 00:00:00'
)
_TIMES = {
  '2023-08-02 23:59:59': 'train',
  '2023-08-03 00:00:00': 'train',
  '2023-08-03 00:00:01': 'validation',
  '2023-08-05 00:00:00': 'validation',
  '2023-08-05 00:00:01': 'test',
  '2023-08-09 12:00:00': 'test',
}


def prepare(folder, *texts, examples=_SPLIT, share=0.0, name='antm2c_10m'):
  """Returns (description, split -> examples as texts)."""
  source = folder / 'source'
  source.mkdir(parents=True)
  for number, text in enumerate(texts):
    (source / f'{name}_part{number}').write_text(text)
  config = BehaviorConfig(
    splitter=Splitter(pattern=event_antm2c.SEPARATORS), examples=examples
  )
  description, _ = views.write(
    folder / 'out',
    event_antm2c.source(source),
    'examples',
    config,
    max_rejected_share=share,
  )
  return description, behavior_fixture.read_back(folder / 'out')


@pytest.fixture(scope='module')
def rows():
  times = [*_TIMES]
  found = antm2c_fixture.rows(60)
  for number, row in enumerate(found):
    if number % 4 == 0:
      row['log_time'] = times[number // 4 % len(times)]
  return found


@pytest.fixture(scope='module')
def prepared(rows, tmp_path_factory):
  texts = antm2c_fixture.text(rows[:40]), antm2c_fixture.text(rows[40:])
  return prepare(tmp_path_factory.mktemp('antm2c'), *texts)


def test_every_row_is_an_example_with_what_was_clicked_before(rows, prepared):
  normalizer = Normalizer()
  numbered = sorted(enumerate(rows), key=lambda x: (x[1]['log_time'], x[0]))
  expected = {split: [] for split in ('train', 'validation', 'test')}
  config = Antm2cConfig()
  for _, row in numbered:
    split = _TIMES.get(row['log_time'], 'train')
    clicked = [
      (other['log_time'], number, normalizer(other['item_title']))
      for number, other in numbered
      if other['user_id'] == row['user_id']
      and other['label'] == '1'
      and other['log_time'] < row['log_time']
    ]
    pieces = [
      [
        normalizer(part)
        for part in re.split(event_antm2c.SEPARATORS, row[column])
        if part
      ]
      for column in (
        'bill_entity_seq',
        'service_entity_seq',
        'query_entity_seq',
        'item_entity_names',
      )
    ]
    expected[split].append(
      {
        'user': row['user_id'],
        'item': row['item_id'],
        'title': normalizer(row['item_title']),
        'label': float(row['label']),
        'time': seconds(row['log_time']),
        'histories': [[title for _, _, title in clicked], *pieces],
        'ids': [row[name] for name in config.categories],
        'numeric': [float(row[n] or 0) for n in config.numeric_columns],
      }
    )
  _, found = prepared
  for split, examples in expected.items():
    assert len(found[split]) == len(examples) > 0
    for got, want in zip(found[split], examples):
      assert {name: got[name] for name in want} == want
  assert any(e['histories'][0] for e in found['test'])


def test_what_it_holds_is_told(rows, prepared):
  description, _ = prepared
  assert description['name'] == 'antm2c' and not description['is_synthetic']
  names = [s['name'] for s in description['sequences']]
  assert names == ['clicked', *event_antm2c.SEQUENCES]
  ids = [entry['name'] for entry in description['ids']]
  assert ids[0] == 'scene' and len(ids) == 19
  assert description['ids'][0]['num_ids'] == 6  # 0 is unknown.
  assert len(description['numeric']) == 9
  counts = description['counts']
  assert (counts['rows'], counts['rejected_lines']) == (60, 0)
  assert counts['empty_numbers'] == 20
  told = {s['name']: s.get('texts') for s in description['sequences']}
  assert told['bill'] == {'0': 30, '2': 30}
  assert told['query'] == {'1': 45, '3-4': 15}
  assert told['clicked'] is None


@pytest.mark.slow
def test_bad_rows_made_up_files_and_the_second_split_in_use(rows, tmp_path):
  """That split keeps its last day whole."""
  config = ExampleConfig(
    train_until='2023-08-04 23:59:59', validation_until='2023-08-05 23:59:59'
  )
  text = antm2c_fixture.text([*rows, antm2c_fixture.line(60, label='?')])
  description, found = prepare(
    tmp_path / 'a', text, examples=config, share=0.1, name='antm2c_synthetic'
  )
  days = {
    split: {e['time'] // 86_400 for e in examples}
    for split, examples in found.items()
  }
  day = seconds('2023-08-05 00:00:00') // 86_400
  assert days['validation'] == {day} and min(days['test']) > day
  assert description['is_synthetic']
  assert description['name'] == 'antm2c-synthetic'
  assert description['counts']['rejected_value'] == 1
  listed = tmp_path / 'a' / 'out' / 'events' / output_folder.REJECTED
  assert ',label,value,' in listed.read_text()
  with pytest.raises(ValueError, match='All are in') as error:
    prepare(tmp_path / 'b', text, share=0.01)
  kept = tmp_path / 'b' / 'out' / 'events' / output_folder.REJECTED
  assert str(kept) in str(error.value) and kept.exists()
  with pytest.raises(ValueError, match='have no good row'):
    prepare(tmp_path / 'c', antm2c_fixture.text([]))
