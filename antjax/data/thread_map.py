# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Work in threads, with results in order and few of them in memory."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TypeVar

_In = TypeVar('_In')
_Out = TypeVar('_Out')


def in_order(
  work: Callable[[_In], _Out],
  given: Iterable[_In],
  threads: int,
  *,
  ahead: int = 0,
) -> Iterator[_Out]:
  """Calls `work` in threads; gives the results in the order of `given`.

  `work` lets go of Python's lock for most of its time, or it gains nothing.
  `given` is read as results are taken, of which `ahead` (0: one a thread) may
  wait, done or not.
  """
  waiting: collections.deque[futures.Future[_Out]] = collections.deque()
  with futures.ThreadPoolExecutor(threads) as pool:
    try:
      for one in given:
        waiting.append(pool.submit(work, one))
        if len(waiting) > (ahead or threads):
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()
