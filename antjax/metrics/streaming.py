# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Streaming metrics that merge exactly across batches and processes.

A metric is a small numpy accumulator on the host: `update` folds in rows,
`merge` joins two accumulators, `compute` gives the number. `state` and
`from_state` turn it into arrays and back, which is how
`merge_across_processes` moves it. Sums are kept in float64, so a long
evaluation does not drift.

Empty input has no value: every `compute` then returns nan, and so does a
ranking metric that saw one class only. nan rather than an error, because an
empty scenario is a fact to report, not a fault of the run.
"""

from collections.abc import Callable, Mapping
import functools
import io
import time
from typing import Self

import jax
from jax.experimental import multihost_utils
import numpy as np

from antjax.metrics.metric import check_mergeable, Metric
from antjax.metrics.ranking import AUC, GAUC, NDCG

__all__ = [
  'AUC',
  'GAUC',
  'MAE',
  'NDCG',
  'RMSE',
  'LogLoss',
  'Metric',
  'Throughput',
  'merge_across_processes',
]

# A probability of exactly 0 or 1 that turns out wrong would cost infinity.
_MIN_PROBABILITY = 1e-7
# The byte counts of `merge_across_processes` travel as int32.
_MAX_STATE_BYTES = 2**31 - 1


class _Mean(Metric):
  """Weighted mean of a per-row term: two numbers of state."""

  def __init__(self):
    self._total = 0.0
    self._weight = 0.0

  def _terms(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns the per-row terms [N]."""
    raise NotImplementedError

  def _update(self, prediction, label, weight, group):
    terms = self._terms(prediction.astype(float), label.astype(float))
    self._total += float(np.sum(terms * weight))
    self._weight += float(np.sum(weight))

  def _options(self) -> dict[str, bool]:
    return {}

  def merge(self, other: Self) -> Self:
    check_mergeable(self, other, *self._options())
    merged = type(self)(**self._options())
    merged._total = self._total + other._total
    merged._weight = self._weight + other._weight
    return merged

  def compute(self) -> float:
    return self._total / self._weight if self._weight else float('nan')

  def state(self) -> dict[str, np.ndarray]:
    sums = {'total': self._total, 'weight': self._weight}
    return {k: np.asarray(v) for k, v in (sums | self._options()).items()}

  @classmethod
  def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
    options = {k: v.item() for k, v in state.items()}
    total, weight = options.pop('total'), options.pop('weight')
    metric = cls(**options)
    metric._total, metric._weight = total, weight
    return metric


class MAE(_Mean):
  """Mean absolute error. nan without rows: a mean of nothing."""

  def _terms(self, prediction, label):
    return np.abs(prediction - label)


class RMSE(_Mean):
  """Root of the mean squared error. nan without rows: a mean of nothing."""

  def _terms(self, prediction, label):
    return np.square(prediction - label)

  def compute(self) -> float:
    return float(np.sqrt(super().compute()))


class LogLoss(_Mean):
  """Mean binary cross entropy in nats. nan without rows.

  Labels lie in [0, 1]; a fraction is a soft label. Probabilities are clipped
  to [1e-7, 1 - 1e-7], logits are not clipped.
  """

  def __init__(self, *, from_logits: bool):
    super().__init__()
    self.from_logits = from_logits

  def _options(self) -> dict[str, bool]:
    return {'from_logits': self.from_logits}

  def _terms(self, prediction, label):
    if np.any((label < 0) | (label > 1)):
      raise ValueError(
        'LogLoss.update(label=): got a label outside [0, 1]; turn ratings '
        'into clicks first, for example label >= 4.'
      )
    if self.from_logits:
      # log(1 + e^z) - y z in the form that cannot overflow.
      return (
        np.maximum(prediction, 0)
        - prediction * label
        + np.log1p(np.exp(-np.abs(prediction)))
      )
    if np.any((prediction < 0) | (prediction > 1)):
      raise ValueError(
        'LogLoss.update(prediction=): got a probability outside [0, 1]; '
        'use LogLoss(from_logits=True) for logits.'
      )
    p = np.clip(prediction, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    return -(label * np.log(p) + (1 - label) * np.log1p(-p))


class Throughput(Metric):
  """Rows of positive weight a second, from construction to the last update.

  `merge` joins what was measured at the same time, on different processes:
  rows add up, the longest time counts. nan before the first update: no time
  has been measured.

  Args:
    clock: Seconds from any origin.
  """

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock = clock
    self._start_s = clock()
    self._num_rows = 0
    self._elapsed_s = 0.0

  def _update(self, prediction, label, weight, group):
    self._num_rows += len(label)
    self._elapsed_s = self._clock() - self._start_s

  def merge(self, other: Self) -> Self:
    check_mergeable(self, other)
    merged = type(self)(self._clock)
    merged._num_rows = self._num_rows + other._num_rows
    merged._elapsed_s = max(self._elapsed_s, other._elapsed_s)
    merged._start_s = min(self._start_s, other._start_s)
    return merged

  def compute(self) -> float:
    if not self._elapsed_s:
      return float('nan')
    return self._num_rows / self._elapsed_s

  def state(self) -> dict[str, np.ndarray]:
    return {
      'num_rows': np.asarray(self._num_rows, np.int64),
      'elapsed_s': np.asarray(self._elapsed_s),
    }

  @classmethod
  def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
    metric = cls()
    metric._num_rows = int(state['num_rows'])
    metric._elapsed_s = float(state['elapsed_s'])
    metric._start_s -= metric._elapsed_s  # Go on from where it stood.
    return metric


def _to_bytes(metrics: Mapping[str, Metric]) -> np.ndarray:
  """Packs the states of `metrics` into one [bytes] uint8 array."""
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
  return np.frombuffer(buffer.getvalue(), np.uint8)


def _from_bytes(
  data: np.ndarray, like: Mapping[str, Metric], process: int
) -> dict[str, Metric]:
  """Unpacks what `_to_bytes` packed on `process` from the same metrics."""
  names = sorted(like)
  expected = '\n'.join(f'{name} {type(like[name]).__name__}' for name in names)
  with np.load(io.BytesIO(data.tobytes()), allow_pickle=False) as arrays:
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
  return {
    name: type(like[name]).from_state(state)
    for name, state in zip(names, states, strict=True)
  }


def merge_across_processes(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
  """Merges each metric over all processes; every process gets the result.

  Two all-gathers whatever the number of metrics: the byte counts, then the
  states, padded to the longest. An exact ranking metric sends all its rows (32
  bytes each) to every process; AUC sends at most 16 MiB, the rest 16 bytes.
  A collective call: every process must make it, also one without rows.

  Args:
    metrics: Metrics by name; the same names and classes on every process.

  Returns:
    New metrics by name, in the order of `metrics`; `metrics` is unchanged.

  Raises:
    ValueError: processes passed different metrics or options, or one process
      holds 2 GiB or more of state.
  """
  data = _to_bytes(metrics)
  if len(data) > _MAX_STATE_BYTES:
    raise ValueError(
      f'merge_across_processes: the state takes {len(data)} bytes, at most '
      f'{_MAX_STATE_BYTES} can be sent. Use AUC in place of GAUC or NDCG, or '
      'evaluate fewer rows at a time.'
    )
  if jax.process_count() == 1:
    return {
      name: type(metric).from_state(metric.state())
      for name, metric in metrics.items()
    }
  # Bytes, because float64 would pass through JAX as float32.
  sizes = multihost_utils.process_allgather(np.asarray(len(data), np.int32))
  padded = np.zeros(max(sizes), np.uint8)
  padded[: len(data)] = data
  gathered = np.asarray(multihost_utils.process_allgather(padded))
  parts = [
    _from_bytes(row[:size], metrics, process)
    for process, (row, size) in enumerate(zip(gathered, sizes, strict=True))
  ]
  return {
    name: functools.reduce(
      lambda a, b: a.merge(b), (part[name] for part in parts)
    )
    for name in metrics
  }
