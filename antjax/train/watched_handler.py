# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A handler of checkpoints that tells at once when a write has failed.

Where a process cannot write its part (its disk is full), Orbax raises the error
in a thread that first waits for the other processes, which wait for this one:
for minutes nobody hears of it.
"""

from typing import Any

import orbax.checkpoint as ocp


class WatchedHandler(ocp.PyTreeCheckpointHandler):
  """Writes trees as Orbax does.

  Attributes:
    error: Error of the first failed write of this process; None: no write
      failed.
  """

  def __init__(self) -> None:
    """As Orbax's own by default."""
    super().__init__()
    self.error: Exception | None = None

  async def async_save(self, *args: Any, **kwargs: Any) -> list[Any]:
    """Starts to write, see Orbax."""
    futures = await super().async_save(*args, **kwargs)
    return [_Watched(future, self) for future in futures or []]


class _Watched:
  """A write that is under way."""

  def __init__(self, future: Any, handler: WatchedHandler):
    self._future, self._handler = future, handler

  def result(self, timeout: float | None = None) -> Any:
    try:
      return self._future.result(timeout)
    except Exception as error:
      self._handler.error = self._handler.error or error
      raise

  def cancel(self) -> bool | None:
    result: bool | None = self._future.cancel()
    return result
