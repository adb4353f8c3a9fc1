# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The batch scorer gives each user what the user gets alone."""

import numpy as np
import pytest

from antjax.serving import exporter, loader, scorer
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


def test_a_record_that_lacks_a_column_is_named(model):
  one = record(0, 2, 2)
  del one['item']
  with pytest.raises(ValueError, match='a record has no item; it has gender,'):
    list(scorer.score(model, [one]))


if __name__ == '__main__':
  raise SystemExit(pytest.main([__file__]))
