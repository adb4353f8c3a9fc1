# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Merges metrics over processes."""

from collections.abc import Mapping
import io

import jax
import numpy as np

from antjax.mesh.gather import gather_bytes
from antjax.metrics.metric import Metric

# Byte counts travel as int32.
_MAX_STATE_BYTES = 2**31 - 1


def _to_bytes(metrics: Mapping[str, Metric]) -> bytes:
  """Packs the states of `metrics`."""
  arrays = {
    f'{i}/{key}': array
    for i, name in enumerate(sorted(metrics))
    for key, array in metrics[name].state().items()
  }
  names = '\n'.join(
    f'{name} {type(metrics[name]).__name__}' for name in sorted(metrics)
  )
  buffer = io.BytesIO()
  arrays['names'] = np.asarray(names)
  # NumPy's stub takes an array by name for an option.
  np.savez(buffer, **arrays)  # type: ignore[arg-type]
  return buffer.getvalue()


def _states(
  data: bytes, like: Mapping[str, Metric], process: int
) -> list[dict[str, np.ndarray]]:
  """Unpacks what `_to_bytes` packed on `process` from the same metrics."""
  names = sorted(like)
  expected = '\n'.join(f'{name} {type(like[name]).__name__}' for name in names)
  with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
    found = str(arrays['names'])
    if found != expected:
      raise ValueError(
        'merge_across_processes(metrics=): process '
        f'{jax.process_index()} has {expected.split(chr(10))}, process '
        f'{process} has {found.split(chr(10))}; every process must pass the '
        'same names and classes, also where it saw no rows.'
      )
    states: list[dict[str, np.ndarray]] = [{} for _ in names]
    for entry in arrays.files:
      if entry != 'names':
        i, key = entry.split('/')
        states[int(i)][key] = arrays[entry]
  return states


def merge_across_processes(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
  """Merges each metric over all processes; every process gets the result.

  Two all-gathers whatever the number of metrics: the byte counts, then the
  states, padded to the longest. An exact ranking metric sends all its rows (32
  bytes each) to every process; AUC sends at most 16 MiB, the rest 16 bytes. A
  collective call: every process must make it, also one without rows, with
  metrics of the same names and classes. They stay as they are.

  Raises:
    ValueError: Processes passed different metrics or options, or one process
      holds 2 GiB or more of state.
  """
  data = _to_bytes(metrics)
  if len(data) > _MAX_STATE_BYTES:
    raise ValueError(
      f'merge_across_processes: the state takes {len(data)} bytes, at most '
      f'{_MAX_STATE_BYTES} can be sent. Use AUC in place of GAUC or NDCG, or '
      'evaluate fewer rows at a time.'
    )
  merged = {name: metric.empty() for name, metric in metrics.items()}
  # Bytes, because float64 would pass through JAX as float32.
  for process, part in enumerate(gather_bytes(data)):
    states = _states(part, metrics, process)
    for name, state in zip(sorted(metrics), states, strict=True):
      merged[name].add(state)
  return merged
