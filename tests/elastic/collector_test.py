# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of `antjax.elastic.collector`."""

import gc
import weakref

import pytest

from antjax.elastic.collector import ShortPauses


class _Node:
  def __init__(self):
    self.itself = self


@pytest.fixture
def pauses():
  callback = ShortPauses(whole_every=3)
  gc.callbacks.append(callback)
  yield
  gc.callbacks.remove(callback)
  gc.unfreeze()


def test_what_is_left_is_not_gone_through_again(pauses):
  node = _Node()
  gc.collect()
  assert gc.get_freeze_count()
  assert not any(found is node for found in gc.get_objects())


def test_a_cycle_is_freed_at_once_or_with_all_objects(pauses):
  old = _Node()
  gc.collect()
  young = _Node()
  refs = [weakref.ref(old), weakref.ref(young)]
  del old, young
  gc.collect()
  assert [ref() is None for ref in refs] == [False, True]
  gc.collect()
  assert refs[0]() is None
