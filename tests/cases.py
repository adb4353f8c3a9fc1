# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Cases of tests: which are fast, and few of a grid that still have all pairs.

Almost every bug of a grid of options shows with one or two values of it, so a
covering array finds it in a small part of the runs: see Kuhn, Wallace and
Gallo, "Software Fault Interactions and Implications for Software Testing"
(IEEE TSE 30(6), 2004).
"""

import collections
import itertools
import os

import pytest


def slow_but(cases, *fast):
  """Cases for `pytest.mark.parametrize`, all slow but some."""
  return [
    pytest.param(
      *(case if isinstance(case, tuple) else (case,)),
      marks=() if case in fast else pytest.mark.slow,
    )
    for case in cases
  ]


def first_fast(*cases):
  """Cases for `pytest.mark.parametrize`, all slow but the first."""
  return slow_but(cases, cases[0])


def pairs(*values):
  """All pairs of a case's values, each with its place, as `must` has them."""
  return itertools.combinations(enumerate(values), 2)


def code_pairs(code, *values):
  """All pairs of a PaRO code's levels and other values, and the code itself."""
  return {*pairs(*code, *values), code}


def covering(cases, must, keep=()):
  """Chooses cases that together have all that any case has.

  Greedy and deterministic: the case that adds most comes next; of equals the
  one whose values were chosen least, then the first. With FULL=1 in the
  environment it chooses all.

  Args:
    cases: All cases, as tuples.
    must: Function from the values of a case, which are hashable, to what must
      occur.
    keep: Cases to choose in any case, first.

  Returns:
    The chosen cases, in the order of `cases`.
  """
  cases = list(cases)
  if os.environ.get('FULL'):
    return cases
  has = {case: frozenset(must(*case)) for case in cases}
  chosen = dict.fromkeys(keep)
  missing = frozenset().union(*has.values())
  for case in chosen:
    missing -= has[case]
  uses = collections.Counter(itertools.chain(*chosen))
  while missing:
    best = max(
      cases,
      key=lambda case: (len(has[case] & missing), -sum(uses[x] for x in case)),
    )
    chosen[best] = None
    uses.update(best)
    missing -= has[best]
  return [case for case in cases if case in chosen]
