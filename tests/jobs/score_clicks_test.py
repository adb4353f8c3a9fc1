# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a log with a split column to a scored table, and to scores of rows."""

import csv
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antjax.ctr.antm2c.fields import FieldConfig
from antjax.data.rejects import Rejects
from antjax.jobs.clicks import score
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.data import ScenarioData
from antjax.jobs.clicks.training import ClickJob
from antjax.metrics.by_slice import ScoreConfig
from antjax.networks import load
from antjax.networks.load import NetworkConfig
from antjax.serving.click_loader import ClickScorer
from antjax.serving.served import ServedClicks
from tests.jobs import ratings
from tests.jobs.processes import job_of

pytestmark = pytest.mark.filterwarnings('ignore:Sharding info not provided')

_SCHEMA = """
columns: {user: string, item: int64, cat: string, price: {type: float32,
  empty: 0}, stars: {type: float32, empty: null}, clicked: int32,
  bought: int32, part: string}
user: user
item: item
label: clicked
split: part
ids: [cat]
numeric: [price, stars]
nulls: [NA]
"""
_FIELDS = FieldConfig(
  embedding_dim=4,
  learning_rate=0.05,
  numbers=('bins', 'stars=linear'),
  crosses=('user*cat',),
)


def write_log(folder, schema=_SCHEMA):
  rng = random.Random(0)
  rows = []
  for i in range(120):
    part = 'train' if i < 80 else 'valid' if i < 100 else 'test'
    item = rng.randrange(9 if part == 'test' else 7)
    rows.append(
      {
        'user': f'u{rng.randrange(8 if part == "test" else 6)}',
        'item': item,
        'cat': f'c{item % 3}',
        'price': '' if i % 9 == 0 else round(rng.random() * 9, 3),
        'stars': '' if i % 7 == 0 else round(rng.random() * 5, 1),
        'clicked': rng.randrange(2),
        'bought': rng.randrange(2),
        'part': part,
      }
    )
  write(folder / 'log.csv', rows)
  ratings.prepare_log(folder, schema)
  return [row for row in rows if row['part'] == 'test']


def write(path, rows):
  with open(path, 'w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)


def train(folder, model, **changes):
  options = {
    'data': str(folder / 'data'),
    'run_dir': str(folder / model),
    'model': model,
    'num_steps': 2,
    'batch_size': 16,
    'eval_batch_size': 32,
    'max_history': 3,
    'score': ScoreConfig(num_resamples=2),
    'fields': _FIELDS,
    'network': NetworkConfig(widths=(8,)),
  }
  config = Config(**options | changes)
  job = job_of(config)
  data = ScenarioData(config, job)
  ClickJob(config, job, data, seed=0, is_exported=True).run()
  return folder / model / 'seed_0'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Folder, rows of test, and what a training of an FM has left."""
  folder = tmp_path_factory.mktemp('clicks')
  rows = write_log(folder)
  return folder, rows, train(folder, 'fm')


def columns(rows):
  return {n: [row[n] for row in rows] for n in rows[0]}


def scores(folder, name, rows_file):
  out = folder / f'{name}.csv'
  score.main(
    score.Config(model=str(folder / 'fm'), input=str(rows_file), out=str(out))
  )
  with open(out, newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def test_scores_are_those_of_the_training_bit_for_bit(trained):
  _, rows, run_dir = trained
  logits = np.load(run_dir / 'predictions.npz')['logit']
  model = ClickScorer(run_dir / 'export')
  found, unseen = model.score(columns(rows))
  np.testing.assert_array_equal(found['prediction'], logits)
  assert unseen['user'] == sum(row['user'] > 'u5' for row in rows) > 0
  assert unseen['item'] == sum(row['item'] > 6 for row in rows) > 0
  assert not unseen['cat']
  (one,) = model.score(columns(rows[:1]))[0]['prediction']
  assert one == pytest.approx(logits[0], abs=1e-6)


def test_files_of_rows(trained, capsys):
  folder, rows, run_dir = trained
  logits = np.load(run_dir / 'predictions.npz')['logit']
  bare = [
    {n: row[n] for n in ('stars', 'item', 'cat', 'price')} for row in rows
  ]
  users = [
    {'user': row['user'], 'more': 'x,y'} | new for row, new in zip(rows, bare)
  ]
  write(folder / 'new.csv', users)
  table = scores(folder, 'of_csv', folder / 'new.csv')
  assert [np.float32(row['score_logit']) for row in table] == logits.tolist()
  assert [row['user'] for row in table] == [row['user'] for row in rows]
  share = 1 / (1 + np.exp(-np.float64(logits)))
  np.testing.assert_allclose([float(row['score']) for row in table], share)
  told = capsys.readouterr().out
  assert '20 rows scored' in told
  assert 'rows have a value unknown to training' in told
  typed = [{n: None if x == '' else x for n, x in row.items()} for row in users]
  pq.write_table(pa.Table.from_pylist(typed), folder / 'new.parquet')
  (folder / 'new.jsonl').write_text('\n'.join(map(json.dumps, typed)))
  for name in ('new.parquet', 'new.jsonl'):
    assert scores(folder, 'again', folder / name) == table
  (folder / 'one.json').write_text(json.dumps(typed[0]))
  (one,) = scores(folder, 'one', folder / 'one.json')
  assert float(one['score']) == pytest.approx(share[0], abs=1e-6)
  lines = (folder / 'new.csv').read_text().replace('"x,y"', 'x;y')
  (folder / 'new.tsv').write_text(lines.replace(',', '\t'))
  assert scores(folder, 'tabs', folder / 'new.tsv') == table
  mixed = [row | {'cat': 3 + row['item']} for row in typed[:2]]
  mixed[1]['cat'] = 'c1'
  (folder / 'mixed.jsonl').write_text('\n'.join(map(json.dumps, mixed)))
  assert len(scores(folder, 'mixed', folder / 'mixed.jsonl')) == 2
  mixed[1]['price'] = 'dear'
  (folder / 'mixed.jsonl').write_text('\n'.join(map(json.dumps, mixed)))
  with pytest.raises(ValueError, match="mixed.jsonl: column 'price': "):
    scores(folder, 'mixed', folder / 'mixed.jsonl')


def test_bad_rows_are_set_aside_by_name(trained, capsys):
  folder, rows, _ = trained
  kept = [
    {n: row[n] for n in ('user', 'item', 'cat', 'price', 'stars')}
    for row in rows
  ]
  kept[3] |= {'price': 'dear'}
  kept[5] |= {'user': 'NaN'}
  write(folder / 'bad.csv', kept)
  table = scores(folder, 'bad', folder / 'bad.csv')
  assert [int(row['row']) for row in table] == [
    n for n in range(len(rows)) if n not in (3, 5)
  ]
  assert '2 rows are set aside' in capsys.readouterr().out
  with open(folder / 'bad.csv.rejected.csv', encoding='utf-8') as file:
    told = [(x['line'], x['column']) for x in csv.DictReader(file)]
  assert told == [('5', 'price'), ('7', 'user')]
  write(folder / 'less.csv', [{'user': 'u1', 'item': 3, 'price': 1}])
  with pytest.raises(
    ValueError, match='the columns cat, stars are missing; the model needs user'
  ):
    scores(folder, 'less', folder / 'less.csv')
  with pytest.raises(FileNotFoundError, match='holds no model; launch/'):
    score.main(score.Config(model=str(folder), input='x.csv'))
  with pytest.raises(ValueError, match=r'out=x.txt: must end in .csv or'):
    score.Config(out='x.txt')


def test_rows_are_read_as_the_log_is(trained):
  folder, rows, run_dir = trained
  logits = np.load(run_dir / 'predictions.npz')['logit'].tolist()
  names = ('user', 'item', 'cat', 'price', 'stars')
  lines = [[row[n] for n in names] for row in rows]
  with_nulls = [['NA' if x == '' else x for x in line] for line in lines]
  indexed = [[i, *line] for i, line in enumerate(with_nulls)]
  text = '\n'.join(','.join(map(str, x)) for x in [['', *names], *indexed])
  (folder / 'pandas.csv').write_text(text)
  table = scores(folder, 'of_pandas', folder / 'pandas.csv')
  assert [np.float32(row['score_logit']) for row in table] == logits

  model = ClickScorer(run_dir / 'export')
  model.clicks['log'] |= {'delimiter': '::', 'encoding': 'latin-1'}
  names = ('user', 'item', 'price', 'stars')
  lines = [[f'\xe9{n}', *line[1:2], *line[3:]] for n, line in enumerate(lines)]
  source = folder / 'days' / 'cat=c1'
  source.mkdir(parents=True)
  text = '\n'.join('::'.join(map(str, x)) for x in [names, *lines])
  (source / 'new.csv').write_bytes(text.encode('latin-1'))
  rejects = Rejects(folder / 'none.csv', 1.0)
  (part,) = score.tables(model, str(folder / 'days'), rejects)
  assert part['user'].to_pylist() == [f'\xe9{n}' for n in range(len(rows))]
  assert part['cat'].unique().to_pylist() == ['c1']
  assert not rejects.num_rows


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', [n for n in load.CLICK if n not in ('fm', *load.MULTI_TASK)]
)
def test_every_model_scores_as_it_was_trained(trained, name):
  folder, rows, _ = trained
  run_dir = train(folder, name, scenario='cat')
  logits = np.load(run_dir / 'predictions.npz')['logit']
  found, _ = ClickScorer(run_dir / 'export').score(columns(rows))
  np.testing.assert_array_equal(found['prediction'], logits)


@pytest.mark.slow
@pytest.mark.parametrize('name', load.MULTI_TASK)
def test_models_of_tasks_give_each(tmp_path, name):
  labels = _SCHEMA.replace('label: clicked', 'label: clicked\nlabels: [bought]')
  rows = write_log(tmp_path, labels)
  run_dir = train(tmp_path, name)
  found, _ = ClickScorer(run_dir / 'export').score(columns(rows))
  with np.load(run_dir / 'predictions.npz') as wanted:
    np.testing.assert_array_equal(found.pop('prediction'), wanted['logit'])
    assert {*found} == {*wanted.files} - {'logit'} and found
    for column, logits in found.items():
      np.testing.assert_array_equal(logits, wanted[column])


def test_requests_get_what_rows_get(trained):
  _, rows, run_dir = trained
  model = ClickScorer(run_dir / 'export')
  served = ServedClicks(model, max_rows=50)
  served.warm()
  compiled = [f._cache_size() for f in model._functions.values()]
  good = columns(rows[:5])
  good['price'] = [None if x == '' else x for x in good['price']]
  good['stars'] = [None if x == '' else x for x in good['stars']]
  by_row = [dict(zip(good, row)) for row in zip(*good.values(), strict=True)]
  one = dict.fromkeys(good, 0) | {'user': 'u1', 'cat': 'c1', 'item': [3, 4]}
  fields = [{'rows': good}, {'rows': by_row}, {'rows': one}]
  answers = served.score([served.read(x) for x in fields])
  want, _ = model.score(columns(rows[:5]))
  np.testing.assert_array_equal(answers[0]['score_logit'], want['prediction'])
  np.testing.assert_equal(answers[1], answers[0])
  assert answers[2]['score'][0] != answers[2]['score'][1]
  assert compiled == [f._cache_size() for f in model._functions.values()]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'user': [{}]},
      r'rows.user, row 0: got \{\}; needed is a text of at most',
    ),
    ({'user': ['u' * 2001]}, 'rows.user, row 0'),
    ({'item': [1.5]}, r'rows.item, row 0: got 1.5; needed is an integer'),
    ({'item': [True]}, 'rows.item, row 0: got True'),
    ({'item': [2**63]}, 'rows.item, row 0: got 9223372036854775808'),
    ({'price': ['x']}, "rows.price, row 0: got 'x'; needed is a number, or"),
    ({'price': [float('inf')]}, 'rows.price, row 0: got inf; needed is'),
    ({'price': [1, 2]}, 'got 1 values; needed is 2, as other columns have'),
    ({'user': ['u'] * 51}, 'rows: got 51 rows; needed is 1 to 50 rows'),
  ],
)
def test_requests_that_are_refused(trained, change, message):
  _, rows, run_dir = trained
  served = ServedClicks(ClickScorer(run_dir / 'export'), max_rows=50)
  good = columns(rows[1:2]) | {'price': [1], 'stars': [2]}
  assert served.read({'rows': good}).num_rows == 1
  with pytest.raises(ValueError, match=message):
    served.read({'rows': good | change})
