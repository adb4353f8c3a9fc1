# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The problem that `meta_bench` and its peers solve; numpy only.

One meta-learning step of a click model: T tasks with S support and Q query
rows each. A row has F id features; their vectors [D] are gathered from a row
buffer [U, D], concatenated and given to an MLP. The inner loop adapts the MLP
(`mlp`) or the MLP and the task's own rows (`all`) on the support rows, the loss
is the mean binary cross entropy of the query rows. The data is synthetic.
"""

import dataclasses

import numpy as np

LEARNING_RATE = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """Sizes of the problem.

  Attributes:
    num_tasks: T.
    num_support: S, rows a task adapts on.
    num_query: Q, rows a task is judged on.
    num_features: F; the first half are constant in a task, like a user's.
    embedding_dim: D.
    widths: output widths of the MLP; the last is 1.
    num_embeddings: ids of each feature.
  """

  num_tasks: int = 32
  num_support: int = 20
  num_query: int = 10
  num_features: int = 8
  embedding_dim: int = 32
  widths: tuple[int, ...] = (128, 64, 1)
  num_embeddings: int = 2000

  @property
  def num_examples(self) -> int:
    """Support and query rows of one step."""
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
  """What is adapted, how often, and to which order it is differentiated."""

  adapted: str  # 'mlp' or 'all'.
  order: int
  inner_steps: int
  num_rows: int = 0  # Of the table; 0: the rows of the batch alone.

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
# A whole step on a large table, the optimizers included.
TABLE_CASE = Case(adapted='mlp', order=2, inner_steps=1, num_rows=10_000_000)
SMOKE_TABLE_CASE = dataclasses.replace(TABLE_CASE, num_rows=1000)
TABLE_RATE = 0.02
DENSE_RATE = 0.05
EPS = 1e-8


def make(sizes: Sizes, seed: int = 0) -> dict[str, np.ndarray]:
  """Makes weights and one batch.

  All integer work (distinct ids of the batch and of each task) is done here,
  before any clock, for every competitor alike.

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
  # Zipf ids: few are seen often. Each feature has ids of its own.
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
  width = features * sizes.embedding_dim
  for i, out in enumerate(sizes.widths):
    problem[f'w{i}'] = rng.normal(0, width**-0.5, (width, out))
    problem[f'b{i}'] = rng.normal(0, 0.1, out)
    width = out
  return {
    name: array.astype(
      np.int32 if 'index' in name or name == 'task_rows' else np.float32
    )
    for name, array in problem.items()
  }


def table(case: Case, embedding_dim: int) -> np.ndarray:
  """The table's first values, float32 [num_rows, D]."""
  rng = np.random.default_rng(case.num_rows)
  whole = rng.random((case.num_rows, embedding_dim), np.float32)
  whole -= np.float32(0.5)
  return whole


def places(case: Case, num_distinct: int) -> np.ndarray:
  """Which row of the table each distinct row of the batch is, int64 [U]."""
  rng = np.random.default_rng(1)
  return rng.choice(case.num_rows, num_distinct, replace=False)
