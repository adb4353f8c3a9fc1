# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""docs/behaviors.md: its schema files and flags."""

import pathlib
import re

from antjax.data import output_folder, schema_file
from antjax.jobs import prepare_data
from tests.data import behavior_fixture

_DOCS = pathlib.Path(__file__).parents[2] / 'docs' / 'behaviors.md'
_TEXT = _DOCS.read_text()


def _blocks(language):
  return re.findall(rf'```{language}\n(.*?)```', _TEXT, re.S)


def test_schema_files_load(tmp_path):
  for number, text in enumerate(_blocks('yaml')):
    (tmp_path / f'{number}.yaml').write_text(text)
  first, second = (
    schema_file.load(str(tmp_path / f'{n}.yaml')) for n in range(2)
  )
  assert first.rating and first.items.ids == ('shelf',)
  assert first.empty == {'age': -1}
  assert second.separator == {'bought': ','} and second.delimiter == '\t'


def test_the_list_of_items_a_row_is_read_as_shown(tmp_path):
  folder = tmp_path / 'log'
  folder.mkdir()
  (folder / 'log.tsv').write_text('ann\t17,4,305\nbob\t4,17\n')
  (folder / 'items.csv').write_text(
    'item,title,shop\n4,Tea,food\n17,Pan,kitchen\n305,Salt,food\n'
  )
  text = _blocks('yaml')[1].replace('items.parquet', 'items.csv')
  (folder / 'log.yaml').write_text(text)
  config = behavior_fixture.ExampleConfig(split='last')
  out = tmp_path / 'out'
  description, _ = behavior_fixture.prepare(folder, out, config)
  assert [s['name'] for s in description['sequences']] == ['food', 'kitchen']
  (held,) = [e for e in behavior_fixture.read_back(out)['test'] if e['label']]
  assert (held['title'], held['histories']) == ('Salt', [['Tea'], ['Pan']])


def test_what_is_written_has_the_fields_shown(tmp_path):
  source = behavior_fixture.Log(num_rows=50).write(tmp_path / 'log')
  behavior_fixture.prepare(source, tmp_path / 'out')
  schema = output_folder.load_description(tmp_path / 'out' / 'examples')[
    'schema'
  ]
  rows = re.findall(r'^\| (`[a-z_`, ]+) \| (?:lists? of )?\w+ \|', _TEXT, re.M)
  shown = {name for row in rows for name in re.findall(r'`(\w+)`', row)}
  assert shown == {*schema}


def test_flags_exist():
  config = prepare_data.Config()
  named = set(re.findall(r'`?--([a-z_.]+)', _TEXT))
  assert len(named) > 15
  for name in named:
    value = config
    for part in name.split('.'):
      assert hasattr(value, part), name
      value = getattr(value, part)
