# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Merges metrics over processes."""

from collections.abc import Mapping

import jax
import numpy as np

from antjax.mesh.gather import gather_arrays
from antjax.metrics.metric import Metric

# Byte counts are sent as int32; the rest is for names of arrays.
_MAX_STATE_BYTES = 2**31 - 2**20


def merge_across_processes(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
  """Merges each metric over all processes; every process gets the result.

  Takes two all-gathers for any number of metrics: the byte counts, then the
  states, padded to the longest. An exact ranking metric sends all its rows (32
  bytes each) to every process; AUC sends at most 16 MiB, others 16 bytes. A
  collective call: every process, even one without rows, must make it with
  metrics of the same names and classes. The inputs are not changed.

  Raises:
    ValueError: Processes passed different metrics or options, or one process
      holds 2 GiB or more of state.
  """
  names = sorted(metrics)
  arrays = {
    f'{i}/{key}': array
    for i, name in enumerate(names)
    for key, array in metrics[name].state().items()
  }
  size = sum(array.nbytes for array in arrays.values())
  if size > _MAX_STATE_BYTES:
    raise ValueError(
      f'merge_across_processes: the state takes {size} bytes, at most '
      f'{_MAX_STATE_BYTES} can be sent. Use AUC in place of GAUC or NDCG, or '
      'evaluate fewer rows at a time.'
    )
  kinds = [f'{name} {type(metrics[name]).__name__}' for name in names]
  arrays['names'] = np.asarray('\n'.join(kinds))
  merged = {name: metric.empty() for name, metric in metrics.items()}
  # Not by JAX's own gather, which would convert float64 to float32.
  for process, found in enumerate(gather_arrays(arrays)):
    theirs = str(found.pop('names')).split('\n')
    if theirs != kinds:
      raise ValueError(
        'merge_across_processes(metrics=): process '
        f'{jax.process_index()} has {kinds}, process '
        f'{process} has {theirs}; every process must pass the '
        'same names and classes, also where it saw no rows.'
      )
    states: list[dict[str, np.ndarray]] = [{} for _ in names]
    for entry, array in found.items():
      i, key = entry.split('/')
      states[int(i)][key] = array
    for name, state in zip(names, states):
      merged[name].add(state)
  return merged
