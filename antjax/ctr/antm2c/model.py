# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A click model whole: tables of ids, fields made of them, and a network.

Each feature becomes a field, a vector of one width: an id's row; the mean row
of a history; all numbers through one linear map; a text's or an image's vector
through a map of its own. The last element of a row is the feature's own weight
in linear terms.
"""

from collections.abc import Mapping
import dataclasses
from typing import Annotated, Any, Literal

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from antjax.ctr.heads import History
from antjax.ctr.models import build, esmm
from antjax.ctr.models.fusion import Fusion, Way
from antjax.ctr.models.inputs import Inputs, Moments, NetworkConfig, Sizes
from antjax.ctr.models.moments import moments_of, MomentSums
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam, RowWiseAdagrad
from antjax.embedding.table import EmbeddingTables
from antjax.layers import pooling

# Shape suffixes: B = rows, F = fields, D = embedding width, M = places of the
# history, C = id columns, K = numeric columns.

PyTree = Any
_ROW_OPTIMIZERS = {'adam': Adam, 'rowwise_adagrad': RowWiseAdagrad}
_FIELDS = ('user', 'item', 'title', 'columns', 'numeric', 'history')
_MODAL = ('text', 'image')


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldConfig:
  """What of the data the model sees, and its tables."""

  use: Annotated[
    tuple[str, ...],
    'user, item, title (its id), columns (all id columns), numeric, history;'
    ' text and image where vectors are given.',
  ] = _FIELDS
  embedding_dim: Annotated[int, 'Width of a field, D.'] = 16
  optimizer: Annotated[
    Literal['adam', 'rowwise_adagrad'], 'Steps the touched rows.'
  ] = 'adam'
  learning_rate: Annotated[float, 'Of the rows.'] = 1e-3
  level: Annotated[
    Literal['auto', 'none', 'intra', 'global'],
    'Where rows live: a copy on every device, or spread over the devices of a'
    ' group or of the job. auto: copies of small tables.',
  ] = 'auto'
  init_scale: Annotated[float, "Standard deviation of new rows' elements."] = (
    0.01
  )
  id_dropout: Annotated[
    float,
    'Share of training rows whose user, and whose item, is replaced by the'
    ' unknown one, so that its vector means something for new ones.',
  ] = 0.0
  fusion: Annotated[
    Way,
    'How texts and images come in: as fields (concat), weighed by the ids'
    ' (gated), or by the scenario (per_scenario).',
  ] = 'concat'

  def __post_init__(self) -> None:
    known = (*_FIELDS, *_MODAL)
    if wrong := sorted(set(self.use) - set(known)):
      raise ValueError(
        f'fields.use={self.use}: {wrong} unknown; use {", ".join(known)}.'
      )
    if self.embedding_dim < 1 or not self.learning_rate > 0:
      raise ValueError(
        f'fields.embedding_dim={self.embedding_dim} and fields.learning_rate='
        f'{self.learning_rate} must be positive.'
      )
    if not 0 <= self.id_dropout < 1:
      raise ValueError(
        f'fields.id_dropout={self.id_dropout}: must be from 0 to below 1.'
      )


@dataclasses.dataclass(frozen=True)
class DataSizes:
  """What a model has to know of the data.

  Attributes:
    num_users: Users, the unknown one (0) included.
    num_items: Items.
    num_behaviors: Rows of the vocabulary of titles.
    num_scenarios: Scenarios.
    columns: Id column -> its ids.
    num_numeric: Numeric columns, K.
    max_history: Places of the history; 0: there is none.
    modal: Name of a text or image in the batch -> its width.
  """

  num_users: int
  num_items: int
  num_behaviors: int
  num_scenarios: int
  columns: Mapping[str, int]
  num_numeric: int = 0
  max_history: int = 0
  modal: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Network(nnx.Module):
  """Everything but the tables."""

  def __init__(
    self,
    name: str,
    sizes: Sizes,
    config: NetworkConfig,
    num_numeric: int,
    modal: Mapping[str, int],
    fusion: Way,
    *,
    rngs: nnx.Rngs,
  ):
    if num_numeric:
      self.numeric = nnx.Linear(num_numeric, sizes.dim + 1, rngs=rngs)
    self.fusion = None
    if modal:
      self.fusion = Fusion(sizes, modal, fusion, rngs=rngs)
      sizes = self.fusion.sizes
    self.model = build.make(name, sizes, config, rngs=rngs)

  def inputs(
    self,
    rows_BFE: jax.Array,
    numeric_BK: jax.Array | None,
    modal: Mapping[str, jax.Array],
    batch: Mapping[str, Any],
    history: History | None,
  ) -> Inputs:
    """What the model reads.

    Args:
      rows_BFE: A row a field of ids, E = D + 1.
      numeric_BK: Numbers.
      modal: Name -> vectors [B, X].
      batch: See `ScenarioModel.logits`.
      history: See `Inputs`.
    """
    if numeric_BK is not None:
      row = self.numeric(numeric_BK)
      rows_BFE = jnp.concatenate([rows_BFE, row[:, None]], axis=1)
    moments = batch.get('moments')
    x = Inputs(
      rows_BFE[..., :-1],
      rows_BFE[..., -1].sum(axis=1),
      batch['scenario'],
      history,
      batch['weight'],
      None if moments is None else Moments(*(m[0] for m in moments)),
    )
    return x if self.fusion is None else self.fusion(x, modal)


class ScenarioModel:
  """A model by name, over the fields that the data have."""

  def __init__(
    self,
    name: str,
    fields: FieldConfig,
    network: NetworkConfig,
    sizes: DataSizes,
  ):
    """Looks which fields there are.

    Raises:
      ValueError: An unknown model, one that needs a history where there is
        none, or text or image without vectors.
    """
    self.name, self.fields, self.data = name, fields, sizes
    use = set(fields.use)
    self._ids = [n for n in ('user', 'item', 'title') if n in use]
    self._has_columns = 'columns' in use and bool(sizes.columns)
    self._has_numeric = 'numeric' in use and bool(sizes.num_numeric)
    self._has_history = 'history' in use and bool(sizes.max_history)
    self._modal = {
      n: width for n, width in sizes.modal.items() if n.split('_')[0] in use
    }
    for kind in _MODAL:
      if kind in use and not any(n.startswith(kind) for n in self._modal):
        raise ValueError(
          f'fields.use={fields.use}: there are no vectors of kind {kind}; name'
          f' their folder with --{kind}_vectors.'
        )
    # The candidate's title is what a history is compared with.
    self._looked_up = dict.fromkeys(
      [*self._ids, 'scenario', *(['title'] * self._has_history)]
    )
    order = [*self._ids, 'scenario']
    order += [f'column_{n}' for n in sizes.columns] * self._has_columns
    order += ['history'] * self._has_history
    order += ['numeric'] * self._has_numeric
    self.field_names = tuple(order)
    self.sizes = Sizes(
      num_fields=len(order),
      dim=fields.embedding_dim,
      num_scenarios=sizes.num_scenarios,
      scenario_field=order.index('scenario'),
      user_fields=tuple(i for i, n in enumerate(order) if n == 'user'),
      item_fields=tuple(
        i for i, n in enumerate(order) if n in ('item', 'title')
      ),
      max_history=sizes.max_history * self._has_history,
    )

    def make(rngs: nnx.Rngs) -> Network:
      return Network(
        name,
        self.sizes,
        network,
        sizes.num_numeric * self._has_numeric,
        self._modal,
        fields.fusion,
        rngs=rngs,
      )

    self._make = make
    self._graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

  def tables(self, mesh: jax.sharding.Mesh) -> EmbeddingTables:
    """Tables of the ids; rows are D + 1 wide."""
    data, fields = self.data, self.fields
    rows = {
      'user': data.num_users,
      'item': data.num_items,
      'title': data.num_behaviors,
      'scenario': data.num_scenarios,
    }
    features: dict[str, str | tuple[str, ...]] = {}
    features |= {n: n for n in self._looked_up}
    if self._has_history:
      features['history'] = 'title'
    rows = {n: rows[n] for n in dict.fromkeys(map(str, features.values()))}
    largest = dict(rows)
    if self._has_columns:
      columns = {f'column_{n}': size for n, size in data.columns.items()}
      rows |= columns
      features['columns'] = tuple(columns)
      # Columns of one feature need one level.
      largest |= dict.fromkeys(columns, max(columns.values()))
    optimizer = _ROW_OPTIMIZERS[fields.optimizer](fields.learning_rate)
    specs = [
      TableSpec(
        name,
        size,
        fields.embedding_dim + 1,
        level=_level(fields.level, largest[name]),
        optimizer=optimizer,
        init_scale=fields.init_scale,
      )
      for name, size in rows.items()
    ]
    return EmbeddingTables(specs, features, mesh=mesh)

  def prepare(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch of `Clicks` this model reads."""
    ids = batch['ids']
    wanted = list(self._looked_up)
    wanted += ['columns'] * self._has_columns + ['history'] * self._has_history
    names = ['label', 'weight', 'scenario', 'index', *self._modal]
    names += ['numeric'] * self._has_numeric
    names += ['conversion'] * ('conversion' in batch)
    return {n: batch[n] for n in names} | {'ids': {n: ids[n] for n in wanted}}

  def init_params(self, key: jax.Array) -> PyTree:
    """Fresh parameters of the network."""
    return nnx.to_pure_dict(nnx.state(self._make(nnx.Rngs(key))))

  def _inputs(
    self, params: PyTree, vectors: PyTree, batch: Mapping[str, Any]
  ) -> tuple[Network, Inputs]:
    dtype = jax.tree.leaves(params)[0].dtype
    rows = [vectors[n][:, None] for n in (*self._ids, 'scenario')]
    if self._has_columns:
      rows.append(vectors['columns'])
    history = None
    if self._has_history:
      places = batch['ids']['history']
      rows.append(pooling.pool(vectors['history'], places)[:, None])
      history = History(
        vectors['history'][..., :-1].astype(dtype),
        places >= 0,
        vectors['title'][..., :-1].astype(dtype),
      )
    network = nnx.merge(self._graphdef, params)
    return network, network.inputs(
      jnp.concatenate(rows, axis=1).astype(dtype),
      batch['numeric'].astype(dtype) if self._has_numeric else None,
      {n: batch[n].astype(dtype) for n in self._modal},
      batch,
      history,
    )

  def logits(
    self, params: PyTree, vectors: PyTree, batch: Mapping[str, Any]
  ) -> jax.Array:
    """fp32 logits of a click [B].

    Args:
      params: From `init_params`, in the dtype to compute in.
      vectors: Like batch['ids'], of the tables.
      batch: From `prepare`; one device's part. To score with a model of
        `NORMALISING`, with 'moments': (means, variances) [1, S, F D].
    """
    network, x = self._inputs(params, vectors, batch)
    found = network.model(x)
    click = found.click if isinstance(found, esmm.Logits) else found
    return click.astype(jnp.float32)

  def loss(
    self, params: PyTree, vectors: PyTree, batch: Mapping[str, Any]
  ) -> tuple[jax.Array, jax.Array]:
    """(cross-entropies [B], weights [B])."""
    network, x = self._inputs(params, vectors, batch)
    found = jax.tree.map(lambda y: y.astype(jnp.float32), network.model(x))
    if isinstance(found, esmm.Logits):
      losses_B = esmm.loss(found, batch['label'], batch['conversion'])
    else:
      losses_B = optax.sigmoid_binary_cross_entropy(found, batch['label'])
    return losses_B, batch['weight']

  @property
  def is_normalising(self) -> bool:
    """Whether `logits` needs moments of the training clicks."""
    return self.name in build.NORMALISING

  def moment_sums(
    self, params: PyTree, vectors: PyTree, batch: Mapping[str, Any]
  ) -> MomentSums:
    """What `antjax.ctr.models.moments.finish` reads, of one batch."""
    _, x = self._inputs(params, vectors, batch)
    return moments_of(x, self.sizes.num_scenarios)


def _level(level: Any, num_rows: int) -> Any:
  """The level that `TableSpec` gives a table of so many rows."""
  return TableSpec('any', num_rows, 1, level).resolved_level().name.lower()
