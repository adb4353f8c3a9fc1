# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the devices at hand compute, beside a plain form of the same."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from antjax.collectives import cost_model
from antjax.collectives.choose import Collectives
from antjax.embedding import lookup
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import SGD
from antjax.embedding.table import EmbeddingTables
from antjax.layers.functional import Functional
from antjax.lm import attention, transformer
from antjax.lm.transformer import Transformer
from antjax.mesh.mesh import BATCH_AXES, GLOBAL_AXES
from antjax.train.trainer import Trainer

# Relative to the reference's norm: sums in another order, and products of a
# gradient's two passes in that dtype. Sums of small integers are exact.
TOLERANCES = {'float32': 2e-4, 'bfloat16': 4e-2}
# A TPU's attention kernel multiplies fp32 in bf16 passes.
_TPU_ATTENTION = {'float32': 2e-2, 'bfloat16': 4e-2}
_LM = transformer.Config(
  vocab_size=256,
  num_layers=3,
  embed_dim=128,
  num_heads=4,
  num_kv_heads=2,
  mlp_dim=256,
)
_MICRO_BATCHES = 2
_NUM_ROWS = 97  # Of a table; no multiple of the devices.


@dataclasses.dataclass(frozen=True)
class Check:
  """A result beside its reference."""

  name: str  # What was compared.
  dtype: str
  error: float  # Norm of the difference over the reference's.
  tolerance: float

  @property
  def is_ok(self) -> bool:
    return self.error <= self.tolerance  # False for nan, too.


def codes(mesh: Mesh, names: Sequence[str]) -> Iterator[Check]:
  """Gradients of a small transformer under PaRO codes, and on one device."""
  lm = Functional(Transformer, _LM)
  num = mesh.size * _MICRO_BATCHES
  tokens = np.random.default_rng(0).integers(0, 256, (num, 32), np.int32)
  here = jax.process_index(), jax.process_count()
  mine = np.split(tokens, here[1])[here[0]]
  params = jax.device_get(jax.jit(lm.init)(jax.random.key(0)))

  def mean(params: Any) -> jax.Array:
    batch = {'tokens': jnp.asarray(tokens)}
    losses, weights = lm.merge(params).loss(batch)
    return jnp.sum(losses * weights) / jnp.sum(weights)

  with jax.default_matmul_precision('highest'):
    alone = jax.local_devices()[0]
    gradient = jax.jit(jax.grad(mean))(jax.device_put(params, alone))
    expected = jax.device_get(gradient)
    for dtype in ('float32', 'bfloat16'):
      for code in names if dtype == 'float32' else names[:1]:
        trainer = Trainer(
          lambda params, batch, rng: lm.merge(params).loss(batch),
          optax.trace(decay=0.0),  # Keeps the gradient.
          mesh=mesh,
          paro=code,
          num_micro_batches=_MICRO_BATCHES,
          compute_dtype=None if dtype == 'float32' else dtype,
          scanned=lambda name: name.startswith('layers'),
          check_vma=attention.check_vma(mesh),
        )
        state, _ = trainer.step(trainer.init(params), {'tokens': mine})
        found = trainer.opt_state(state).trace
        yield _check(f'gradient under {code}', dtype, found, expected)


def collectives(mesh: Mesh) -> Iterator[Check]:
  """Each algorithm, XLA's among them, beside what it should give."""
  size = 1024 * mesh.size
  whole = np.arange(size) % 64
  for op in cost_model.OPS:
    is_gather = op == 'all_gather'
    source = P(GLOBAL_AXES if is_gather else BATCH_AXES)
    # Equal results of all devices are kept apart, so that each is compared.
    target = P(GLOBAL_AXES if op == 'reduce_scatter' else BATCH_AXES)
    given, want = whole, np.tile(whole, mesh.size)
    if not is_gather:
      given = np.tile(whole, mesh.size)
      want = mesh.size * (whole if op == 'reduce_scatter' else given)
    for dtype in TOLERANCES:
      x = _placed(given.astype(jnp.dtype(dtype)), mesh, source)
      for algorithm in cost_model.ALGORITHMS:
        call = jax.shard_map(
          getattr(Collectives(algorithm), op),
          mesh=mesh,
          in_specs=source,
          out_specs=target,
          check_vma=False,
        )
        found = jax.jit(call)(x)
        expected = _placed(want.astype(np.float32), mesh, target)
        name = f'{op} by {algorithm}'
        yield _check(name, dtype, found, expected, exact=dtype == 'float32')


def tables(mesh: Mesh) -> Iterator[Check]:
  """Rows and sums of rows on a device; a step of tables split over the mesh."""
  rng = np.random.default_rng(0)
  index = rng.integers(0, _NUM_ROWS + 9, 4096, np.int32)  # Some are no rows.
  is_row = index < _NUM_ROWS
  table = rng.integers(-8, 8, (_NUM_ROWS, 128))
  rows = rng.integers(-8, 8, (len(index), 128))
  looked_up = np.where(is_row[:, None], table[np.where(is_row, index, 0)], 0)
  sums = np.zeros(table.shape)
  np.add.at(sums, index[is_row], rows[is_row])
  for dtype in TOLERANCES:
    taken = jax.jit(lookup.take_rows)(table.astype(jnp.dtype(dtype)), index)
    yield _check('look-up of rows', dtype, taken, looked_up, exact=True)
    add = jax.jit(functools.partial(lookup.add_rows, _NUM_ROWS))
    found = add(rows.astype(jnp.dtype(dtype)), index)
    yield _check('sums of rows', dtype, found, sums)
  for level in ('none', 'intra', 'global'):
    yield _table_step(mesh, level)


def _table_step(mesh: Mesh, level: str) -> Check:
  """SGD on a split table and on a whole one."""
  home = EmbeddingTables(
    [TableSpec('item', _NUM_ROWS, 8, cast(Any, level), SGD(1.0))],
    {'item': 'item'},
    mesh=mesh,
  )
  num = 16 * mesh.size
  rng = np.random.default_rng(1)
  ids = rng.integers(0, _NUM_ROWS, num)
  labels = rng.normal(size=num).astype(np.float32)
  here = jax.process_index(), jax.process_count()

  def loss(params: Any, x: jax.Array, labels: Any) -> jax.Array:
    return jnp.square(jnp.sum(jnp.tanh(10 * x) * params['w'], -1) - labels)

  def of_step(params: Any, rows: Any, batch: Any, rng: Any) -> jax.Array:
    del rng
    return loss(params, home.lookup(rows, batch['ids'])['item'], batch['y'])

  trainer = Trainer(of_step, optax.sgd(0.0), mesh=mesh, paro='IIG', tables=home)
  params = {'w': np.linspace(-1, 1, 8, dtype=np.float32)}
  state = trainer.init(params)

  def whole(state: Any) -> np.ndarray:
    # Laid out whole on every device, as several processes need it.
    same = NamedSharding(mesh, P())
    found = jax.jit(home.to_canonical, out_shardings=None)(state.tables)
    x = jax.jit(lambda x: x, out_shardings=same)(found['item']['table'])
    return np.asarray(x)[:_NUM_ROWS]

  before = whole(state)
  batch = {'ids': {'item': ids}, 'y': labels}
  mine = jax.tree.map(lambda x: np.split(x, here[1])[here[0]], batch)
  state, _ = trainer.step(state, mine)
  change = whole(state) - before
  with jax.default_device(jax.local_devices()[0]):
    gradient = jax.grad(lambda t: jnp.mean(loss(params, t[ids], labels)))
    expected = -np.asarray(gradient(before))
  return _check(
    f'step of a table at level {level}', 'float32', change, expected
  )


def fused_attention(mesh: Mesh) -> Iterator[Check]:
  """The platform's attention beside the plain one: values and gradients."""
  platform = mesh.devices.flat[0].platform
  tolerances = _TPU_ATTENTION if platform == 'tpu' else TOLERANCES
  heads = {'q': 4, 'k': 2, 'v': 2}
  for dtype in TOLERANCES:
    keys = jax.random.split(jax.random.key(0), 4)
    shape = mesh.size, 256, 4, 64
    given = {
      name: jax.random.normal(key, (*shape[:2], num, 64), jnp.dtype(dtype))
      for key, (name, num) in zip(keys, heads.items(), strict=False)
    }
    weight = jax.random.normal(keys[3], shape, jnp.float32)
    documents = np.tile(
      np.repeat(np.arange(1, 3, dtype=np.int32), 128), (mesh.size, 1)
    )
    method = attention.choose(
      (1, *shape[1:]), jnp.dtype(dtype), jax.default_backend()
    )

    def both(given: Any, weight: Any, documents: Any, how: Any) -> Any:
      def total(given: Any) -> Any:
        out = attention.attend(
          given['q'], given['k'], given['v'], documents, method=how
        )
        return jnp.sum(out.astype(jnp.float32) * weight), out

      grads, out = jax.grad(total, has_aux=True)(given)
      return grads | {'out': out}

    def run(how: str) -> Any:
      spec = P(BATCH_AXES)
      call = jax.shard_map(
        functools.partial(both, how=how),
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
        check_vma=attention.check_vma(mesh),
      )
      args = jax.tree.map(
        lambda x: _placed(np.asarray(x), mesh, spec), (given, weight, documents)
      )
      return jax.jit(call)(*args)

    with jax.default_matmul_precision('highest'):
      found, plain = run('auto'), run('plain')
    yield _check(
      f'{method} attention, forward and backward',
      dtype,
      found,
      plain,
      tolerance=tolerances[dtype],
    )


def _placed(x: np.ndarray, mesh: Mesh, spec: P) -> jax.Array:
  """A global array of what every process knows whole."""
  sharding = NamedSharding(mesh, spec)
  return jax.make_array_from_callback(x.shape, sharding, lambda at: x[at])


def _check(
  name: str,
  dtype: str,
  found: Any,
  expected: Any,
  *,
  exact: bool = False,
  tolerance: float | None = None,
) -> Check:
  """Compares trees, and keeps the leaf that differs most."""
  if tolerance is None:
    tolerance = 0.0 if exact else TOLERANCES[dtype]
  distance = jax.jit(_distance)
  pairs: Iterable[Any] = zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  )
  errors = [float(distance(a, b)) for a, b in pairs]
  return Check(name, dtype, float(np.max(errors)), tolerance)


def _distance(found: jax.Array, expected: jax.Array) -> jax.Array:
  a, b = found.astype(jnp.float32), jnp.asarray(expected, jnp.float32)
  return jnp.linalg.norm((a - b).ravel()) / jnp.maximum(
    jnp.linalg.norm(b.ravel()), 1e-30
  )


PARTS: dict[str, Callable[..., Iterator[Check]]] = {
  'attention': fused_attention,
  'tables': tables,
  'collectives': collectives,
}
