# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The plain DLRM step that `meta_bench` and its peers take; numpy only.

A click model without an inner loop: 26 id features, each with a table of its
own; their vectors are concatenated and given to an MLP. Tables take a row-wise
Adagrad step, the MLP one of SGD. The data is synthetic.
"""

from collections.abc import Iterator
import dataclasses

import numpy as np

TABLE_RATE = 0.02
DENSE_RATE = 0.05
EPS = 1e-8
# Rows of each table whose values both sides have to agree on.
_NUM_PROBED = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class DLRMCase:
  """Sizes of the problem.

  Attributes:
    num_rows: rows of all tables together; each has an equal share.
    num_features: F, and as many tables.
    embedding_dim: D.
    widths: output widths of the MLP; the last is 1.
    batch_size: B, examples in a step.
    num_batches: distinct batches, taken in turns.
    zipf: exponent of the distribution of ids.
  """

  num_rows: int = 1_000_000
  num_features: int = 26
  embedding_dim: int = 16
  widths: tuple[int, ...] = (256, 128, 1)
  batch_size: int = 8192
  num_batches: int = 8
  zipf: float = 1.2

  @property
  def rows_per_table(self) -> int:
    """Rows of one table, V."""
    return self.num_rows // self.num_features

  @property
  def features(self) -> tuple[str, ...]:
    """Names of the features, which are those of the tables too."""
    return tuple(f'f{i:02}' for i in range(self.num_features))

  @property
  def name(self) -> str:
    """The case's name on the command line."""
    return f'dlrm-1e{len(str(self.num_rows)) - 1}'


CASES = (DLRMCase(), DLRMCase(num_rows=10_000_000))
SMOKE_CASES = (
  DLRMCase(
    num_rows=10_000,
    num_features=4,
    embedding_dim=4,
    widths=(8, 1),
    batch_size=32,
    num_batches=2,
  ),
)


def make(case: DLRMCase, seed: int = 0) -> dict[str, np.ndarray]:
  """Makes the MLP's weights and the batches.

  Returns:
    w0, b0, w1 ...: the MLP, w [I, O], b [O], float32.
    ids: int64 [N, F, B], of each batch feature by feature, as the peers take
      them.
    label: float32 [N, B], 0 or 1.
  """
  rng = np.random.default_rng(seed)
  shape = (case.num_batches, case.num_features, case.batch_size)
  problem = {
    # Spread over the table, or all frequent rows would be neighbours.
    'ids': (rng.zipf(case.zipf, shape) * 2_654_435_761) % case.rows_per_table,
    'label': rng.integers(0, 2, shape[::2]).astype(np.float32),
  }
  width = case.num_features * case.embedding_dim
  for i, out in enumerate(case.widths):
    weight = rng.normal(0, width**-0.5, (width, out))
    problem[f'w{i}'] = weight.astype(np.float32)
    problem[f'b{i}'] = rng.normal(0, 0.1, out).astype(np.float32)
    width = out
  return problem


def tables(case: DLRMCase) -> Iterator[np.ndarray]:
  """The tables' first values, float32 [V, D], one after the other."""
  for i in range(case.num_features):
    rng = np.random.default_rng([i, case.num_rows])
    shape = (case.rows_per_table, case.embedding_dim)
    yield rng.random(shape, np.float32) - np.float32(0.5)


def probed_rows(case: DLRMCase, ids: np.ndarray) -> np.ndarray:
  """Ids [F, n] of a batch, ids [F, B], whose rows are to be compared."""
  return ids[:, : min(_NUM_PROBED, case.batch_size)]
