# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The batch scorer gives each user what the user gets alone."""

import typing

import numpy as np
import pytest

from antjax.serving import exporter, loader, scorer
from antjax.serving.served import ServedUsers
from tests.serving import serving_case

# Users in a batch of another size are summed in another order; 1 to 5.
ROUNDING_ATOL = 2e-6


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp('export') / 'model'
  exporter.write(folder, serving_case.Case().exported())
  return loader.Model(folder)


def record(task, num_support, num_query, seed=0):
  rng = np.random.default_rng([task, seed])
  n = num_support + num_query
  return {
    'task': task,
    'num_query': num_query if num_support else 0,
    'gender': int(rng.integers(0, 3)),
    'item': rng.integers(0, 40, n),
    'genres': rng.integers(-1, 9, (n, 3)),
    'rating': rng.integers(1, 6, n).astype(np.float32),
  }


def alone(model, one):
  """The predictions of one user, by the call for one."""
  num_rows = len(one['rating'])
  start = num_rows - (one['num_query'] or num_rows)
  used = slice(max(0, start - serving_case.SUPPORT_SIZES[-1]), start)
  parts = [
    {
      n: one[n] if n == 'gender' else one[n][rows]
      for n in ('gender', 'item', 'genres')
    }
    for rows in (used, slice(start, None))
  ]
  if start:
    return model.adapt_user(parts[0], one['rating'][used], parts[1])
  query = {n: np.asarray(x)[None] for n, x in parts[1].items()}
  return {n: x[0] for n, x in model.predict(query).items()}


@pytest.mark.slow
def test_each_user_gets_what_it_gets_alone(model):
  # None, one, a bucket, the largest bucket, more than that.
  sizes = [(0, 3), (1, 4), (4, 2), (8, 4), (11, 5), (3, 1), (2, 4), (7, 4)]
  records = [record(task, *size) for task, size in enumerate(sizes)]
  seen = {}
  for columns in scorer.score(model, records, batch_size=2):
    assert {'task', 'row', 'prediction', 'median'} <= set(columns)
    for task, row, prediction in zip(
      columns['task'], columns['row'], columns['prediction'], strict=True
    ):
      assert (task, row) not in seen
      seen[task, row] = prediction
  for one, (num_support, num_query) in zip(records, sizes, strict=True):
    expected = alone(model, one)['prediction']
    got = [seen.pop((one['task'], num_support + i)) for i in range(num_query)]
    np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDING_ATOL)
  assert not seen


def test_a_user_by_values(model):
  values = {
    'gender': 1,
    'item': ['Amélie 3', 'unheard of'],
    'genres': [[4], [2, 3]],
  }
  ids = scorer.user_ids(model, values)
  assert ids['item'].tolist() == [3, 0] and ids['gender'].shape == ()
  assert ids['genres'].tolist() == [[4, -1, -1], [2, 3, -1]]
  assert model.adapt_user(ids, [5, 1], ids)['prediction'].shape == (2,)
  with pytest.raises(ValueError, match=r"\['genres'\] missing"):
    scorer.user_ids(model, {'gender': 1, 'item': []})


GOOD = {'gender': 1, 'item': ['Amélie 3'], 'genres': [[4]]}


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'genres': ['Animation', 'Comedy']}, r"'genres'.*'Animation'.* list "),
    ({'genres': [4, 5]}, "'genres'.* 4; needed is a list "),
    ({'genres': 'Animation'}, "'genres'.*'Animation'; needed is a list "),
    ({'genres': [[1, 2, 3, 4]]}, "'genres'.*4 values; .* up to 3"),
    ({'genres': [[1, [2]]]}, "'genres'"),
    ({'genres': [[1, None]]}, "'genres'.*None"),
    ({'genres': [None]}, "'genres'.*None"),
    ({'genres': [[9]]}, "'genres' .* id 9.* 0 to 8"),
    ({'genres': [[1.5]]}, "'genres'.*1.5.*integer"),
    ({'gendre': 1}, r"'gendre'.* is not .*'gender'"),
    ({'item': [['a'], 'b']}, "'item'.*lists.* one value a row"),
    ({'item': [['a'], ['b', 'c']]}, "'item'.*lists.* one value a row"),
    ({'item': [['a']]}, r"'item'.*\(1, 1\).* one value a row"),
    ({'item': ['Amélie 3', None]}, "'item'.*None"),
    ({'item': None}, "'item'.*None"),
    ({'item': ['Amélie 3', 4]}, "'item'.* and 4; .*texts only"),
    ({'item': [4]}, "'item' are texts; got .*4"),
    ({'gender': None}, "'gender'.*None"),
    ({'gender': [1, [2]]}, "'gender'.* one value a row"),
    ({'gender': 2**40}, "'gender' .* id 1099511627776"),
    ({'gender': True}, "'gender'.*True"),
  ],
)
def test_values_that_would_be_misread_are_refused(model, values, message):
  assert scorer.user_ids(model, GOOD)
  with pytest.raises(ValueError, match=message):
    scorer.user_ids(model, GOOD | values)


class KeyedModel:
  """As `Model`, of one feature with integer keys and one numeric input."""

  manifest: typing.ClassVar = {
    'features': {'user': {'num_ids': 4, 'max_values': 1}},
    'numeric': ['age'],
    'vocabularies': {'user': {}},
  }
  keys = np.array([2**53, 2**53 + 1, 2**62])

  ids, checked = loader.Model.ids, loader.Model.checked

  def __init__(self):
    ids = np.arange(1, 4)
    self.vocabularies = {'user': {'values': self.keys, 'ids': ids}}
    self.unknown, self._added = {'user': 0}, {}


def test_integer_keys_stay_exact():
  model = KeyedModel()
  ids = scorer.user_ids(model, {'user': [2**53 + 1, 5], 'age': 3})
  assert ids['user'].tolist() == [2, 0]
  ids = scorer.user_ids(model, {'user': np.uint64([2**53 + 1]), 'age': [3.5]})
  assert ids['user'].tolist() == [2]
  for wrong in ([2**53 + 1, 0.5], [1.0], 2**63, [2**63, -1]):
    with pytest.raises(ValueError, match="'user' are integers"):
      scorer.user_ids(model, {'user': wrong, 'age': 3})


@pytest.mark.parametrize('age', [None, ['3'], [1, None], [[1]], [1, [2]]])
def test_numeric_inputs_are_numbers(age):
  with pytest.raises(ValueError, match="'age'"):
    scorer.user_ids(KeyedModel(), {'user': 5, 'age': age})


def test_lists_of_another_width(model):
  one = record(0, 3, 2)
  one['genres'][:, 2] = -1
  (expected,) = scorer.score(model, [one])
  (found,) = scorer.score(model, [one | {'genres': one['genres'][:, :2]}])
  np.testing.assert_array_equal(found['prediction'], expected['prediction'])
  wide = np.ones((5, 4), np.int32)
  message = "task 0.*'genres'.* 4 values a row; .* up to 3"
  with pytest.raises(ValueError, match=message):
    list(scorer.score(model, [one | {'genres': wide}]))


def test_single_values_where_the_model_takes_lists(model):
  one = record(0, 3, 2)
  one['genres'][:, 1:] = -1
  (expected,) = scorer.score(model, [one])
  (found,) = scorer.score(model, [one | {'genres': one['genres'][:, 0]}])
  np.testing.assert_array_equal(found['prediction'], expected['prediction'])
  (found,) = scorer.score(model, [one | {'gender': np.full((5, 1), 1)}])
  (expected,) = scorer.score(model, [one | {'gender': 1}])
  np.testing.assert_array_equal(found['prediction'], expected['prediction'])


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'num_query': 6}, 'task 0 .* num_query=6 .* 5 rows'),
    ({'num_query': -1}, 'task 0 .* num_query=-1 .* 5 rows'),
    ({'item': np.ones(4, np.int32)}, r"task 0.*'item'.*\(4,\).* \(5,\)"),
    ({'genres': np.ones(3, np.int32)}, r"'genres'.*\(3,\).* \(5, 3\)"),
    ({'gender': np.ones((5, 2), np.int32)}, "'gender' has 2 values .* up to 1"),
  ],
)
def test_a_record_of_another_shape_is_refused(model, change, message):
  with pytest.raises(ValueError, match=message):
    list(scorer.score(model, [record(0, 3, 2) | change]))


def test_a_record_that_lacks_a_column_is_named(model):
  one = record(0, 2, 2)
  del one['item']
  with pytest.raises(ValueError, match='a record has no item; it has gender,'):
    list(scorer.score(model, [one]))


def by_values(num, **more):
  """A request's part: `num` rows of a user."""
  rows = range(num)
  items = {'item': [f'Amélie {1 + 3 * i}' for i in rows]}
  return {'gender': 1, **items, 'genres': [[i % 9] for i in rows], **more}


def test_requests_get_what_a_user_gets(model):
  served = ServedUsers(model, max_rows=4)
  served.warm()
  compiled = [f._cache_size() for f in model._functions.values()]
  cases = [(0, 3), (3, 2), (4, 4), (2, 2), (8, 1)]
  requests = []
  for support, query in cases:
    fields = {'query': by_values(query)}
    if support:
      fields |= {'support': by_values(support), 'labels': [4] * support}
    requests.append(served.read(fields))
  answers = served.score(requests)
  done = [f._cache_size() for f in model._functions.values()]
  for (support, query), answer in zip(cases, answers, strict=True):
    asked = scorer.user_ids(model, by_values(query))
    if support:
      rated = scorer.user_ids(model, by_values(support))
      want = model.adapt_user(rated, [4] * support, asked)
    else:
      want = model.predict({n: x[None] for n, x in asked.items()})
      want = {n: x[0] for n, x in want.items()}
    for name, values in want.items():
      np.testing.assert_allclose(
        answer[name], values, rtol=0, atol=ROUNDING_ATOL
      )
  assert compiled == done  # Nothing was compiled for them.


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ([], 'request: got .*; needed is an object: query'),
    ({}, 'query: got only nothing'),
    ({'query': GOOD, 'more': 1}, 'more: got an unknown field'),
    ({'query': 3}, 'query: got 3; needed is an object'),
    ({'query': by_values(9)}, 'query: got 9 rows; needed is 1 to 8 rows'),
    ({'query': by_values(2, item=['a', None])}, 'query.item, row 1: got None'),
    ({'query': by_values(2, genres=[[1]])}, 'query: got unequal lengths'),
    ({'query': by_values(1, item=[7])}, "query: .*'item' are texts; got .*7"),
    ({'query': GOOD, 'support': GOOD}, 'labels: got only query, support'),
    (
      {'query': GOOD, 'support': GOOD, 'labels': [1, 2]},
      'labels: got 2 values; needed is a list of 1, one a support row',
    ),
    (
      {'query': GOOD, 'support': GOOD, 'labels': ['5']},
      "labels, row 0: got '5'; needed is a number",
    ),
  ],
)
def test_requests_that_are_refused(model, fields, message):
  with pytest.raises(ValueError, match=message):
    ServedUsers(model, max_rows=8).read(fields)
