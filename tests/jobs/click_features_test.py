# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a log's lines to what a click model is fed: every kind of feature."""

import dataclasses

import jax
import numpy as np
import pytest

from antjax.ctr.antm2c.fields import FieldConfig
from antjax.ctr.antm2c.model import ScenarioModel
from antjax.data.behavior_examples import ExampleConfig
from antjax.jobs.clicks import data as clicks_data
from antjax.jobs.clicks import job as train_clicks
from antjax.jobs.clicks.training import ClickJob
from antjax.networks.load import NetworkConfig
from tests.jobs import ratings
from tests.jobs.processes import job_of

_START = 1_709_164_800  # The first second of 2024-02-29, a Thursday.
_SCHEMA = """
columns:
  user: string
  item: string
  kind: string
  tags: {type: string, separator: '|'}
  price: {type: float32, empty: null}
  clicked: int32
  when: int64
user: user
item: item
time: when
label: clicked
ids: [kind, tags]
numeric: [price]
histories: outcome
history_names: [clicked, passed]
"""
_NUM = 40
_SPLIT = ExampleConfig(validation_from=0.7, test_from=0.8)
_FIELDS = FieldConfig(
  embedding_dim=4,
  bags=('tags=attention',),
  history_columns=('kind',),
  time=('hour', 'weekday', 'gap'),
  numbers=('autodis',),
  crosses=('kind*time_hour',),
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('features')
  lines = ['user,item,kind,tags,price,clicked,when']
  for i in range(_NUM):
    tags = '|'.join(f't{j}' for j in range(i % 4))
    price = ('', 'NaN')[i % 2] if i % 5 == 0 else i % 7
    lines.append(
      f'u{i % 3},f{i % 8},k{i % 2},{tags},{price},{i % 3 % 2},'
      f'{_START + 1800 * i}'
    )
  return ratings.prepare_log(folder, _SCHEMA, lines, examples=_SPLIT)


def data_of(folder, tmp_path, **changes):
  options = {
    'history': ('clicked', 'passed'),
    'max_history': 5,
    'max_pieces': 3,
    'batch_size': 16,
    'eval_batch_size': 16,
    'num_steps': 2,
    'fields': _FIELDS,
    'model': 'din',
    'network': NetworkConfig(widths=(4,), attention_widths=(4,)),
  }
  config = train_clicks.Config(
    data=str(folder), run_dir=str(tmp_path / 'run'), **options | changes
  )
  return config, clicks_data.ScenarioData(config, job_of(config))


def test_each_feature_is_read_from_the_log(folder, tmp_path):
  config, data = data_of(folder, tmp_path)
  train, size = data.splits['train'], len(data.splits['train'])
  assert size == 28
  batch = train.batch(np.arange(size), size)
  i = np.arange(size)
  assert train.column('column_time_hour').tolist() == (i // 2 % 24).tolist()
  assert set(train.column('column_time_weekday')) == {3}
  # Three users in turn: the click before was 3 * 1800 s ago.
  gap = 1 + int(np.log2(5401))
  assert train.column('column_time_gap').tolist() == [0] * 3 + [gap] * 25
  assert (
    len(set(zip(i % 2, i // 2))) + 1 == (data.sizes.columns['kind_x_time_hour'])
  )
  np.testing.assert_array_equal(np.isnan(batch['numeric'][:, 0]), i % 5 == 0)
  assert data.sizes.numbers == {'price': 'autodis'}
  assert data.sizes.bags == {'tags': (3, 'attention')}
  np.testing.assert_array_equal((batch['bag_tags'] >= 0).sum(1), i % 4)
  # Clicked is every third from the second on: all of user u1, and no other's.
  length = (batch['history'] >= 0).sum(2)
  assert not length[i % 3 != 1, 0].any() and not length[i % 3 == 1, 1].any()
  assert length[i % 3 == 1, 0].tolist() == [0, 1, 2, 3, 4] + [5] * 4
  kind = train.column('column_kind')
  newest = batch['history_kind'][25, 0]
  assert newest.tolist() == [kind[j] for j in (10, 13, 16, 19, 22)]
  model = ScenarioModel('din', config.fields, config.network, data.sizes)
  assert {'price', 'bag_tags', 'history_kind_1'} <= set(model.field_names)


def test_rare_ids_and_bins_of_numbers(folder, tmp_path):
  fields = FieldConfig(min_count=4, numbers=('bins',), num_bins=3)
  _, data = data_of(folder, tmp_path, fields=fields, model='mlp')
  train = data.splits['train']
  assert data.sizes.num_items == 1 + 4  # f0 to f3 are seen four times.
  items = np.arange(len(train)) % 8
  np.testing.assert_array_equal(train.column('item') == 0, items > 3)
  assert data.sizes.columns['price'] == 1 + 3 and data.sizes.numbers == {}
  missing = train.column('column_price') == 0
  np.testing.assert_array_equal(missing, np.arange(len(train)) % 5 == 0)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'history': ('seen',)}, 'history=seen: the data have the sequences'),
    ({'fields': FieldConfig(bags=('words',))}, 'fields.bags=words: the data'),
    (
      {'fields': FieldConfig(numbers=('linear', 'size=bins'))},
      'size unknown; the data have price',
    ),
    (
      {'fields': FieldConfig(history_columns=('brand',))},
      'fields.history_columns=brand: the data have the id columns kind',
    ),
  ],
)
def test_what_the_data_lack_is_named(folder, tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    data_of(folder, tmp_path, **changes)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:Sharding info not provided')
def test_all_of_them_train(folder, tmp_path):
  config, data = data_of(folder, tmp_path)
  for name in ('din', 'deepfm'):
    own = dataclasses.replace(config, model=name, run_dir=str(tmp_path / name))
    (result,) = train_clicks.train(own, job_of(own))
    assert np.isfinite(result.validation['log_loss'])


@pytest.fixture(scope='module')
def both(folder, tmp_path_factory):
  """The same data in memory and streamed."""
  path = tmp_path_factory.mktemp('both')
  fields = dataclasses.replace(_FIELDS, time=('hour', 'weekday'), min_count=2)
  options = {'fields': fields, 'batch_size': 8, 'shuffle_rows': 16}
  return tuple(
    data_of(folder, path, stream=stream, **options)[1]
    for stream in ('no', 'yes')
  )


def assert_equal(found, wanted):
  assert found.keys() == wanted.keys()
  for name, x in wanted.items():
    np.testing.assert_array_equal(found[name], x, name)


def test_streamed_clicks_are_those_in_memory(both):
  whole, streamed = both
  assert streamed.is_streamed and not whole.is_streamed
  assert streamed.sizes == whole.sizes and streamed.unseen == whole.unseen
  for split, clicks in whole.splits.items():
    other = streamed.splits[split]
    assert len(other) == len(clicks)
    part, place = other.part(2, 4)
    assert_equal(part.batch(place, 3), clicks.batch(np.arange(2, 4), 3))
    if split != 'train':
      assert_equal(other.scored, clicks.scored)
      names = streamed.sizes.labels
      assert_equal(other.every_label(names), clicks.every_label(names))
    model = _Model()
    batches = [data.evaluation(split, model) for data in both]
    for one, two in zip(*batches, strict=True):
      assert_equal(one, two)


class _Model:
  """Reads batches as they are."""

  is_by_scenario = False
  prepare = staticmethod(lambda batch: batch)


def test_an_epoch_that_streams_has_each_row_once_in_the_ledger_s_order(both):
  whole, streamed = both
  size = len(whole.splits['train'])

  def epoch(data, name, start=None):
    """Batches of two epochs, from a state on; and the state after two."""
    batches, state = iter(data.training(_Model(), 3, name)), start
    if start is not None:
      batches.set_state(start)
    found = [next(batches)]
    for number in range(7):
      if number == 1:
        state = batches.get_state()
      found.append(next(batches))
    return found, state

  found, state = epoch(streamed, 'a')
  # Windows of 16 and 12 rows, batches of 8 of them, padded at the end.
  weights = [int(batch['weight'].sum()) for batch in found]
  assert sum(weights[:4]) == sum(weights[4:]) == size == 28
  keys = [
    row.tobytes() + x.tobytes()
    for batch in found
    for row, x, w in zip(batch['ids'], batch['numeric'], batch['weight'])
    if w
  ]
  every = whole.splits['train'].batch(np.arange(size), size)
  rows = [
    row.tobytes() + x.tobytes()
    for row, x in zip(every['ids'], every['numeric'])
  ]
  assert sorted(keys[:size]) == sorted(keys[size:]) == sorted(rows)
  assert keys[:size] != keys[size:]
  # In memory the same order gives the same batches.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(whole, 'window', streamed.window)
    for one, two in zip(epoch(whole, 'b')[0], found, strict=True):
      assert_equal(one, two)
  # In the middle of a window another process goes on with the next batch.
  rest, _ = epoch(streamed, 'c', state)
  for one, two in zip(rest, found[2:]):
    assert_equal(one, two)


def test_each_process_needs_a_window(both, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 3)
  with pytest.raises(ValueError, match='no window for each of 3 processes'):
    both[1].training(_Model(), 3, 'few')


def test_gaps_of_time_are_not_streamed(folder, tmp_path, caplog):
  with pytest.raises(ValueError, match='gap needs all rows in memory'):
    data_of(folder, tmp_path, stream='yes')
  _, data = data_of(folder, tmp_path, stream_above=0.0)
  assert not data.is_streamed and 'gap needs all rows' in caplog.text
  fields = FieldConfig(time=('hour',))
  _, data = data_of(folder, tmp_path, fields=fields, stream_above=0.0)
  assert data.is_streamed


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:Sharding info not provided')
def test_streamed_or_not_the_same_order_gives_the_same_model(folder, tmp_path):
  """Also where the run was stopped in the middle of a window."""
  fields = dataclasses.replace(_FIELDS, time=('hour',))
  found = {}
  for name in ('no', 'yes', 'parts'):
    options = {'stream': 'no' if name == 'no' else 'yes', 'num_steps': 7}
    for steps in (3, 7) if name == 'parts' else (7,):
      config, data = data_of(
        *(folder, tmp_path / name),
        **options | {'num_steps': steps, 'fields': fields, 'shuffle_rows': 16},
        batch_size=8,
        evaluate_every=100,
        checkpoint_every=3,
      )
      data.window = 16
      job = job_of(config)
      found[name] = ClickJob(config, job, data, seed=0, is_exported=True).run()
  logits = [
    np.load(f'{result.folder}/predictions.npz')['logit']
    for result in found.values()
  ]
  np.testing.assert_array_equal(logits[1], logits[0])
  np.testing.assert_array_equal(logits[2], logits[0])
  assert found['yes'].validation == found['no'].validation
  # What is exported is looked up in files, too.
  exported = [
    np.load(f'{found[name].folder}/export/arrays.npz') for name in ('no', 'yes')
  ]
  assert_equal(*map(dict, exported))


def test_columns_may_not_take_the_names_of_other_fields(tmp_path):
  rows = [f'{i % 2},s{i % 3},h{i % 4},{_START + i}' for i in range(12)]
  lines = ['y,scenario,time_hour,when', *rows]
  schema = (
    'columns: {y: int32, scenario: string, time_hour: string, when: int64}\n'
    'label: y\ntime: when\ndomain: scenario\nids: [scenario, time_hour]\n'
  )
  folder = ratings.prepare_log(tmp_path, schema, lines, examples=_SPLIT)
  options = {'model': 'deepfm', 'history': ('none',)}
  fields = FieldConfig(time=('hour',))
  with pytest.raises(ValueError, match='the id columns time_hour have names'):
    data_of(folder, tmp_path, fields=fields, **options)
  _, data = data_of(folder, tmp_path, fields=FieldConfig(), **options)
  clicks = data.splits['train']
  assert sorted({*clicks.column('scenario').tolist()}) == [0, 1, 2]
  assert clicks.names[4:] == ('column_time_hour',)


@pytest.mark.slow
def test_parts_of_29_ids_and_2_texts_open_by_a_schema(tmp_path):
  ids = [f'id_{i}' for i in range(29)]
  lines = [','.join([*ids, 'item_title', 'query', 'label', 'log_time'])]
  for i in range(60):
    values = [str(i % (2 + k)) for k in range(29)]
    texts = [f'title {i % 4}', f'"word {i % 3},other"']
    lines.append(','.join([*values, *texts, str(i % 2), str(_START + 60 * i)]))
  (tmp_path / 'parts').mkdir()
  for part in range(2):
    text = '\n'.join([lines[0], *lines[1 + part :: 2]])
    (tmp_path / 'parts' / f'antm2c_10m_part{part}').write_text(text + '\n')
  schema = f"""
columns:
  {{{', '.join(f'{n}: string' for n in ids)}, item_title: string, query: string,
  label: int32, log_time: int64}}
user: id_0
item: id_1
text: item_title
texts: [query]
domain: id_2
ids: [{', '.join(ids[2:])}]
label: label
time: log_time
"""
  source = str(tmp_path / 'parts')
  folder = ratings.prepare_log(tmp_path, schema, source=source)
  fields = FieldConfig(bags=('query',))
  _, data = data_of(
    *(folder, tmp_path),
    fields=fields,
    history=('history',),
    stream='yes',
  )
  assert len(data.sizes.columns) == 26 and len(data.scenarios) == 4
  assert data.sizes.bags == {'query': (3, 'mean')}
