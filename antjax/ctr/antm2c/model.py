# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A complete click model: tables of ids, fields and a network.

Each feature becomes a field, a vector of width D: the row of an id, the mean
row of a history, a number by `antjax.ctr.antm2c.numbers`, or the vector of a
text or an image through a separate map. Linear terms have one weight per id (in
tables of width 1), per number, and per element of a text or image vector.
"""

from collections.abc import Mapping
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.ctr.antm2c.data_sizes import DataSizes
from antjax.ctr.antm2c.field_network import FieldNetwork
from antjax.ctr.antm2c.fields import FieldConfig, MODAL
from antjax.embedding.home import HomeConfig
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import (
  Adam,
  L2,
  LearningRate,
  RowOptimizer,
  RowWiseAdagrad,
)
from antjax.embedding.table import EmbeddingTables
from antjax.layers import mlp, pooling
from antjax.layers.functional import Functional
from antjax.networks import load, tasks
from antjax.networks.moments import moments_of, MomentSums
from antjax.networks.network import History, Inputs, Sizes

# Shape suffixes: B = rows, F = fields, D = embedding width, M = places of the
# history.

PyTree = Any
_ROW_OPTIMIZERS = {'adam': Adam, 'rowwise_adagrad': RowWiseAdagrad}
_SCENARIO = 3  # Column of the scenario in the ids of a batch.
_WEIGHT = ':weight'  # Suffix of the name of a table or a feature.


class ScenarioModel:
  """A model by name, on the fields of the data."""

  def __init__(
    self,
    name: str,
    fields: FieldConfig,
    network: load.NetworkConfig,
    sizes: DataSizes,
  ):
    """Determines the fields.

    Raises:
      ValueError: The model is unknown or needs a missing history, or vectors of
        texts or images are missing.
    """
    self.name, self.fields, self.data = name, fields, sizes
    self._needs = load.load(name).needs
    use = set(fields.use)
    self._num_ids = {
      'user': sizes.num_users,
      'item': sizes.num_items,
      'title': sizes.num_behaviors,
      'scenario': sizes.num_scenarios,
      **{f'column_{n}': size for n, size in sizes.columns.items()},
    }
    self._numbers = dict(sizes.numbers) if 'numeric' in use else {}
    self._num_histories = len(sizes.histories) * ('history' in use)
    self._modal = {
      n: width for n, width in sizes.modal.items() if n.split('_')[0] in use
    }
    for kind in MODAL:
      if kind in use and not any(n.startswith(kind) for n in self._modal):
        raise ValueError(
          f'fields.use={fields.use}: there are no vectors of kind {kind}; name'
          f' their folder with --{kind}_vectors.'
        )
    chosen = self._chosen()
    self._in_history = self._history_features(chosen)
    self._bags = {f'bag_{n}': how for n, (_, how) in sizes.bags.items()}
    self._num_ids |= {f'bag_{n}': size for n, (size, _) in sizes.bags.items()}
    self._candidate = next((n for n in ('item', 'title') if n in chosen), None)
    if 'attention' in self._bags.values() and not self._candidate:
      raise ValueError(
        f'fields.bags={fields.bags}: attention is by the item or the title of'
        f' the candidate; fields.use={fields.use} has neither.'
      )
    self._place_ids(chosen)
    self._is_linear = 'linear' in self._needs
    self.sizes = self._sizes()
    self._network = Functional(
      FieldNetwork,
      *(name, self.sizes, network, fields),
      tuple(self._numbers.values()),
      *(self._modal, self._narrow),
    )
    # Leaves updated by the loss: running averages of batch norms.
    self.mutable = self._network.names_of(nnx.BatchStat)
    jax.eval_shape(self._network.init, jax.random.key(0))  # Checks it.

  def _chosen(self) -> list[str]:
    """Features of one id that become fields."""
    fields, sizes = self.fields, self.data
    chosen: list[str] = [
      n for n in ('user', 'item', 'title') if n in fields.use
    ]
    # A constant or hidden scenario needs no field.
    is_asked = 'scenario' in self._needs or fields.fusion == 'per_scenario'
    if fields.knows_scenario or sizes.num_scenarios > 1 or is_asked:
      chosen.append('scenario')
    return chosen + [
      f'column_{n}'
      for n in sizes.columns
      if ('numeric' if n in sizes.binned else 'columns') in fields.use
    ]

  def _history_features(self, chosen: list[str]) -> dict[str, str]:
    """Feature of a history -> field, and table, of the candidate."""
    fields, columns = self.fields, self.data.history_columns
    if not self._num_histories:
      if columns:
        raise ValueError(
          f'fields.history_columns={",".join(columns)}: there is no history;'
          ' name one with --history, and history in --fields.use.'
        )
      return {}
    if 'title' not in chosen:
      raise ValueError(
        f'fields.use={fields.use}: a history is compared with the title of the'
        ' candidate; name title too, or leave history out.'
      )
    found = {'history': 'title'}
    found |= {f'history_{n}': f'column_{n}' for n in columns}
    if lacking := sorted({*found.values()} - {*chosen}):
      raise ValueError(
        f'fields.history_columns={",".join(columns)}: they are compared with'
        f' those of the candidate; {lacking[0]} is no field: name it in'
        ' --fields.columns, and columns in --fields.use.'
      )
    return found

  def _place_ids(self, chosen: list[str]) -> None:
    """Determines level, width and order of the fields."""
    fields, tables = self.fields, [*chosen, *self._bags]
    self._level = {n: _level(fields.level, self._num_ids[n]) for n in tables}
    dim = fields.embedding_dim
    self._dim = dict.fromkeys(tables, dim)
    if fields.dim_rule == 'auto':  # Google's rule of thumb.
      for n in tables:
        self._dim[n] = min(dim, round(6 * self._num_ids[n] ** 0.25))
    self._narrow = {n: width for n, width in self._dim.items() if width < dim}
    # Ids of one level and width are looked up together.
    groups: dict[str, list[str]] = {}
    for n in chosen:
      width = f'_{self._dim[n]}' if n in self._narrow else ''
      groups.setdefault(f'fields_{self._level[n]}{width}', []).append(n)
    self._groups = {group: tuple(names) for group, names in groups.items()}
    order = [n for names in self._groups.values() for n in names]
    self._place = [list(self._num_ids).index(n) for n in order]
    for h in range(self._num_histories):
      end = f'_{h}' if self._num_histories > 1 else ''
      order += [f'{name}{end}' for name in self._in_history]
    order += self._bags
    order += [n for n, way in self._numbers.items() if way != 'dense']
    self.field_names = tuple(order)

  def _sizes(self) -> Sizes:
    """What the network is told of the fields."""
    sizes, dim, order = self.data, self.fields.embedding_dim, self.field_names
    return Sizes(
      num_fields=len(order),
      dim=dim,
      dense_width=[*self._numbers.values()].count('dense'),
      num_scenarios=sizes.num_scenarios,
      scenario_field=order.index('scenario') if 'scenario' in order else None,
      user_fields=tuple(i for i, n in enumerate(order) if n == 'user'),
      item_fields=tuple(
        i for i, n in enumerate(order) if n in ('item', 'title')
      ),
      histories=sizes.histories[: self._num_histories],
      history_width=len(self._in_history) * dim,
      num_outputs=len(sizes.labels),
    )

  def tables(
    self,
    mesh: jax.sharding.Mesh,
    rate: LearningRate,
    num_examples: int,
    home: HomeConfig | None = None,
  ) -> EmbeddingTables:
    """Tables of ids, and tables of weights for linear terms.

    `rate` is the rows' learning rate, or a schedule of it.
    """
    fields = self.fields
    optimizer: RowOptimizer = _ROW_OPTIMIZERS[fields.optimizer](rate)
    if fields.l2:
      optimizer = L2(optimizer, fields.l2 / num_examples)

    def specs(suffix: str, dim: int | None, scale: float) -> list[TableSpec]:
      return [
        TableSpec(
          name + suffix,
          self._num_ids[name],
          dim or self._dim[name],
          level=level,
          optimizer=optimizer,
          init_scale=scale,
          dtype=fields.row_dtype,
        )
        for name, level in self._level.items()
      ]

    every = specs('', None, fields.init_scale)
    features: dict[str, str | tuple[str, ...]] = dict(self._groups)
    features |= self._in_history | {bag: bag for bag in self._bags}
    if self._is_linear:
      # Separate: rows of D + 1 numbers make a step half as long again.
      every += specs(_WEIGHT, 1, 0.0)
      features |= {
        group + _WEIGHT: tuple(n + _WEIGHT for n in names)
        for group, names in self._groups.items()
      }
      features |= {bag + _WEIGHT: bag + _WEIGHT for bag in self._bags}
    sums = [n for n, how in self._bags.items() if how != 'attention']
    how: Any = {'mesh': mesh, 'home': home, 'engine': fields.lookup}
    return EmbeddingTables(every, features, sums=sums, **how)

  @property
  def groups(self) -> dict[str, list[int]]:
    """Feature of ids looked up together -> their columns."""
    found, start = {}, 0
    for group, members in self._groups.items():
      found[group] = self._place[start : start + len(members)]
      start += len(members)
    if self._is_linear:
      found |= {group + _WEIGHT: at for group, at in found.items()}
    return found

  def prepare(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Selects the inputs of this model from a batch of `ScenarioClicks`."""
    names = ['label', 'weight', *self._modal]
    names += ['numeric'] * bool(self._numbers)
    names += ['labels'] * ('labels' in batch)
    every = batch['ids']
    if not self.fields.knows_scenario:
      every = every.copy()
      every[:, _SCENARIO] = 0
    ids = {group: every[:, at] for group, at in self.groups.items()}
    ids |= {name: batch[name] for name in (*self._in_history, *self._bags)}
    if self._is_linear:
      ids |= {bag + _WEIGHT: batch[bag] for bag in self._bags}
    return {
      **{n: batch[n] for n in names},
      'scenario': every[:, _SCENARIO],
      'ids': ids,
    }

  def init_params(self, key: jax.Array) -> PyTree:
    return self._network.init(key)

  def _inputs(
    self, params: PyTree, vectors: PyTree, batch: Mapping[str, Any]
  ) -> tuple[FieldNetwork, Inputs]:
    dtype = jax.tree.leaves(params)[0].dtype
    network = self._network.merge(params)
    count, dim = len(batch['weight']), self.sizes.dim
    rows = [jnp.zeros((count, 0, dim), dtype)] * (not self._groups)
    for group, members in self._groups.items():
      row_BFd = vectors[group].astype(dtype)
      if members[0] in self._narrow:
        each = [network.wide(n, row_BFd[:, f]) for f, n in enumerate(members)]
        row_BFd = jnp.stack(each, axis=1)
      rows.append(row_BFd)
    first_order_B = jnp.zeros(count, dtype)
    if self._is_linear and self._groups:
      weights = [vectors[group + _WEIGHT] for group in self._groups]
      weights_BF = jnp.concatenate(weights, axis=1)[..., 0]
      first_order_B = weights_BF.astype(dtype).sum(axis=1)
    fields_BFD = jnp.concatenate(rows, axis=1)

    def candidate(name: str) -> jax.Array:
      return fields_BFD[:, self.field_names.index(name)]

    ids, rows, histories = batch['ids'], [fields_BFD], []
    queries = [candidate(name) for name in self._in_history.values()]
    for h in range(self._num_histories):
      keys = [
        network.wide(table, vectors[name][:, h].astype(dtype))
        for name, table in self._in_history.items()
      ]
      ids_BM = ids['history'][:, h]
      histories.append(
        History(
          jnp.concatenate(keys, axis=-1),
          ids_BM >= 0,
          jnp.concatenate(queries, axis=-1),
        )
      )
      rows += [pooling.pool(keys_BMD, ids_BM)[:, None] for keys_BMD in keys]
    for bag, how in self._bags.items():
      found_BPD = network.wide(bag, vectors[bag].astype(dtype))
      way: pooling.Pooling = 'sum' if how == 'sum' else 'mean'
      if how == 'attention':
        query_BD = candidate(str(self._candidate))
        pooled_BD = pooling.attend(found_BPD, ids[bag], query_BD)
      else:
        pooled_BD = pooling.pool(found_BPD, ids[bag], way)
      rows.append(pooled_BD[:, None])
      if self._is_linear:
        weight_BP1 = vectors[bag + _WEIGHT].astype(dtype)
        first_order_B += pooling.pool(weight_BP1, ids[bag], way)[:, 0]
    x = Inputs(
      jnp.concatenate(rows, axis=1),
      first_order_B,
      batch['scenario'],
      histories=tuple(histories),
      weight_B=batch['weight'],
    )
    return network, network.whole(x, batch)

  def logits(
    self, params: PyTree, vectors: PyTree, batch: Mapping[str, Any]
  ) -> dict[str, jax.Array]:
    """Logits by part, fp32 [B]; 'prediction' is the first label.

    A model of several tasks also has the parts of `tasks.by_label`.

    Args:
      params: Parameters from `init_params`, in the compute dtype.
      vectors: Vectors from the tables, like batch['ids'].
      batch: One device's part of a batch from `prepare`. For scoring with a
        network that needs moments, it has 'moments': (means, variances) [1, S,
        F D].
    """
    _, found, _ = self._scores(params, vectors, batch)
    return tasks.by_label(found, self.data.labels)

  def _scores(self, params, vectors, batch, rng=None) -> tuple[Any, ...]:
    network, x = self._inputs(params, vectors, batch)
    if rng is not None:
      mlp.start_training(
        network.model, self.fields.dropout, rng, batch['weight']
      )
    found = load.scores(network.model, x, self.sizes.num_outputs)
    found = jax.tree.map(lambda y: y.astype(jnp.float32), found)
    updates = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
    return network, found, updates

  def loss(
    self,
    params: PyTree,
    vectors: PyTree,
    batch: Mapping[str, Any],
    rng: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array], PyTree]:
    """Loss for `Trainer`; `rng` is for dropout, None: no dropout.

    Returns:
      Cross-entropies [B], weights [B], no metrics, and the new values of the
      leaves `mutable`.
    """
    network, found, updates = self._scores(params, vectors, batch, rng)
    labels_BT = batch['label'][:, None]
    if 'labels' in batch:
      labels_BT = jnp.concatenate([labels_BT, batch['labels']], axis=1)
    of_model = getattr(network.model, 'loss', tasks.cross_entropies)
    return of_model(found, labels_BT), batch['weight'], {}, updates

  @property
  def is_by_scenario(self) -> bool:
    """Whether rows sorted by scenario are faster, see `layers.grouped`."""
    return 'sorted_rows' in self._needs and self.fields.knows_scenario

  @property
  def is_normalising(self) -> bool:
    """Whether `logits` needs moments of the training clicks."""
    return 'moments' in self._needs

  def moment_sums(
    self, params: PyTree, vectors: PyTree, batch: Mapping[str, Any]
  ) -> MomentSums:
    """Sums over one batch for `antjax.networks.moments.finish`."""
    _, x = self._inputs(params, vectors, batch)
    return moments_of(x, self.sizes.num_scenarios)


def _level(level: Any, num_rows: int) -> Any:
  """The level in `TableSpec` for a table with this number of rows."""
  return TableSpec('any', num_rows, 1, level).resolved_level().name.lower()
