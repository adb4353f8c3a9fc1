# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The meta-learning job of `gmeta_bench`, and its ablations.

Second-order MAML with one inner step on the MLP of a click model, over one
stack of tables with row-wise Adagrad. Sizes are those of `meta_problem`, ids
follow a Zipf distribution. The data is synthetic.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from antjax.collectives.choose import Collectives
from antjax.embedding import exchange, planner
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import apply_to_rows, RowWiseAdagrad
from antjax.embedding.table import EmbeddingTables
from antjax.layers import mlp
from antjax.mesh.mesh import INTER, INTRA
from antjax.meta import maml, meta_loss
from antjax.train.trainer import Trainer
from benchmarks import host_steps, meta_problem, step_parts

# Variants of a case; 'full' changes nothing.
VARIANTS = (
  'full',
  'no_dedup',
  'two_exchanges',
  'central_gather',
  'no_donation',
  'bf16_rows',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case(meta_problem.Sizes):
  """One case of the benchmark; sizes are per device."""

  variant: str = 'full'  # Name from `VARIANTS`.
  level: str = 'global'  # Level of the tables.
  num_hosts: int = 1
  num_rows: int = 1_000_000  # Rows of all tables.

  @property
  def features(self) -> tuple[str, ...]:
    return tuple(f'f{i}' for i in range(self.num_features))

  def batch(self, device: int) -> dict[str, Any]:
    """One device's batch, in the layout of `antjax.meta.episodes`."""
    rng = np.random.default_rng(device)
    shape = (self.num_tasks, self.num_support + self.num_query)
    per_table = self.num_rows // self.num_features
    ids = {}
    for i, name in enumerate(self.features):
      rank = rng.zipf(1.2, shape)
      if i < self.num_features // 2:  # Like a user's features.
        rank = np.broadcast_to(rank[:, :1], shape)
      ids[name] = ((rank * 2_654_435_761) % per_table).astype(np.int32)
    label = rng.integers(0, 2, shape).astype(np.float32)
    return step_parts.episodes(ids, label, self.num_support)


def make_tables(case: Case, mesh: jax.sharding.Mesh) -> Any:
  """The tables of a case, for its variant."""
  optimizer = RowWiseAdagrad(0.02)
  specs = [
    TableSpec(
      name,
      case.num_rows // case.num_features,
      case.embedding_dim,
      case.level,  # type: ignore[arg-type]
      optimizer,
    )
    for name in case.features
  ]
  make = {'no_dedup': _EveryId, 'two_exchanges': _TwoExchanges}.get(
    case.variant, EmbeddingTables
  )
  return make(
    specs,
    {name: name for name in case.features},
    mesh=mesh,
    max_unique=_most_distinct(case, mesh.size),
    payload_dtype='bfloat16' if case.variant == 'bf16_rows' else None,
  )


def _most_distinct(case: Case, num_devices: int) -> int:
  """Maximum number of distinct rows of a device, plus an eighth.

  Measured on the data before training, as by a user.
  """
  features = {name: name for name in case.features}
  most = max(
    sum(planner.count_distinct([case.batch(i)['ids']], features, 1).values())
    for i in range(num_devices)
  )
  return int(most * 9 / 8) + 1


def make_trainer(case: Case, mesh: jax.sharding.Mesh) -> tuple[Trainer, Any]:
  """A Trainer and its initial state."""
  tables = make_tables(case, mesh)
  width = case.num_features * case.embedding_dim
  make = functools.partial(mlp.MLP, width, case.widths, activate_last=False)
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
  merge_fn = functools.partial(nnx.merge, graphdef)
  model = step_parts.model(tables, case.features, merge_fn)
  inner = maml.InnerLoop(learning_rate=0.1, adapt='mlp')
  is_central = case.variant == 'central_gather'
  options = {'collectives': _Central('ring')} if is_central else {}
  trainer = Trainer(
    meta_loss.meta_loss_fn(model, inner),
    optax.adam(1e-3),
    mesh=mesh,
    tables=tables,
    **options,
  )
  state = trainer.init(
    lambda key: nnx.to_pure_dict(nnx.state(make(rngs=nnx.Rngs(key))))
  )
  return trainer, state


def time_on_host(order: dict[str, Any]) -> None:
  """Times cases on one host of the cluster, see `benchmarks.host_steps`."""
  cases = [
    Case(**fields | {'widths': tuple(fields['widths'])})
    for fields in order['cases']
  ]
  steps = [_make_step(case) for case in cases]
  found = host_steps.take_turns(steps, order['rounds'], num_warm_ups=2)
  host_steps.report(
    cases=[
      result | dataclasses.asdict(case)
      for case, result in zip(cases, found, strict=True)
    ]
  )


def _make_step(case: Case) -> host_steps.Step:
  """A case's compiled step, timed from ids in memory."""
  mesh, places = host_steps.mesh_of(case.num_hosts)
  trainer, state = make_trainer(case, mesh)
  parts = [case.batch(place) for place in places]
  batch = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  step = trainer.compiled_step()
  if case.variant == 'no_donation':
    step = jax.jit(step.__wrapped__)

  def inputs() -> Any:
    return trainer.step_inputs(batch)

  return host_steps.Step(str(case), case.num_hosts, mesh, step, state, inputs)


class _EveryId(EmbeddingTables):
  """Sends every id of the batch, not only distinct ones; owners sum."""

  def prepare(self, ids: Any, num_devices: int) -> tuple[Any, dict[str, Any]]:
    indices, routing = super().prepare(ids, num_devices)
    (name,) = routing
    leaves, treedef = jax.tree.flatten(indices)
    flat = np.concatenate([x.reshape(num_devices, -1) for x in leaves], 1)
    distinct = routing[name]['positions'].reshape(num_devices, -1)
    every = np.take_along_axis(distinct, flat, 1)
    order = np.argsort(every, axis=1, kind='stable')
    place = np.argsort(order, axis=1).astype(np.int32)
    ends = np.cumsum([x.size // num_devices for x in leaves])[:-1]
    parts = np.split(place, ends, axis=1)
    shaped = [p.reshape(x.shape) for p, x in zip(parts, leaves, strict=True)]
    # Always one round: messages have room for all ids.
    shift = np.zeros((num_devices,), np.int32)  # Not used.
    sent = np.take_along_axis(every, order, 1).reshape(-1)
    return treedef.unflatten(shaped), {
      name: {'positions': sent, 'shift': shift}
    }

  def _exchange(self, name: str, size: int) -> exchange.Exchange:
    stack = self._stacks[name]
    return exchange.Exchange(
      stack.axes, stack.num_owners, stack.rows_per_device, size
    )

  def fetch(self, state: Any, routing: Any) -> tuple[dict[str, Any], Any]:
    ((name, route),) = routing.items()
    positions = route['positions']
    ex = self._exchange(name, positions.shape[0])
    shift = jnp.int32(ex.one_round)
    rows = exchange.fetch(ex, state[name]['table'], positions, shift)
    return {name: rows}, {name: shift}

  def push(self, state, routing, rounds, grads, step, is_active, lr_scale=None):
    ((name, route),) = routing.items()
    stack = self._stacks[name]

    def apply_fn(old, ids, row_grads):
      ids = jnp.where(is_active, ids, stack.rows_per_device)
      # Lists of one id each: duplicates are found by sorting all.
      args = ids.reshape(-1, 1), row_grads, step, lr_scale
      return apply_to_rows(stack.optimizer, old[0], old[1], *args)

    positions = route['positions']
    table, slots = exchange.push(
      self._exchange(name, positions.shape[0]),
      positions,
      rounds[name],
      grads[name],
      apply_fn,
      (state[name]['table'], state[name]['slots']),
    )
    return {name: {'table': table, 'slots': slots}}


class _TwoExchanges(EmbeddingTables):
  """Looks up support and query separately; a row of both takes two steps."""

  def prepare(self, ids: Any, num_devices: int) -> tuple[Any, dict[str, Any]]:
    indices: dict[str, Any] = {}
    routing: dict[str, Any] = {}
    for part in ('support', 'query'):
      mine = {bucket: {part: parts[part]} for bucket, parts in ids.items()}
      found, routing[part] = super().prepare(mine, num_devices)
      for bucket, parts in found.items():
        indices.setdefault(bucket, {}).update(parts)
    return indices, routing

  def fetch(self, state: Any, routing: Any) -> tuple[dict[str, Any], Any]:
    found = {
      part: super(_TwoExchanges, self).fetch(state, route)
      for part, route in routing.items()
    }
    return (
      {part: rows for part, (rows, _) in found.items()},
      {part: rounds for part, (_, rounds) in found.items()},
    )

  def push(self, state, routing, rounds, grads, step, is_active, lr_scale=None):
    for part, route in routing.items():
      args = state, route, rounds[part], grads[part], step, is_active, lr_scale
      state = super().push(*args)
    return state

  def lookup(self, rows: Mapping[str, Any], ids: Any) -> Any:
    return {
      bucket: {
        part: super(_TwoExchanges, self).lookup(rows[part], features)
        for part, features in parts.items()
      }
      for bucket, parts in ids.items()
    }


class _Central(Collectives):
  """Sums at device 0, which receives all gradients and sends the sum."""

  def all_reduce(self, x: jax.Array) -> jax.Array:
    num = lax.axis_size(INTER) * lax.axis_size(INTRA)
    total = x
    for i in range(1, num):
      total += lax.ppermute(x, (INTER, INTRA), [(i, 0)])
    index = lax.axis_index((INTER, INTRA))
    result = jnp.where(index == 0, total, 0)
    for i in range(1, num):
      sent = lax.ppermute(total, (INTER, INTRA), [(0, i)])
      result = jnp.where(index == i, sent, result)
    return result
