# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Garbage collection of a process that keeps many objects and answers calls."""

import gc
from typing import Any

_WHOLE_EVERY = 1000  # Full collections between those that see all objects.


class ShortPauses:
  """A callback of `gc` that exempts what a full collection left alive.

  With 10,000 workers each full collection otherwise goes through all that is
  known of them, .1 to .3 s in which no call is answered, for next to nothing.
  Exempted objects in cycles are freed by every `whole_every`th of them.
  """

  def __init__(self, whole_every: int = _WHOLE_EVERY):
    self._whole_every = whole_every
    self._count = 0

  def __call__(self, phase: str, info: dict[str, Any]) -> None:
    if info['generation'] != 2:
      return
    if phase == 'stop':
      gc.freeze()
      return
    self._count += 1
    if self._count % self._whole_every == 0:
      gc.unfreeze()
