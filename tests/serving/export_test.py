# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""An exported model scores as the trainer does, without the trainer's code."""

import dataclasses
import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from antjax.embedding import rounding
from antjax.embedding.layout import TableSpec
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.meta.algorithms import ALGORITHMS
from antjax.serving import exporter, functions, loader
from tests import source_tree
from tests.serving import delta_test, serving_case

# The trainer's look-ups are compiled with the model, the exported one has none:
# XLA sums in another order. Predictions are 1 to 5.
ROUNDING_ATOL = 2e-6
# A prediction of the int8 model in the cases below, from 1 to 5; the tables'
# own error is bounded exactly.
INT8_ATOL = 0.02


def answers_of(model, asked):
  return [
    model.adapt_and_predict(a['support'], a['labels'], a['query'], a['mask'])
    for a in asked
  ]


def check(answers, asked, atol):
  spread = [one['expected']['prediction'][one['shown']] for one in asked]
  assert np.ptp(np.concatenate(spread)) > 1
  for answer, one in zip(answers, asked, strict=True):
    shown, expected = one['shown'], one['expected']['prediction']
    np.testing.assert_allclose(
      answer['prediction'][shown], expected[shown], rtol=0, atol=atol
    )
    # A median may tip over where half of the mass is reached just so.
    moved = answer['median'][shown] != one['expected']['median'][shown]
    assert moved.sum() <= 1


@pytest.fixture(scope='module')
def case():
  return serving_case.Case()


@pytest.fixture(scope='module')
def asked(case):
  return serving_case.loader_inputs(case)


@pytest.fixture(scope='module')
def exported(case):
  return case.exported(step=7)


@pytest.fixture(scope='module')
def folder(exported, tmp_path_factory):
  folder = tmp_path_factory.mktemp('export') / 'model'
  exporter.write(folder, exported)
  return folder


def test_scores_are_the_trainers(folder, asked):
  check(answers_of(loader.Model(folder), asked), asked, ROUNDING_ATOL)


def check_export_of(case, folder):
  exporter.write(folder, case.exported())
  asked = serving_case.loader_inputs(case)
  check(answers_of(loader.Model(folder), asked), asked, ROUNDING_ATOL)


@pytest.mark.slow
def test_rows_that_adapt_are_shared_by_support_and_query(tmp_path):
  case = serving_case.Case('melu', 'all', numeric=('hour', 'price'))
  check_export_of(case, tmp_path / 'model')


@pytest.mark.slow
def test_rows_of_16_bits_are_trained_and_exported(tmp_path):
  case = serving_case.Case(table_dtype='bfloat16')
  before = jax.tree.map(np.asarray, case.state.tables)
  batches = [*case.batches(), *case.batches(seed=1)]
  case.state = case.trainer.fit(case.state, batches, num_steps=len(batches))
  for name, stack in case.state.tables.items():
    assert stack['table'].dtype == before[name]['table'].dtype == 'bfloat16'
    assert (np.asarray(stack['table']) != before[name]['table']).any()
  check_export_of(case, tmp_path / 'model')


def test_the_loader_imports_nothing_of_antjax():
  path = pathlib.Path(loader.__file__)
  modules = {item.module.split('.')[0] for item in source_tree.imports(path)}
  assert modules - set(sys.stdlib_module_names) == {'jax', 'numpy'}


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', [n for n, a in ALGORITHMS.items() if a.outer != 'none']
)
def test_every_algorithm(tmp_path, name):
  algorithm = ALGORITHMS[name]
  case = serving_case.Case(algorithm.network or 'dlrm', inner=algorithm.inner)
  check_export_of(case, tmp_path / 'model')


def test_without_adaptation(folder, case, asked):
  model = loader.Model(folder)
  still = dataclasses.replace(case.inner, num_steps=0)
  expected = case.predictions(case.batches(), still)[0]['prediction']
  got = np.concatenate(
    [model.predict(one['query'])['prediction'].ravel() for one in asked[:2]]
  )
  shown = np.concatenate([one['shown'].ravel() for one in asked[:2]])
  np.testing.assert_allclose(
    got[shown], expected[shown], rtol=0, atol=ROUNDING_ATOL
  )
  # Adaptation on nothing is none.
  one = asked[0]
  nothing = model.adapt_and_predict(
    one['support'], one['labels'], one['query'], np.zeros_like(one['mask'])
  )
  np.testing.assert_allclose(
    nothing['prediction'], model.predict(one['query'])['prediction'], rtol=1e-6
  )


def test_int8_tables_are_within_their_bound(folder, exported, asked, tmp_path):
  exporter.write(tmp_path / 'int8', exported, quantize='int8')
  manifest = loader.read_manifest(tmp_path / 'int8')
  ids = np.arange(40)
  table = loader.Table(tmp_path / 'int8', manifest['tables']['item']).read(ids)
  rows = exported.tables['item']
  bound = np.abs(rows).max(axis=1, keepdims=True) / 254 * (1 + 1e-6)
  assert np.all(np.abs(table - rows) <= bound) and np.any(table != rows)
  answers = answers_of(loader.Model(tmp_path / 'int8'), asked)
  check(answers, asked, INT8_ATOL)
  sizes = [
    sum(f['bytes'] for n, f in m['files'].items() if n.startswith('tables/'))
    for m in (manifest, loader.read_manifest(folder))
  ]
  assert sizes[0] < sizes[1]


def test_narrow_rows_are_exported_with_their_values(tmp_path):
  tables = EmbeddingTables(
    [TableSpec('item', 30, 5, 'global', dtype='int8')],
    {'item': 'item'},
    mesh=make_mesh(intra=4),
  )
  state = tables.init(jax.random.key(0))
  rows = functions.table_rows(tables, state)
  assert rows['item'].shape == (30, 6) and exporter.width(rows['item']) == 5
  made = exporter.Exported(functions={}, params={}, tables=rows)
  manifest = exporter.write(tmp_path / 'made', made)
  table = loader.Table(tmp_path / 'made', manifest['tables']['item'])
  whole = tables.to_canonical(state)['item']['table'][:30]
  np.testing.assert_array_equal(
    table.read(np.arange(30)), rounding.to_float(whole)
  )
  assert manifest['tables']['item']['dim'] == 5


def test_rows_quantise_to_the_nearest():
  rows = np.array([[0, 0], [1e-30, -1e-30], [3, -12.7]], np.float32)
  values, scale = exporter.quantize_rows(rows)
  assert values.dtype == np.int8 and values.tolist() == [
    [0, 0],
    [127, -127],
    [30, -127],
  ]
  error = np.abs(values * scale[:, None] - rows).max(axis=1)
  assert np.all(error <= scale / 2 * (1 + 1e-6))
  with pytest.raises(ValueError, match='row 1 holds nan'):
    exporter.quantize_rows(np.array([[1.0], [np.nan]], np.float32))


SCRIPT = """
import pickle, sys
from loader import Model
with open('asked.pkl', 'rb') as file:
  asked = pickle.load(file)
model = Model('model')
answers = [
  model.adapt_and_predict(a['support'], a['labels'], a['query'], a['mask'])
  for a in asked
]
with open('answers.pkl', 'wb') as file:
  pickle.dump(answers, file)
trainers = ('antjax', 'flax', 'optax', 'orbax', 'grain', 'pyarrow')
print([m for m in sys.modules if m.split('.')[0] in trainers])
"""


def test_a_fresh_process_needs_the_loader_only(folder, asked, tmp_path):
  """The loader is copied: not even the package has to be installed."""
  shutil.copytree(folder, tmp_path / 'model')
  shutil.copy(loader.__file__, tmp_path / 'loader.py')
  (tmp_path / 'asked.pkl').write_bytes(pickle.dumps(asked))
  done = subprocess.run(
    [sys.executable, '-c', SCRIPT],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(tmp_path)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == '[]'
  answers = pickle.loads((tmp_path / 'answers.pkl').read_bytes())
  here = answers_of(loader.Model(folder), asked)
  for answer, expected in zip(answers, here, strict=True):
    for name, column in expected.items():
      np.testing.assert_array_equal(answer[name], column)


USER = {'gender': 1, 'item': [3, 4, 5], 'genres': [[1, -1, -1]] * 3}
QUERY = {'gender': 1, 'item': [7, 8], 'genres': [[2, 3, -1]] * 2}


def test_one_user_is_a_batch_of_one(folder):
  model = loader.Model(folder)
  assert model.manifest['step'] == 7
  one = model.adapt_user(USER, [5, 1, 3], QUERY)
  batch = model.adapt_and_predict(
    {n: np.array([x, x]) for n, x in USER.items()},
    [[5, 1, 3]] * 2,
    {n: np.array([x, x]) for n, x in QUERY.items()},
  )
  assert one['prediction'].shape == (2,)
  # Another number of users may be summed in another order.
  np.testing.assert_allclose(one['prediction'], batch['prediction'][1], 1e-6)
  liked = model.adapt_user(USER, [5, 5, 5], QUERY)['prediction']
  hated = model.adapt_user(USER, [1, 1, 1], QUERY)['prediction']
  assert np.all(liked > hated)


def test_ids_of_values(folder):
  model = loader.Model(folder)
  ids = model.ids('item', ['Amélie 1', 'nothing', 'Amélie 39', ''])
  assert ids.tolist() == [1, 0, 39, 0] and ids.dtype == np.int32
  with pytest.raises(ValueError, match="only of \\['item'\\]"):
    model.ids('gender', ['F'])
  assert model.ids('item', []).tolist() == []
  for values in ([3, 4], [None], 3.5):
    with pytest.raises(ValueError, match="values of 'item' are texts; got"):
      model.ids('item', values)


def test_ids_of_numbers(tmp_path):
  numbers = np.array([9, 10, 100])
  exported = delta_test.model(np.random.default_rng(0), 'abc')
  exported = delta_test.with_vocabulary(exported, numbers, [1, 2, 3])
  exporter.write(tmp_path / 'model', exported)
  model = loader.Model(tmp_path / 'model')
  assert model.ids('item', [100, 9, 11, -1]).tolist() == [3, 1, 0, 0]
  assert model.ids('item', 10).tolist() == 2
  for values in (['9'], '10', [b'9'], [True], 10.0):
    with pytest.raises(ValueError, match="values of 'item' are integers"):
      model.ids('item', values)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'support': USER | {'item': [3, 4, 40]}}, 'has id 40; the model knows 40'),
    ({'support': USER | {'item': [1.0, 2.0, 3.0]}}, 'ids are integers'),
    ({'support': {'item': [3]}}, 'needed are'),
    ({'query': QUERY | {'item': [1, 2, 3]}}, 'needed is'),
    ({'labels': [5, 1]}, 'labels has shape'),
    ({'labels': [5, float('nan'), 3]}, 'a label is nan; this model takes'),
    (
      {
        'support': {'gender': 1, 'item': [3] * 9, 'genres': [[1, 2, 3]] * 9},
        'labels': [1] * 9,
      },
      'takes up to 8',
    ),
  ],
)
def test_mistakes_are_explained(folder, change, message):
  arguments = {'support': USER, 'labels': [5, 1, 3], 'query': QUERY} | change
  with pytest.raises(ValueError, match=message):
    loader.Model(folder).adapt_user(**arguments)


def test_clicks_are_0_or_1(folder, tmp_path):
  copy = tmp_path / 'model'
  shutil.copytree(folder, copy)
  manifest = json.loads((copy / 'manifest.json').read_text())
  (copy / 'manifest.json').write_text(json.dumps(manifest | {'kind': 'click'}))
  model = loader.Model(copy)
  with pytest.raises(ValueError, match='a label is 7; this model takes 0, 1'):
    model.adapt_user(USER, [0, 1, 7], QUERY)
  model.adapt_user(USER, [0, 1, 1], QUERY)


def test_a_folder_that_is_not_whole_is_refused(folder, exported, tmp_path):
  copy = tmp_path / 'model'
  shutil.copytree(folder, copy)
  (copy / 'tables' / 'item.npy').write_bytes(b'x')
  with pytest.raises(ValueError, match='the model is not whole'):
    loader.Model(copy)
  manifest = json.loads((copy / 'manifest.json').read_text())
  manifest['format_version'] = 99
  (copy / 'manifest.json').write_text(json.dumps(manifest))
  with pytest.raises(ValueError, match='this code reads antjax.serving 1'):
    loader.Model(copy)
  with pytest.raises(FileNotFoundError, match='export_gmeta'):
    loader.Model(tmp_path)
  with pytest.raises(ValueError, match='exists already'):
    exporter.write(copy, exported)
  assert [p.name for p in tmp_path.iterdir()] == ['model']


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes(folder, tmp_path):
  again = tmp_path / 'again'
  exporter.write(again, serving_case.Case().exported(step=7))
  files = [p.relative_to(folder) for p in folder.rglob('*') if p.is_file()]
  assert len(files) > 8
  for path in files:
    assert (folder / path).read_bytes() == (again / path).read_bytes(), path
    assert str(pathlib.Path(__file__).parents[2]) not in (
      again / path
    ).read_bytes().decode('latin-1')
