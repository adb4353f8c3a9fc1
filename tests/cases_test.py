# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Chosen cases have all that they must, and are few."""

import itertools

import pytest

from antjax.mesh.paro import VALID_CODES
from tests.cases import code_pairs, covering, first_fast, pairs, slow_but


@pytest.fixture(autouse=True)
def not_whole(monkeypatch):
  monkeypatch.delenv('FULL', raising=False)


def test_every_pair_of_values_occurs_in_few_cases(monkeypatch):
  factors = ('abcdef', range(4), (True, False), range(3))
  cases = list(itertools.product(*factors))
  found = covering(cases, pairs)
  for (i, xs), (j, ys) in itertools.combinations(enumerate(factors), 2):
    assert {(case[i], case[j]) for case in found} == set(
      itertools.product(xs, ys)
    )
  # 24 is the least: as many as pairs of the two longest factors.
  assert len(cases) == 144 and len(found) <= 28
  assert found == covering(cases, pairs)
  assert found == sorted(found, key=cases.index)
  monkeypatch.setenv('FULL', '1')
  assert covering(cases, pairs) == cases


def test_what_cannot_be_is_no_case_and_what_is_kept_counts():
  cases = [c for c in itertools.product(range(3), repeat=3) if sum(c) != 6]
  keep = [(0, 0, 0), (1, 1, 1)]
  found = covering(cases, pairs, keep)
  assert set(keep) <= set(found) <= set(cases)
  assert {p for c in cases for p in pairs(*c)} == {
    p for c in found for p in pairs(*c)
  }
  # What must occur may be anything; other values are those chosen least.
  found = covering(cases, lambda a, b, c: [(a, b)])
  assert len(found) == 9 == len({case[:2] for case in found})
  assert {case[2] for case in found} == {0, 1, 2}
  assert covering([], pairs) == []
  with pytest.raises(KeyError):
    covering(cases, pairs, keep=[(9, 9, 9)])


def test_codes_meet_all_values_by_their_levels():
  found = covering(itertools.product(VALID_CODES, (1, 2, 4, 8)), code_pairs)
  assert {code for code, _ in found} == set(VALID_CODES)
  for place in range(3):
    assert {(code[place], intra) for code, intra in found} == set(
      itertools.product('NIG', (1, 2, 4, 8))
    )
  assert len(found) < 24  # Of 56.


def test_slow_cases_are_marked():
  found = slow_but([(1, 'a'), (2, 'b'), 'c'], (1, 'a'))
  assert [p.values for p in found] == [(1, 'a'), (2, 'b'), ('c',)]
  assert [bool(p.marks) for p in found] == [False, True, True]
  assert [bool(p.marks) for p in first_fast('a', 'b')] == [False, True]
