# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How Orbax writes a run's trees of arrays, and how it tells of a failure."""

from typing import Any

import jax
import orbax.checkpoint as ocp

# Devices that hold the same array each write a part of it. A part is cut off by
# a program that is compiled for it, which takes longer than writing this much.
_MIN_PART_BYTES = 1 << 20


class TreeHandler(ocp.PyTreeCheckpointHandler):
  """Orbax's handler of trees, which tells at once when a write has failed.

  Where a process cannot write its part (its disk is full), Orbax raises the
  error in a thread that first waits for the other processes, which wait for
  this one: for minutes nobody hears of it.
  """

  error: Exception | None = None  # Of the first failed write of this process.

  def __init__(self) -> None:
    handlers = ocp.type_handlers
    types = [
      (t, handlers.get_type_handler(t)) for t in handlers.supported_types()
    ]
    registry = handlers.create_type_handler_registry(*types)
    store = getattr(registry.get(jax.Array), '_array_metadata_store', None)
    arrays = handlers.ArrayHandler(
      min_slice_bytes_for_replica_parallel=_MIN_PART_BYTES,
      array_metadata_store=store,
    )
    registry.add(jax.Array, arrays, override=True, ignore_warnings=True)
    super().__init__(type_handler_registry=registry)

  @classmethod
  def typestr(cls) -> str:
    """The name in checkpoints of who can read this: Orbax's own."""
    return ocp.PyTreeCheckpointHandler.typestr()

  async def async_save(self, *args: Any, **kwargs: Any) -> list[Any]:
    futures = await super().async_save(*args, **kwargs)
    return [_Watched(future, self) for future in futures or []]


class _Watched:
  """A write that is under way."""

  def __init__(self, future: Any, handler: TreeHandler):
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
