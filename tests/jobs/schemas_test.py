# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/schemas: lines in the layout of each file are read as they say."""

import pathlib

import pytest

from antjax.data import (
  behavior_rows,
  engine,
  event_table,
  events,
  schema_file,
)
from antjax.data.behavior_examples import ExampleConfig
from tests.data import behavior_fixture

_SCHEMAS = pathlib.Path(__file__).parents[2] / 'launch' / 'schemas'
_CENSUS = (
  'age,class of worker,industry code,occupation code,education,wage per hour,'
  'enrolled in edu inst last wk,marital status,major industry code,major'
  ' occupation code,race,hispanic origin,sex,member of a labor union,reason for'
  ' unemployment,full or part time employment stat,capital gains,capital losses'
  ',divdends from stocks,tax filer status,region of previous residence,state of'
  ' previous residence,detailed household and family stat,detailed household'
  ' summary in household,migration code-change in msa,migration code-change in'
  ' reg,migration code-move within reg,live in this house 1 year ago,migration'
  ' prev res in sunbelt,num persons worked for employer,family members under 18'
  ',country of birth father,country of birth mother,country of birth self,'
  'citizenship,own business or self employed,fill inc questionnaire for'
  ' veterans admin,veterans benefits,weeks worked in year,year,income'
)
_KUAIRAND = (
  'user_id,video_id,is_click,play_time_ms,duration_ms,profile_stay_time,'
  'comment_stay_time,tab,user_active_degree,is_lowactive_period,'
  'is_live_streamer,is_video_author,follow_user_num,follow_user_num_range,'
  'fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,'
  'register_days,register_days_range,'
  + ','.join(f'onehot_feat{i}' for i in range(18))
  + ',video_type,visible_status,server_width,server_height'
)
# Header, a line, and of the row: user, item, domain, label, first id, numeric.
_LAYOUTS = {
  'ali_ccp': (
    'click,purchase,101,121,122,124,125,126,127,128,129,205,206,207,210,216,508'
    ',509,702,853,301,109_14,110_14,127_14,150_14,D109_14,D110_14,D127_14,'
    'D150_14,D508,D509,D702,D853',
    '1,0,7,1,1,1,1,0,1,1,1,65,36,84,88,52,23,0,17,0,3,1,1,1,1,0.4734,0.562,'
    '0.0856,0.1902,0.1754,0,0.3555,0',
    ('7', '65', '3', 1, '3', [0.4734, 0.562, 0.0856, 0.1902]),
  ),
  'aliexpress': (
    ','.join(
      [
        'search_id',
        *(f'categorical_{i}' for i in range(1, 17)),
        *(f'numerical_{i}' for i in range(1, 64)),
        'click',
        'conversion',
      ]
    ),
    ','.join(['30', '9', *15 * '0', '0.5', *['0.25'] * 62, '0', '0']),
    ('30', '-', '', 0, '9', [0.5, 0.25]),
  ),
  'avazu': (
    ','.join(['label', *(f'feat_{i}' for i in range(1, 23))]),
    ','.join(['1', *(str(100 + i) for i in range(1, 23))]),
    ('110', '114', '', 1, '101', []),
  ),
  'census_income': (
    _CENSUS,
    ','.join(['0.4778', *['4'] * 39, '1']),
    ('0', '-', '', 1, '4', [0.4778, 4, 4]),
  ),
  'criteo': (
    ','.join(
      [
        'label',
        *(f'I{i}' for i in range(1, 14)),
        *(f'C{i}' for i in range(1, 27)),
      ]
    ),
    ','.join(['0', '1.5', '-1', '', *['27'] * 10, '05db9164', '', *['a'] * 24]),
    ('0', '-', '', 0, '05db9164', [1.5, -1, 0, 27]),
  ),
  'douban': (
    'user_id,item_id,rating,domain,living_place,join_time,time_bin',
    '1691,34964,1,book,\u5317\u4eac,2007-07-10,27',
    ('1691', '34964', 'book', 1, 'book', []),
  ),
  'kuairand': (
    _KUAIRAND,
    ','.join(
      ['88', '5543', '0', '937', '30066', '0', '0', '1', '2', *'0' * 33]
    ),
    ('88', '5543', '1', 0, '1', [30066, 0]),
  ),
  'kuairand_like_hate': (
    'user_id\tvideo_id\tdate\thourmin\ttime_ms\tis_click\tis_follow\tis_comment'
    '\tis_forward\tlong_view\tplay_time_ms\tduration_ms\tcomment_stay_time\t'
    'is_profile_enter\tlabel\ttimestamp',
    '111\t3892024\t20220410\t1700\t1649581149287\t1\t0\t0\t0\t1\t46186\t45916\t'
    '7639\t0\t1\t2022-04-10 08:59:09',
    ('111', '3892024', '', 1, None, [45916]),
  ),
  'mind': (
    'User_ID,News_ID,label,Category,SubCategory',
    'U479610,N110473,0,sports,football_ncaa',
    ('U479610', 'N110473', 'sports', 0, 'sports', []),
  ),
}

_LAYOUTS['criteo_x1'] = _LAYOUTS['criteo']


def test_every_schema_has_its_lines():
  # That of NumPy files is in train_dlrm_test.py.
  every = {path.stem for path in _SCHEMAS.iterdir()} - {'criteo_multihot'}
  assert every == {*_LAYOUTS}


@pytest.mark.parametrize('name', _LAYOUTS)
def test_lines_are_read_as_the_schema_says(tmp_path, name):
  header, line, (user, item, domain, label, first, numeric) = _LAYOUTS[name]
  schema = schema_file.load(str(_SCHEMAS / f'{name}.yaml'))
  path = tmp_path / 'log.csv'
  path.write_text(f'{header}\n{line}\n', encoding='utf-8')
  if schema.files:
    path = tmp_path / 'log'
    path.mkdir()
    for (file,), lines in zip(schema.files.values(), (f'{line}\n', '', '')):
      (path / file).write_text(f'{header}\n{lines}', encoding='utf-8')
  events.write(
    tmp_path / 'out', event_table.source(path, schema), max_rejected_share=0
  )
  (tmp_path / 'spill').mkdir()
  with events.opened(
    tmp_path / 'out', schema, tmp_path, engine.Engine(threads=1)
  ) as opened:
    rows, layout = behavior_rows.of_events(opened)
    (row,) = rows.to_pyarrow().to_pylist()
  found = (row['user'], row['item'], row['domain'], row['label'])
  assert found == (user, item, domain, label)
  assert row.get('id_0') == first
  taken = [row[f'numeric_{i}'] for i in range(len(layout.numeric))]
  assert taken[: len(numeric)] == pytest.approx(numeric)
  assert bool(taken) == bool(numeric)
  outcomes = {'click', 'conversion', 'purchase', 'is_click', 'rating', 'label'}
  outcomes |= {'income', 'play_time_ms', 'long_view', 'comment_stay_time'}
  assert not outcomes & {*schema.ids, *schema.numeric}
  assert schema.time == ('time_ms' if name == 'kuairand_like_hate' else '')


@pytest.mark.slow
def test_a_row_may_have_many_features_and_no_user(tmp_path):
  folder = tmp_path / 'log'
  folder.mkdir()
  names = [f'c{i}' for i in range(60)]
  lines = [','.join([str(n % 2), *[f'v{n % 4}'] * 60]) for n in range(40)]
  text = '\n'.join([','.join(['label', *names]), *lines])
  (folder / 'log.csv').write_text(text)
  kinds = ', '.join(f'{name}: string' for name in names)
  (folder / 'log.yaml').write_text(
    f'columns: {{label: int32, {kinds}}}\nlabel: label\n'
    f'ids: [{", ".join(names)}]\n'
  )
  config = ExampleConfig(split='random', validation_from=0.5, test_from=0.6)
  description, _ = behavior_fixture.prepare(folder, tmp_path / 'out', config)
  assert description['num_users'] == 41 and description['num_items'] == 2
  found = behavior_fixture.read_back(tmp_path / 'out')
  examples = [e for split in found.values() for e in split]
  assert len(examples) == 40
  for example in examples:
    assert {*example['ids']} <= {f'v{int(example["user"]) % 4}', ''}
    assert example['histories'] == [[]]
