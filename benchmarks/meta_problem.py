# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The problems of `meta_bench` and its peers; numpy only.

One meta-learning step of a click model: T tasks with S support and Q query
rows each. A row has F id features; their vectors [D] are gathered from a row
buffer [U, D], concatenated and given to an MLP. The inner loop adapts the MLP
(`mlp`) or the MLP and the task's own rows (`all`) on the support rows, the loss
is the mean binary cross entropy of the query rows.

A plain DLRM step: a click model without an inner loop, with 26 id features and
one table per feature. Tables take a row-wise Adagrad step, the MLP an SGD step.
All data is synthetic.
"""

from collections.abc import Callable, Iterator
import dataclasses
from typing import Any

import numpy as np

from benchmarks import harness

LEARNING_RATE = 0.1  # Inner loop.
# Optimizers of whole steps.
TABLE_RATE = 0.02
DENSE_RATE = 0.05
EPS = 1e-8
_NUM_PROBED = 64  # Number of rows of a table on which both sides must agree.
_WARM_UP_CALLS = 5


class Step:
  """A side's step: `run` is timed; then the answer can be read."""

  def __init__(
    self,
    run: Callable[[], Any],
    answer: Callable[[], dict[str, np.ndarray]],
    after: Callable[[], None] = lambda: None,
  ):
    """Takes the step, the reader of the answer, and a call after warm-up."""
    self.run, self._answer, self._after = run, answer, after

  def prepare(self, path: str) -> float:
    """Writes the first answer and warms up; returns seconds of that call."""
    first_s = harness.timed(self.run)
    harness.save(self._answer(), path)
    for _ in range(_WARM_UP_CALLS):
      self.run()
    self._after()
    return round(first_s, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """Sizes of the problem."""

  num_tasks: int = 32  # T.
  num_support: int = 20  # S, support rows per task.
  num_query: int = 10  # Q, query rows per task.
  num_features: int = 8  # F; half are a task's constants.
  embedding_dim: int = 32  # D.
  widths: tuple[int, ...] = (128, 64, 1)  # MLP widths.
  num_embeddings: int = 2000  # Ids of each feature.

  @property
  def num_examples(self) -> int:
    """Number of support and query rows per step."""
    return self.num_tasks * (self.num_support + self.num_query)


SMOKE = Sizes(
  num_tasks=3,
  num_support=4,
  num_query=2,
  num_features=4,
  embedding_dim=4,
  widths=(8, 4, 1),
  num_embeddings=20,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """Adapted parts, number of inner steps, and order of differentiation."""

  adapted: str  # 'mlp' or 'all'.
  order: int
  inner_steps: int
  num_rows: int = 0  # Table rows; 0: only the rows of the batch.

  @property
  def name(self) -> str:
    """The case's name on the command line."""
    name = f'{self.adapted}-{self.order}-{self.inner_steps}'
    return f'{name}-1e{len(str(self.num_rows)) - 1}' if self.num_rows else name


CASES = tuple(
  Case(adapted=adapted, order=order, inner_steps=inner_steps)
  for adapted in ('mlp', 'all')
  for inner_steps in (1, 3)
  for order in (2, 1)
)
# A whole step on a large table, including optimizers.
TABLE_CASE = Case(adapted='mlp', order=2, inner_steps=1, num_rows=10_000_000)
SMOKE_TABLE_CASE = dataclasses.replace(TABLE_CASE, num_rows=1000)


def make(sizes: Sizes, seed: int = 0) -> dict[str, np.ndarray]:
  """Makes weights and a batch.

  All integer work (distinct ids of the batch and of each task) is done here,
  before timing, for all sides.

  Returns:
    w0, b0, w1 ...: the MLP, w [I, O], b [O].
    rows: float32 [U, D], the distinct rows of the batch.
    index: int32 [T, S + Q, F] into `rows`; the support rows come first.
    task_rows: int32 [T, R] into `rows`, the distinct rows of each task, padded
      with the task's first one.
    task_index: int32 [T, S + Q, F] into the task's R rows.
    label: float32 [T, S + Q], 0 or 1.
  """
  rng = np.random.default_rng(seed)
  tasks, features = sizes.num_tasks, sizes.num_features
  per_task = sizes.num_support + sizes.num_query
  shape = (tasks, per_task, features)
  # Zipf ids: few are frequent. Each feature has its own ids.
  ids = rng.zipf(1.2, shape) % sizes.num_embeddings
  ids[..., : features // 2] = ids[:, :1, : features // 2]
  ids += sizes.num_embeddings * np.arange(features)
  _, index = np.unique(ids, return_inverse=True)
  index = index.reshape(shape).astype(np.int32)
  distinct = [np.unique(index[t], return_inverse=True) for t in range(tasks)]
  num_rows = max(len(rows) for rows, _ in distinct)
  problem = {
    'rows': rng.normal(0, 0.3, (index.max() + 1, sizes.embedding_dim)),
    'index': index,
    'task_rows': np.stack(
      [
        np.pad(rows, (0, num_rows - len(rows)), constant_values=rows[0])
        for rows, _ in distinct
      ]
    ),
    'task_index': np.stack([i.reshape(shape[1:]) for _, i in distinct]),
    'label': rng.integers(0, 2, (tasks, per_task)),
  }
  problem |= _mlp(rng, features * sizes.embedding_dim, sizes.widths)
  return {
    name: array.astype(
      np.int32 if 'index' in name or name == 'task_rows' else np.float32
    )
    for name, array in problem.items()
  }


def _mlp(
  rng: np.random.Generator, width: int, widths: tuple[int, ...]
) -> dict[str, np.ndarray]:
  """Weights of an MLP: w0 [I, O], b0 [O], w1 ..., float32."""
  found = {}
  for i, out in enumerate(widths):
    weight = rng.normal(0, width**-0.5, (width, out))
    found[f'w{i}'] = weight.astype(np.float32)
    found[f'b{i}'] = rng.normal(0, 0.1, out).astype(np.float32)
    width = out
  return found


def table(case: Case, embedding_dim: int) -> np.ndarray:
  """Initial values of the table, float32 [num_rows, D]."""
  rng = np.random.default_rng(case.num_rows)
  whole = rng.random((case.num_rows, embedding_dim), np.float32)
  whole -= np.float32(0.5)
  return whole


def places(case: Case, num_distinct: int) -> np.ndarray:
  """Row of the table of each distinct row of the batch, int64 [U]."""
  rng = np.random.default_rng(1)
  return rng.choice(case.num_rows, num_distinct, replace=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DLRMCase:
  """Sizes of the problem."""

  num_rows: int = 1_000_000  # Rows of all tables.
  num_features: int = 26  # F, also the number of tables.
  embedding_dim: int = 16  # D.
  widths: tuple[int, ...] = (256, 128, 1)  # MLP widths.
  batch_size: int = 8192  # B.
  num_batches: int = 8  # Distinct batches, used in turn.
  zipf: float = 1.2  # Exponent of the distribution of ids.

  @property
  def rows_per_table(self) -> int:
    """Number of rows per table, V."""
    return self.num_rows // self.num_features

  @property
  def features(self) -> tuple[str, ...]:
    """Names of the features and of their tables."""
    return tuple(f'f{i:02}' for i in range(self.num_features))

  @property
  def name(self) -> str:
    """The case's name on the command line."""
    return f'dlrm-1e{len(str(self.num_rows)) - 1}'


DLRM_CASES = (DLRMCase(), DLRMCase(num_rows=10_000_000))
SMOKE_DLRM_CASES = (
  DLRMCase(
    num_rows=10_000,
    num_features=4,
    embedding_dim=4,
    widths=(8, 1),
    batch_size=32,
    num_batches=2,
  ),
)


def make_dlrm(case: DLRMCase, seed: int = 0) -> dict[str, np.ndarray]:
  """Makes the MLP's weights and the batches.

  Returns:
    w0, b0, w1 ...: the MLP, w [I, O], b [O], float32.
    ids: int64 [N, F, B], feature by feature for each batch, as for the peers.
    label: float32 [N, B], 0 or 1.
  """
  rng = np.random.default_rng(seed)
  shape = (case.num_batches, case.num_features, case.batch_size)
  problem = {
    # Spread over the table; otherwise all frequent rows would be neighbors.
    'ids': (rng.zipf(case.zipf, shape) * 2_654_435_761) % case.rows_per_table,
    'label': rng.integers(0, 2, shape[::2]).astype(np.float32),
  }
  width = case.num_features * case.embedding_dim
  return problem | _mlp(rng, width, case.widths)


def dlrm_tables(case: DLRMCase) -> Iterator[np.ndarray]:
  """Initial values of the tables, float32 [V, D], one by one."""
  for i in range(case.num_features):
    rng = np.random.default_rng([i, case.num_rows])
    shape = (case.rows_per_table, case.embedding_dim)
    yield rng.random(shape, np.float32) - np.float32(0.5)


def probed_rows(case: DLRMCase, ids: np.ndarray) -> np.ndarray:
  """Ids [F, n], of a batch's ids [F, B], whose rows are compared."""
  return ids[:, : min(_NUM_PROBED, case.batch_size)]
