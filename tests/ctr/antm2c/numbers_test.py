# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers as fields, beside plain NumPy."""

from flax import nnx
import numpy as np
import pytest

from antjax.ctr.antm2c import numbers
from antjax.ctr.antm2c.numbers import Numbers, WAYS
from antjax.networks.network import Inputs

NAN = np.nan


def test_each_number_is_read_in_its_way():
  values = np.array(
    [[1, 7, 4], [3, 0, NAN], [NAN, -7, 2], [5, 0, 9]], np.float32
  )
  ways = {'age': 'linear', 'price': 'log', 'rank': 'bins'}
  found = Numbers.fit(ways, [values[:1], values[1:]], 4, num_bins=2)
  assert found.smooth == {'age': 'linear', 'price': 'linear'}
  scaled = found(values)
  age = (np.array([1, 3, NAN, 5]) - 3) / np.std([1, 3, 5])
  price = np.sign(values[:, 1]) * np.log1p(np.abs(values[:, 1]))
  np.testing.assert_allclose(scaled[:, 0], age, rtol=1e-6)
  np.testing.assert_allclose(scaled[:, 1], price / price.std(), rtol=1e-6)
  # Half of 2, 4, 9 are at most 4; a missing one has a bin of its own.
  assert found.num_ids == {'rank': 3}
  assert found.bins(values)['rank'].tolist() == [1, 0, 1, 2]
  new = np.array([[0, 0, x] for x in (-1, 4.5, 100)], np.float32)
  assert found.bins(new)['rank'].tolist() == [1, 2, 2]


def test_bins_of_a_constant_and_of_nothing():
  values = np.array([[7, NAN], [7, NAN]], np.float32)
  found = Numbers.fit({'a': 'bins', 'b': 'bins'}, [values], 2, num_bins=4)
  assert found.num_ids == {'a': 2, 'b': 2} and found(values).shape == (2, 0)
  assert {n: x.tolist() for n, x in found.bins(values).items()} == {
    'a': [1, 1],
    'b': [0, 0],
  }


def test_bins_hold_as_many_clicks_each():
  values = np.random.default_rng(0).permutation(60).astype(np.float32)[:, None]
  found = Numbers.fit({'a': 'bins'}, [values], 60, num_bins=6)
  counts = np.bincount(found.bins(values)['a'])
  assert counts[0] == 0 and np.ptp(counts[1:]) <= 2


def test_fields_and_linear_terms_are_those_of_the_papers():
  ways = ('dense', 'linear', 'autodis')
  fields = numbers.NumberFields(ways, 3, 0.1, rngs=nnx.Rngs(0))
  fields.weight[...] = np.array([10.0, 2.0, 3.0])
  fields.missing_weight[...] = np.array([100.0, 5.0, 7.0])
  fields.missing[...] = np.ones((2, 3)) * np.array([[0.5], [0.25]])
  x = np.array([[1, 1.5, -2], [2, NAN, 0.5], [NAN, 1, NAN]], np.float32)
  found = fields(x, Inputs(np.ones((3, 1, 3), np.float32), 1.0, None))
  linear = np.array([10 + 3 - 6, 20 + 5 + 1.5, 100 + 2 + 7])
  np.testing.assert_allclose(found.first_order_B, 1 + linear, rtol=1e-6)
  np.testing.assert_array_equal(found.dense_BX, [[1], [2], [0]])
  x, vectors = x[:, 1:], found.fields_BFD[:, 1:]
  v = np.asarray(fields.vectors[...])
  np.testing.assert_allclose(vectors[0, 0], 1.5 * v[0], rtol=1e-6)
  np.testing.assert_array_equal(vectors[1, 0], [0.5] * 3)
  np.testing.assert_array_equal(vectors[2, 1], [0.25] * 3)
  up, mix, meta = (
    np.asarray(p[0]) for p in (fields.up, fields.mix, fields.meta)
  )
  for row in (0, 1):
    hidden = x[row, 1] * up
    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    score = hidden @ mix + 0.5 * hidden
    share = np.exp(score) / np.exp(score).sum()
    np.testing.assert_allclose(vectors[row, 1], share @ meta, rtol=1e-4)


def test_ways_are_one_for_all_and_others_by_name():
  assert numbers.ways('f', ('log', 'age=bins'), ('age', 'price'), WAYS) == (
    'log',
    {'age': 'bins'},
  )
  assert numbers.ways('f', (), None, WAYS) == ('bins', {})
  for texts in (('deep',), ('log', 'bins'), ('age=bins', 'age=log')):
    with pytest.raises(ValueError, match='one of bins, linear, log, autodis'):
      numbers.ways('fields.numbers', texts, None, WAYS)
  with pytest.raises(ValueError, match='size unknown; the data have age'):
    numbers.ways('fields.numbers', ('size=bins',), ('age',), WAYS)
