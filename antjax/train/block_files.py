# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Large tables in the files of a checkpoint, a block of rows at a time."""

import collections
import dataclasses
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from antjax.embedding.stream import RowSink, RowStream


@dataclasses.dataclass
class _ToSink(ocp.ArrayRestoreArgs):
  """Asks for a table to be read to a sink."""

  sink: RowSink | None = None


def restore_args_of(target: Any) -> ocp.RestoreArgs:
  """How Orbax reads an array to a ShapeDtypeStruct or a sink; None: NumPy."""
  if target is None:
    return ocp.RestoreArgs(restore_type=np.ndarray)
  if isinstance(target, RowSink):
    return _ToSink(sink=target)
  return ocp.ArrayRestoreArgs(
    sharding=target.sharding,
    global_shape=target.shape,
    dtype=target.dtype,
    strict=False,
  )


class BlockHandler(ocp.type_handlers.ArrayHandler):
  """Orbax's handler of arrays, which also writes streams of rows.

  The files are those of whole arrays, with smaller chunks. On CPUs, where the
  state is in the host's memory, `serialize` returns when all but the last block
  are written. Elsewhere the host takes all blocks and writes in the background.
  """

  async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
    args = args or [ocp.SaveArgs()] * len(values)
    every = list(zip(values, infos, args, strict=True))
    whole = [x for x in every if not isinstance(x[0], RowStream)]
    futures = []
    if whole:
      futures += await super().serialize(*zip(*whole, strict=True))
    for value, info, _ in every:
      if isinstance(value, RowStream):
        futures.append(await _write(value, info))
    return futures

  async def deserialize(self, infos: Any, args: Any = None) -> Any:
    every = list(zip(infos, args, strict=True))
    whole = [x for x in every if not isinstance(x[1], _ToSink)]
    found = iter(())
    if whole:
      found = iter(await super().deserialize(*zip(*whole, strict=True)))
    return [
      await _read(info, arg.sink) if isinstance(arg, _ToSink) else next(found)
      for info, arg in every
    ]


async def _read(info: Any, sink: Any) -> RowSink:
  spec = ocp.type_handlers.get_json_tspec_read(
    info, use_ocdbt=info.is_ocdbt_checkpoint
  )
  file = await ts.open(ts.Spec(spec), open=True, context=info.ts_context)
  chunk: Any = file.chunk_layout.read_chunk.shape
  sink.take(chunk[0], lambda start, stop: file[start:stop].read().result)
  return sink


async def _write(stream: RowStream, info: Any) -> '_Written':
  await info.await_path_creation()
  spec = ocp.type_handlers.get_json_tspec_write(
    info,
    use_ocdbt=info.is_ocdbt_checkpoint,
    global_shape=stream.shape,
    local_shape=stream.chunk,
    dtype=stream.dtype,
    process_index=jax.process_index() if info.is_ocdbt_checkpoint else None,
  )
  is_main = jax.process_index() == 0  # It makes the file.
  file = await ts.open(
    ts.Spec(spec),
    open=True,
    create=is_main,
    assume_metadata=not is_main,
    context=info.ts_context,
  )
  written = _Written()
  for first, block in stream:
    if jax.default_backend() == 'cpu':
      written.wait()
    for shard in block.addressable_shards:
      start = first + (shard.index[0].start or 0)
      size = min(len(shard.data), len(stream) - start)
      if shard.replica_id == 0 and size > 0:
        rows = np.asarray(shard.data)[:size]
        written.add(file[start : start + size], rows)
  return written


class _Written:
  """Writes in progress."""

  def __init__(self) -> None:
    self._pending = collections.deque[Any]()
    self._error: Exception | None = None

  def add(self, file: Any, rows: np.ndarray) -> None:
    # After an error the others still wait for this process's rows.
    if self._error is None:
      kept = {'can_reference_source_data_indefinitely': True}
      self._pending.append(file.write(rows, **kept))

  def wait(self) -> None:
    while self._pending:
      try:
        self._pending.popleft().result()
      except Exception as error:  # TensorStore's are of many kinds.
        self._error = self._error or error

  def result(self, timeout: float | None = None) -> None:
    """Waits for all; `timeout` is Orbax's, which gives none."""
    del timeout
    self.wait()
    if self._error is not None:
      raise self._error
