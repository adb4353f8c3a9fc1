# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a worker notes of its steps for the report (`train/timeline.py`)."""

from collections.abc import Iterable
import json
import os
import pathlib
import time

from antjax.elastic import coordinator_pb2 as pb


class StepLog:
  """Adds lines to a file of the run folder; without a path to none."""

  def __init__(
    self, path: str | os.PathLike[str] | None, worker: str, generation: int
  ):
    """Writes nothing yet."""
    self._path = pathlib.Path(path) if path else None
    self._worker, self._generation = worker, generation

  def add_steps(self, times: Iterable[pb.BatchTime]) -> None:
    """Notes steps."""
    self._write(
      {
        'step': one.step,
        'worker': self._worker,
        'end_unix_s': one.end_unix_s,
        'compute_s': one.compute_s,
        'wait_s': one.wait_s,
        'num_micro_batches': one.num_micro_batches,
      }
      for one in times
    )

  def add_mark(self, action: str, reason: str) -> None:
    """Notes that something happened to all workers; one of them says it."""
    mark = {
      'time': time.time(),
      'action': action,
      'reason': reason,
      'generation': self._generation,
    }
    self._write([mark])

  def _write(self, entries: Iterable[dict[str, object]]) -> None:
    lines = [json.dumps(entry) + '\n' for entry in entries]
    if self._path is not None and lines:
      with self._path.open('a', encoding='utf-8') as file:
        file.writelines(lines)
