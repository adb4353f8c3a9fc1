# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Requests that arrive together are scored together, by one thread.

What waits is bounded: a request that finds no room is refused at once. Changes
of the model are made between two batches, so each request sees one version.
"""

import asyncio
import collections
from collections.abc import Callable, Sequence
import threading
from typing import Any, NamedTuple, Protocol

from absl import logging


class Request(NamedTuple):
  """A request that was read.

  Attributes:
    content: What the model reads.
    num_rows: Number of rows to score.
  """

  content: Any
  num_rows: int


class Served(Protocol):
  """A model as requests use it; all but `read` in the batcher's thread."""

  def read(self, fields: Any) -> Request:
    """Checks a request's JSON; a ValueError says what is wrong in it."""

  def score(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
    """Answers requests, JSON-able; ValueError if one cannot be answered."""

  def warm(self) -> None:
    """Compiles what requests will need."""


class Full(Exception):
  """There is no room for a request now."""


class _Waiting(NamedTuple):
  request: Request
  answer: 'asyncio.Future[dict[str, Any]]'
  loop: asyncio.AbstractEventLoop


class Batcher:
  """Scores what waits, as many rows at once as may be.

  Attributes:
    waiting_rows: Rows that wait for their turn.
  """

  def __init__(
    self,
    served: Served,
    *,
    batch_rows: int,
    max_waiting_rows: int,
    between: Callable[[], None] = lambda: None,
    version: Callable[[], Any] = lambda: None,
    observe: Callable[[int], None] = lambda rows: None,
  ):
    """Starts nothing yet.

    Args:
      served: The model.
      batch_rows: Rows scored at once, at most, unless one request has more.
      max_waiting_rows: Rows that may wait.
      between: Called before each batch and when none comes for a while.
      version: Version of the model, named in each answer.
      observe: Told the rows of each batch.
    """
    self._served = served
    self._batch_rows, self._max_waiting_rows = batch_rows, max_waiting_rows
    self._between, self._version, self._observe = between, version, observe
    self._queue: collections.deque[_Waiting] = collections.deque()
    self._changed = threading.Condition()
    self._is_closed = False
    self._thread = threading.Thread(
      target=self._run, name='scores', daemon=True
    )
    self.waiting_rows = 0

  def start(self) -> None:
    """Begins to score."""
    self._thread.start()

  def submit(self, request: Request) -> 'asyncio.Future[dict[str, Any]]':
    """The answer to come; called on an event loop.

    Raises:
      Full: Too many rows wait.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[dict[str, Any]] = loop.create_future()
    with self._changed:
      rows = self.waiting_rows + request.num_rows
      if self._is_closed or (self._queue and rows > self._max_waiting_rows):
        raise Full
      self.waiting_rows = rows
      self._queue.append(_Waiting(request, answer, loop))
      self._changed.notify()
    return answer

  def close(self) -> None:
    """Answers what waits, and ends the thread."""
    with self._changed:
      self._is_closed = True
      self._changed.notify()
    if self._thread.is_alive():
      self._thread.join()

  def _run(self) -> None:
    while True:
      with self._changed:
        if not self._queue and not self._is_closed:
          self._changed.wait(0.2)
        if not self._queue and self._is_closed:
          return
      try:
        self._between()
      except Exception:  # The served version stays.
        logging.exception('A change of the model failed.')
      if batch := self._take():
        self._observe(sum(one.request.num_rows for one in batch))
        answers = self._answers([one.request for one in batch])
        loop = batch[0].loop
        loop.call_soon_threadsafe(_deliver, batch, answers)

  def _take(self) -> list[_Waiting]:
    batch: list[_Waiting] = []
    rows = 0
    with self._changed:
      while self._queue:
        more = self._queue[0].request.num_rows
        if batch and rows + more > self._batch_rows:
          break
        one = self._queue.popleft()
        self.waiting_rows -= more
        if not one.answer.cancelled():
          batch.append(one)
          rows += more
    return batch

  def _answers(
    self, requests: list[Request]
  ) -> list[dict[str, Any] | Exception]:
    """An answer or an error for each: one bad request harms no other."""
    version = self._version()
    try:
      found = self._served.score(requests)
      return [{'version': version, **answer} for answer in found]
    except Exception as error:
      if len(requests) > 1:
        return [self._answers([one])[0] for one in requests]
      if not isinstance(error, ValueError):
        logging.exception('A request failed.')
      return [error]


def _deliver(
  batch: list[_Waiting], answers: list[dict[str, Any] | Exception]
) -> None:
  for one, answer in zip(batch, answers, strict=True):
    if one.answer.done():
      continue
    if isinstance(answer, Exception):
      one.answer.set_exception(answer)
    else:
      one.answer.set_result(answer)
