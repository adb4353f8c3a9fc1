# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A click model whole: tables of ids, fields made of them, and a network.

Each feature becomes a field, a vector of one width: an id's row; the mean row
of a history; all numbers through one linear map; a text's or an image's vector
through a map of its own. Linear terms have a weight an id, in tables one wide.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.ctr.antm2c.fields import FieldConfig, MODAL
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
from antjax.metrics import by_slice
from antjax.networks import load, tasks
from antjax.networks.fusion import Fusion, Way
from antjax.networks.moments import moments_of, MomentSums
from antjax.networks.network import History, Inputs, ScenarioMoments, Sizes

# Shape suffixes: B = rows, F = fields, D = embedding width, M = places of the
# history.

PyTree = Any
_ROW_OPTIMIZERS = {'adam': Adam, 'rowwise_adagrad': RowWiseAdagrad}
_SCENARIO = 3  # Its column in the ids of a batch.
_WEIGHT = ':weight'  # Behind the name of a table or of a feature.


@dataclasses.dataclass(frozen=True)
class DataSizes:
  """What a model has to know of the data.

  Attributes:
    num_users: Users, the unknown one (0) included.
    num_items: Items.
    num_behaviors: Rows of the vocabulary of titles.
    num_scenarios: Scenarios.
    columns: Id column -> its ids.
    num_numeric: Numeric columns.
    max_history: Places of the history; 0: there is none.
    modal: Name of a text or image in the batch -> its width.
    labels: Names of the labels.
  """

  num_users: int
  num_items: int
  num_behaviors: int
  num_scenarios: int
  columns: Mapping[str, int]
  num_numeric: int = 0
  max_history: int = 0
  modal: Mapping[str, int] = dataclasses.field(default_factory=dict)
  labels: tuple[str, ...] = ('label',)


class FieldNetwork(nnx.Module):
  """Everything but the tables: fields of numbers and vectors, and a network."""

  def __init__(
    self,
    name: str,
    sizes: Sizes,
    config: load.NetworkConfig,
    num_numeric: int,
    modal: Mapping[str, int],
    fusion: Way,
    *,
    rngs: nnx.Rngs,
  ):
    if num_numeric:
      self.numeric = nnx.Linear(num_numeric, sizes.dim, rngs=rngs)
    self.fusion = Fusion(sizes, modal, fusion, rngs=rngs) if modal else None
    if self.fusion is not None:
      sizes = self.fusion.sizes
    self.model = load.make(name, sizes, config, rngs=rngs)

  def whole(self, x: Inputs, batch: Mapping[str, Any]) -> Inputs:
    """The inputs with what a batch has besides ids."""
    dtype = x.fields_BFD.dtype
    if 'numeric' in batch:
      row_BD = self.numeric(batch['numeric'].astype(dtype))
      fields_BFD = jnp.concatenate([x.fields_BFD, row_BD[:, None]], axis=1)
      x = x._replace(fields_BFD=fields_BFD)
    if 'moments' in batch:
      moments = ScenarioMoments(*(m[0] for m in batch['moments']))
      x = x._replace(moments=moments)
    if self.fusion is None:
      return x
    return self.fusion(
      x, {name: batch[name].astype(dtype) for name in self.fusion.widths}
    )


class ScenarioModel:
  """A model by name, over the fields that the data have."""

  def __init__(
    self,
    name: str,
    fields: FieldConfig,
    network: load.NetworkConfig,
    sizes: DataSizes,
  ):
    """Looks which fields there are.

    Raises:
      ValueError: An unknown model, one that needs a history where there is
        none, or text or image without vectors.
    """
    self.name, self.fields, self.data = name, fields, sizes
    self._needs = load.load(name).needs
    use = set(fields.use)
    columns = [f'column_{n}' for n in sizes.columns]
    self._num_ids = {
      'user': sizes.num_users,
      'item': sizes.num_items,
      'title': sizes.num_behaviors,
      'scenario': sizes.num_scenarios,
      **dict(zip(columns, sizes.columns.values(), strict=True)),
    }
    self._has_numeric = 'numeric' in use and bool(sizes.num_numeric)
    self._has_history = 'history' in use and bool(sizes.max_history)
    self._modal = {
      n: width for n, width in sizes.modal.items() if n.split('_')[0] in use
    }
    for kind in MODAL:
      if kind in use and not any(n.startswith(kind) for n in self._modal):
        raise ValueError(
          f'fields.use={fields.use}: there are no vectors of kind {kind}; name'
          f' their folder with --{kind}_vectors.'
        )
    chosen = [n for n in ('user', 'item', 'title') if n in use] + ['scenario']
    chosen += columns * ('columns' in use)
    if self._has_history and 'title' not in chosen:
      raise ValueError(
        f'fields.use={fields.use}: a history is compared with the title of the'
        ' candidate; name title too, or leave history out.'
      )
    # Ids of one level are looked up together.
    self._level = {n: _level(fields.level, self._num_ids[n]) for n in chosen}
    self._groups = {
      f'fields_{level}': tuple(n for n in chosen if self._level[n] == level)
      for level in dict.fromkeys(self._level.values())
    }
    order = [n for names in self._groups.values() for n in names]
    self._place = [list(self._num_ids).index(n) for n in order]
    order += ['history'] * self._has_history
    order += ['numeric'] * self._has_numeric
    self.field_names = tuple(order)
    self._is_linear = 'linear' in self._needs
    self.sizes = Sizes(
      num_fields=len(order),
      dim=fields.embedding_dim,
      num_scenarios=sizes.num_scenarios,
      scenario_field=order.index('scenario'),
      user_fields=tuple(i for i, n in enumerate(order) if n == 'user'),
      item_fields=tuple(
        i for i, n in enumerate(order) if n in ('item', 'title')
      ),
      histories=(sizes.max_history,) * self._has_history,
      num_outputs=len(sizes.labels),
    )

    def make(rngs: nnx.Rngs) -> FieldNetwork:
      return FieldNetwork(
        name,
        self.sizes,
        network,
        sizes.num_numeric * self._has_numeric,
        self._modal,
        fields.fusion,
        rngs=rngs,
      )

    self._network = Functional(make)
    jax.eval_shape(self._network.init, jax.random.key(0))  # Checks it.

  def tables(
    self,
    mesh: jax.sharding.Mesh,
    rate: LearningRate,
    num_examples: int,
  ) -> EmbeddingTables:
    """Tables of the ids, and for linear terms tables of their weights.

    Args:
      mesh: Mesh of the job.
      rate: Learning rate of the rows, or its schedule.
      num_examples: Training examples.
    """
    fields = self.fields
    optimizer: RowOptimizer = _ROW_OPTIMIZERS[fields.optimizer](rate)
    if fields.l2:
      optimizer = L2(optimizer, fields.l2 / num_examples)

    def specs(suffix: str, dim: int, scale: float) -> list[TableSpec]:
      return [
        TableSpec(
          name + suffix,
          self._num_ids[name],
          dim,
          level=level,
          optimizer=optimizer,
          init_scale=scale,
        )
        for name, level in self._level.items()
      ]

    every = specs('', fields.embedding_dim, fields.init_scale)
    features: dict[str, str | tuple[str, ...]] = dict(self._groups)
    if self._has_history:
      features['history'] = 'title'
    if self._is_linear:
      # Apart: a row of D + 1 numbers makes each step half as long again.
      every += specs(_WEIGHT, 1, 0.0)
      features |= {
        group + _WEIGHT: tuple(n + _WEIGHT for n in names)
        for group, names in self._groups.items()
      }
    return EmbeddingTables(every, features, mesh=mesh)

  def prepare(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch of `ScenarioClicks` this model reads."""
    names = ['label', 'weight', *self._modal]
    names += ['numeric'] * self._has_numeric
    names += ['labels'] * ('labels' in batch)
    every = batch['ids']
    if not self.fields.knows_scenario:
      every = every.copy()
      every[:, _SCENARIO] = 0
    ids, start = {}, 0
    for group, members in self._groups.items():
      stop = start + len(members)
      ids[group] = every[:, self._place[start:stop]]
      if self._is_linear:
        ids[group + _WEIGHT] = ids[group]
      start = stop
    if self._has_history:
      ids['history'] = batch['history']
    return {
      **{n: batch[n] for n in names},
      'scenario': every[:, _SCENARIO],
      'ids': ids,
    }

  def init_params(self, key: jax.Array) -> PyTree:
    """Fresh parameters of the network."""
    return self._network.init(key)

  def _inputs(
    self, params: PyTree, vectors: PyTree, batch: Mapping[str, Any]
  ) -> tuple[FieldNetwork, Inputs]:
    dtype = jax.tree.leaves(params)[0].dtype
    rows = [vectors[group] for group in self._groups]
    first_order_B = jnp.zeros(len(batch['weight']), dtype)
    if self._is_linear:
      weights = [vectors[group + _WEIGHT] for group in self._groups]
      weights_BF = jnp.concatenate(weights, axis=1)[..., 0]
      first_order_B = weights_BF.astype(dtype).sum(axis=1)
    histories: tuple[History, ...] = ()
    if self._has_history:
      title = self.field_names.index('title')
      ids_BM, keys_BMD = batch['ids']['history'], vectors['history']
      query_BD = jnp.concatenate(rows, axis=1)[:, title]
      histories = (
        History(keys_BMD.astype(dtype), ids_BM >= 0, query_BD.astype(dtype)),
      )
      rows.append(pooling.pool(keys_BMD, ids_BM)[:, None])
    x = Inputs(
      jnp.concatenate(rows, axis=1).astype(dtype),
      first_order_B,
      batch['scenario'],
      histories=histories,
      weight_B=batch['weight'],
    )
    network = self._network.merge(params)
    return network, network.whole(x, batch)

  def logits(
    self, params: PyTree, vectors: PyTree, batch: Mapping[str, Any]
  ) -> dict[str, jax.Array]:
    """fp32 logits [B]: 'prediction' of the first label.

    Of a model of several tasks also each label's, by `task`, and of one whose
    tasks follow each other each label's where those before it are 1.

    Args:
      params: Parameters from `init_params`, in the compute dtype.
      vectors: Like batch['ids'], of the tables.
      batch: One device's part of a batch from `prepare`. To score with a
        network that needs moments, with 'moments': (means, variances) [1, S, F
        D].
    """
    _, found = self._scores(params, vectors, batch)
    labels, after = self.data.labels, {}
    if isinstance(found, tasks.Chain):
      after = {
        by_slice.task(labels[k], labels[k - 1]): found.after_BT[:, k]
        for k in range(1, len(labels))
      }
      found = found.all_BT
    if found.ndim == 1:
      return {'prediction': found}
    each = {by_slice.task(n): found[:, k] for k, n in enumerate(labels)}
    return {'prediction': found[:, 0], **each, **after}

  def _scores(self, params, vectors, batch, rng=None) -> tuple[Any, Any]:
    network, x = self._inputs(params, vectors, batch)
    if rng is not None:
      mlp.start_dropout(network.model, self.fields.dropout, rng)
    found = load.scores(network.model, x, self.sizes.num_outputs)
    return network, jax.tree.map(lambda y: y.astype(jnp.float32), found)

  def loss(
    self,
    params: PyTree,
    vectors: PyTree,
    batch: Mapping[str, Any],
    rng: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """(cross-entropies [B], weights [B]); `rng` drops outputs, None none."""
    network, found = self._scores(params, vectors, batch, rng)
    labels_BT = batch['label'][:, None]
    if 'labels' in batch:
      labels_BT = jnp.concatenate([labels_BT, batch['labels']], axis=1)
    of_model = getattr(network.model, 'loss', tasks.cross_entropies)
    return of_model(found, labels_BT), batch['weight']

  @property
  def is_by_scenario(self) -> bool:
    """Whether rows sorted by scenario are faster: `antjax.layers.grouped`."""
    return 'sorted_rows' in self._needs and self.fields.knows_scenario

  @property
  def is_normalising(self) -> bool:
    """Whether `logits` needs moments of the training clicks."""
    return 'moments' in self._needs

  def moment_sums(
    self, params: PyTree, vectors: PyTree, batch: Mapping[str, Any]
  ) -> MomentSums:
    """What `antjax.networks.moments.finish` reads, of one batch."""
    _, x = self._inputs(params, vectors, batch)
    return moments_of(x, self.sizes.num_scenarios)


def _level(level: Any, num_rows: int) -> Any:
  """The level that `TableSpec` gives a table of so many rows."""
  return TableSpec('any', num_rows, 1, level).resolved_level().name.lower()
