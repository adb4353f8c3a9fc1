# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches that are known by their number, with a position to resume from."""


class Positioned:
  """`make(number)` for each number from 0: `num` of them, or without end."""

  def __init__(self, make, num=None):
    self._make, self._num, self._next = make, num, 0

  def __iter__(self):
    return self

  def __next__(self):
    if self._next == self._num:
      raise StopIteration
    self._next += 1
    return self._make(self._next - 1)

  def get_state(self):
    return {'next': self._next}

  def set_state(self, state):
    self._next = state['next']
