# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The host-loop form of the PaRO step, for the elastic codes.

A process runs any number of micro-batches, one program call each
(`micro_steps`), and a global program ends the step. In between, the host can
check the clock, the input or a plan.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.mesh.gather import gather_json
from antjax.mesh.manual import manual
from antjax.mesh.mesh import BATCH_AXES, INTER, INTRA, num_positions
from antjax.mesh.paro import ELASTIC_CODES, NotElasticError
from antjax.train import gradient
from antjax.train.batches import join_ids
from antjax.train.micro_steps import local_groups, MicroSteps
from antjax.train.state import PyTree, TrainState
from antjax.train.step import grad_specs, jit_step
from antjax.train.step_spec import StepSpec
from antjax.train.update import make_update, Metrics

_BATCH = P(BATCH_AXES)
# Values that each process reports in a step, to be summed.
FLAGS = (
  'num_valid',
  'is_stopping',
  'num_examples',
  'num_micro_batches',
  'may_get_more',
)
_NUM_COLUMNS = len(FLAGS) + 1


class ElasticStep:
  """A step: each process's micro-batches, and the program that ends it.

  Call `begin`, any number of `local.add(local.place(batch))`, then `finish` on
  all processes. With tables all micro-batches must be known first: `route`
  them, which also begins the step, then `local.add` each.
  """

  def __init__(
    self,
    spec: StepSpec,
    parts: Sequence[Sequence[int]] | None = None,
    constants: PyTree = None,
  ):
    """Compiles nothing yet.

    `parts` are the groups of each part of this process with its own number of
    micro-batches; by default one part with all groups of the process.

    Raises:
      NotElasticError: The code is not elastic.
      ValueError: A group spans several processes, or an option has no meaning.
    """
    layout = spec.layout
    if not layout.paro.is_elastic:
      raise NotElasticError(
        f'Trainer.fit(elastic=...): code {layout.paro.code} communicates'
        ' between groups inside the micro-batch loop, so all groups must do'
        f' the same number. Elastic codes are {" ".join(ELASTIC_CODES)}.'
      )
    if layout.late_params:
      raise ValueError(
        'Trainer.fit(elastic=...): late_params=True lets parameters come from'
        ' other groups during the first micro-batch; leave it out.'
      )
    if layout.residual_shapes():
      raise ValueError(
        "Trainer.fit(elastic=...): collectives of sums_dtype='int8' keep"
        " residuals from step to step; here use sums_dtype='bfloat16'."
      )
    self.parts = [
      MicroSteps(spec, groups, constants)
      for groups in ([local_groups(layout.mesh)] if parts is None else parts)
    ]
    self.local = self.parts[0]
    self.spec = spec
    self._batch = NamedSharding(layout.mesh, _BATCH)
    self._routed: tuple[PyTree, PyTree] = ({}, {})  # Routing, rounds.
    self._scales: dict[float, jax.Array] = {}
    self._has_agreed = False  # Whether metrics of the loss are agreed on.
    self._finish = self._compile_finish()
    if spec.tables is not None:
      self._fetch = jax.jit(
        manual(
          spec.tables.fetch,
          layout.mesh,
          in_specs=(spec.tables.partition_specs(), _BATCH),
          out_specs=(_BATCH, P()),
        )
      )

  def route(
    self,
    state: TrainState,
    batches: Sequence[Sequence[PyTree]],
    ids_like: PyTree,
    most: int,
  ) -> list[list[PyTree]]:
    """With tables: fetches the rows of all micro-batches; begins the step.

    A collective call with the micro-batches of each part. `ids_like` has the
    shapes of a micro-batch's ids, and `most` the number of micro-batches to
    make room for, both equal on all processes.

    Returns:
      The micro-batches of each part, placed.
    """
    tables = self.spec.tables
    assert tables is not None
    placed, routing = [], []
    for part, micros in zip(self.parts, batches, strict=True):
      num = part.num_devices
      filled = [part.fill(batch) for batch in micros]
      joined, split = join_ids(
        [batch['ids'] for batch, _ in filled], ids_like, num, most
      )
      indices, routes = tables.prepare(joined, num)
      placed.append(
        [
          (part.put(batch | {'ids': ids}), part.put_rows(is_row))
          for (batch, is_row), ids in zip(filled, split(indices), strict=True)
        ]
      )
      routing.append(part.put(routes))
    joined_routing = self._join(routing)
    rows, rounds = self._fetch(state.tables, joined_routing)
    self._routed = joined_routing, rounds
    self.begin(state, rows)
    jax.block_until_ready(rows)  # Must not count as computation.
    return placed

  def begin(self, state: TrainState, rows: PyTree = None) -> None:
    """Starts a step at `state`, which is later passed to `finish`."""
    for part in self.parts:
      part.begin(state, rows)

  def finish(
    self,
    state: TrainState,
    *flags: Mapping[str, float],
    lr_scale: float = 1.0,
  ) -> tuple[TrainState, Metrics]:
    """Ends the step on all processes; a collective call.

    The state that `begin` got is donated. `flags` are values of each part: the
    names in `FLAGS`, and `plan`, the number of its newest plan; 0 by default.
    The updates are multiplied by `lr_scale`, equal on all processes.

    Returns:
      (state, metrics) as from `make_step`, with the sums of `flags`, and
      `plans`: the least number of a plan, and minus the greatest.
    """
    self._agree_on_metrics()
    carries, columns = [], []
    for part, named in zip(self.parts, flags, strict=True):
      carries.append(part.end())
      said = np.zeros((part.num_devices, _NUM_COLUMNS), np.float32)
      said[0, : len(FLAGS)] = [named.get(name, 0) for name in FLAGS]
      said[0, FLAGS.index('num_micro_batches')] = part.num_micro_batches
      said[:, -1] = named.get('plan', 0)
      columns.append(part.put(said))
    return self._finish(
      state,
      self._join(carries),
      self._join(columns),
      *self._routed,
      self._scale(lr_scale),
    )

  def _agree_on_metrics(self) -> None:
    """Shares names of metrics with processes without a micro-batch yet."""
    if self._has_agreed:
      return
    said = gather_json([part.metrics or [] for part in self.parts])
    names = sorted({n for process in said for part in process for n in part})
    for part in self.parts:
      if part.metrics is None:
        part.know_metrics(names)
    self._has_agreed = True

  def _scale(self, lr_scale: float) -> jax.Array:
    if lr_scale not in self._scales:
      value = np.float32(lr_scale)
      self._scales = {
        lr_scale: jax.make_array_from_callback(
          (), NamedSharding(self.spec.layout.mesh, P()), lambda _: value
        )
      }
    return self._scales[lr_scale]

  def _join(self, parts: list[PyTree]) -> PyTree:
    """Global arrays of all processes' parts, split along their leading dim."""
    size = num_positions(self.spec.layout.mesh)
    if len(parts) == 1 and self.local.num_devices == size:
      return parts[0]

    def join(*xs: jax.Array) -> jax.Array:
      rows = xs[0].shape[0] // self.local.num_devices * size
      pieces = [s.data for x in xs for s in x.addressable_shards]
      return jax.make_array_from_single_device_arrays(
        (rows, *xs[0].shape[1:]), self._batch, pieces
      )

    return jax.tree.map(join, *parts)

  def _compile_finish(self) -> Callable[..., tuple[TrainState, Metrics]]:
    spec = self.spec
    without_leaves = functools.partial(dataclasses.replace, leaves=None)

    def sync(carry, view, said, routing, rounds, lr_scale):
      acc, row_acc, sums, left = carry
      sums = jax.tree.map(lambda x: x[0], sums)
      grads, tables, left, sums = gradient.sync(
        spec,
        gradient.Carry([a[0] for a in acc], row_acc, sums, left),
        view,
        routing,
        rounds,
        {name: said[0, i] for i, name in enumerate(FLAGS)},
        lr_scale,
      )
      plan = said[0, -1]
      sums['plans'] = lax.pmin(jnp.stack([plan, -plan]), (INTER, INTRA))
      return grads, tables, left, sums

    mapped = manual(
      sync,
      spec.layout.mesh,
      in_specs=(
        _BATCH,
        without_leaves(spec.view_specs),
        _BATCH,
        _BATCH,
        P(),
        P(),
      ),
      out_specs=grad_specs(spec),
      check_vma=spec.is_typed,
    )
    update = make_update(spec)

    def finish(state, carry, said, routing, rounds, lr_scale):
      view = without_leaves(spec.view(state))
      *synced, sums = mapped(carry, view, said, routing, rounds, lr_scale)
      new_state, metrics = update(state, *synced, sums, lr_scale)
      more = {'num_micro_batches', 'may_get_more', 'plans'}
      return new_state, metrics | {name: sums[name] for name in more}

    return jit_step(spec, finish)
