# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A step that fetches the rows of the next step while it computes.

The row exchange then no longer separates two computations. Its rows lack the
updates of the concurrent step: rows are one step stale, as in TorchRec's
semi-synchronous and jax-tpu-embedding's pipelined training. Dense parameters
are not.
"""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from antjax.mesh.manual import manual
from antjax.mesh.mesh import BATCH_AXES, INTER, INTRA
from antjax.train import step as step_lib
from antjax.train.state import PyTree, TrainState
from antjax.train.step import StepInput
from antjax.train.step_spec import StepSpec
from antjax.train.update import make_update, Metrics

_BATCH = P(BATCH_AXES)


class RowsAhead:
  """A training step that takes its rows and returns those of the next one.

  `fetch` gets the rows of the first step. Then call `step` for each one, with
  the routing of the next step or, if that is unknown, with None; after that,
  `fetch` again.
  """

  def __init__(self, spec: StepSpec):
    """Compiles nothing yet."""
    assert spec.tables is not None
    if spec.tables.home is not None:
      raise ValueError(
        'Trainer(row_staleness=1): the rows of tables with a home are brought'
        ' before each step; use row_staleness=0, or leave out home.'
      )
    self._spec, self._tables = spec, spec.tables
    self._last = self._compile(is_last=True)
    self._inner = self._compile(is_last=False)
    self._fetch = jax.jit(
      manual(
        self._fetch_ahead,
        spec.layout.mesh,
        in_specs=(self._tables.partition_specs(), _BATCH),
        out_specs=_BATCH,
      )
    )

  def fetch(self, state: TrainState, inputs: StepInput) -> PyTree:
    """The rows of a step, as currently in the tables."""
    return self._fetch(state.tables, inputs.routing)

  def step(
    self,
    state: TrainState,
    inputs: StepInput,
    rows: PyTree,
    next_routing: PyTree | None,
  ) -> tuple[TrainState, Metrics, PyTree | None]:
    """One optimizer step; `state` is donated.

    `rows` are from `fetch` or the previous step. `next_routing` is the routing
    of the next step's inputs, if known.

    Returns:
      (state, metrics, rows of the next step or None).
    """
    if next_routing is None:
      return *self._last(state, inputs, rows), None
    return self._inner(state, inputs, rows, next_routing)

  def _fetch_ahead(self, tables: PyTree, routing: PyTree) -> PyTree:
    """Rows that need an exchange; the step reads other tables itself."""
    rows, rounds = self._tables.fetch(tables, routing)
    return {name: rows[name] for name in rounds}

  def lower(self, *args: Any) -> Any:
    """The lowered step that has a next one, for inspection."""
    return self._inner.lower(*args)

  def _compile(self, *, is_last: bool) -> Any:
    spec, tables = self._spec, self._tables

    def local(view, inputs, rows, ahead):
      at_hand, rounds = tables.fetch(view.tables, inputs.routing)
      rows = at_hand | rows  # XLA removes the exchange of unused rows.
      next_rows = None
      if ahead is not None:
        next_rows = self._fetch_ahead(view.tables, ahead)
        rounds = _after(rounds, next_rows)
      result = step_lib.accumulate(spec, view, inputs, (rows, rounds))
      return *result, next_rows

    backward = step_lib.make_backward(spec, local, (_BATCH, _BATCH), (_BATCH,))
    update = make_update(spec)

    def step(state, inputs, rows, ahead=None):
      *synced, next_rows = backward(state, inputs, rows, ahead)
      state, metrics = update(state, *synced, None)
      return (state, metrics) if is_last else (state, metrics, next_rows)

    return step_lib.jit_step(spec, step, () if is_last else (_BATCH,))


def _after(rounds: PyTree, rows: PyTree) -> PyTree:
  """Rounds that depend on `rows`.

  So the push writes to a table, in place, after the fetch has read it. Without
  an order between them XLA would copy the table. A barrier is not enough: XLA
  removes it before copy insertion.
  """
  is_never = lax.axis_index(INTRA) >= lax.axis_size(INTRA)
  zero = jnp.zeros((), jnp.int32)
  for row in jax.tree.leaves(rows):
    seen = lax.bitcast_convert_type(row.reshape(-1)[0], jnp.int32)
    zero += jnp.where(is_never, seen, 0)
  axes = (INTER, INTRA)
  return {name: lax.pmin(shift + zero, axes) for name, shift in rounds.items()}
