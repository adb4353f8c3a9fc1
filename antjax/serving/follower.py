# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Keeps a served model at the newest delta of a folder."""

from collections.abc import Callable
import threading
from typing import Any

from absl import logging

from antjax.serving import feed
from antjax.serving.feed import Delta, DeltaFeed
from antjax.serving.live import Live


class Follower:
  """Reads deltas in a thread of its own; they are applied between batches.

  Attributes:
    live: The model.
    num_applied: Deltas applied.
    age_s: Age of the newest event of the last one, when it was applied.
  """

  def __init__(
    self, deltas: DeltaFeed, live: Live, poll_s: float, told: Callable[[], None]
  ):
    """Starts nothing yet; `told` is called after a change or a refusal."""
    self._feed, self.live, self._poll_s, self._told = deltas, live, poll_s, told
    self._read: Delta | None = None
    self._applied, self._stopped = threading.Event(), threading.Event()
    self._thread = threading.Thread(
      target=self._run, name='deltas', daemon=True
    )
    self.num_applied, self.age_s = 0, 0.0

  def catch_up(self) -> None:
    """Applies all that there are; before the first request."""
    while (delta := self._feed.next()) is not None and self._apply(delta):
      pass
    self._told()

  def start(self) -> None:
    """Begins to look for more."""
    self._thread.start()

  def stop(self) -> None:
    """Ends the thread."""
    self._stopped.set()
    self._applied.set()
    if self._thread.is_alive():
      self._thread.join()

  def between(self) -> None:
    """Applies what was read; on the thread that scores."""
    if (delta := self._read) is not None:
      self._apply(delta)
      self._read = None
      self._applied.set()
      self._told()

  @property
  def state(self) -> dict[str, Any]:
    """What there is to say, JSON-able."""
    return {
      'applied': self.num_applied,
      'refused': dict(self._feed.refused),
      'trouble': self._feed.trouble,
    }

  def _apply(self, delta: Delta) -> bool:
    try:
      self.live.apply(delta)
    except feed.RefusedDelta as error:
      self._feed.refuse(error.kind, str(error))
      return False
    self._feed.took(delta)
    self.num_applied += 1
    self.age_s = feed.age_s(delta)
    return True

  def _run(self) -> None:
    while not self._stopped.is_set():
      trouble = self._feed.trouble
      try:
        delta = self._feed.next()
      except Exception as error:  # A store that cannot be reached now.
        logging.warning('The deltas cannot be read now: %s', error)
        delta = None
      if delta is not None:
        self._applied.clear()
        self._read = delta
        self._applied.wait()
      elif trouble != self._feed.trouble:
        self._told()
      if delta is None or self._feed.trouble:
        self._stopped.wait(self._poll_s)
