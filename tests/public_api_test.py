# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The public names of antjax."""

import re

import pytest

import antjax


def test_all_is_sorted_without_repeats():
  assert list(antjax.__all__) == sorted(set(antjax.__all__))


@pytest.mark.parametrize('name', antjax.__all__)
def test_public_name_is_there_and_documented(name):
  value = getattr(antjax, name)
  assert not name.startswith('_')
  assert (value.__doc__ or '').strip(), f'antjax.{name} has no docstring'


def test_the_version_is_known():
  assert re.fullmatch(r'\d+\.\d+.*', antjax.__version__)


def test_an_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match='no_such_name'):
    antjax.no_such_name  # noqa: B018


def test_dir_lists_the_public_names():
  assert set(antjax.__all__) <= set(dir(antjax))
