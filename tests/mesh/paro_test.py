# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PaRO codes, their validity, and the paper's memory model."""

import itertools

import pytest

from antjax.mesh.paro import ELASTIC_CODES, Level, PaRO, VALID_CODES

# Section 3.1.1 of the paper: these 13 of the 27 are never worth it.
INVALID = 'NIN NGN NGI INN IIN IGN IGI GNN GNI GIN GII GGN GGI'.split()


def test_fourteen_codes_are_valid_and_the_other_thirteen_are_not():
  every = {''.join(letters) for letters in itertools.product('NIG', repeat=3)}
  assert set(VALID_CODES) == every - set(INVALID)
  assert len(VALID_CODES) == 14
  for code in VALID_CODES:
    assert PaRO.from_code(code).code == code


@pytest.mark.parametrize('code', INVALID)
def test_an_invalid_code_says_why_and_what_to_use(code):
  with pytest.raises(ValueError, match='split more coarsely') as error:
    PaRO.from_code(code)
  advised = str(error.value).split('; use ')[1][:3]
  assert advised in VALID_CODES
  assert advised[:2] == code[:2]


@pytest.mark.parametrize('code', ['', 'II', 'IIGG', 'iig', 'ABC', 'IIZ'])
def test_a_malformed_code_is_explained(code):
  with pytest.raises(ValueError, match='three letters of N'):
    PaRO.from_code(code)


def test_elastic_codes_are_those_without_a_global_part_in_the_loop():
  assert set(ELASTIC_CODES) == set(
    'NNN NNI NNG NII NIG INI ING III IIG'.split()
  )


def test_levels_are_ordered_from_coarse_to_fine():
  pieces = [level.num_pieces(4, 8) for level in sorted(Level)]
  assert pieces == [1, 8, 32]
