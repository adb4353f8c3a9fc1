# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A click model: a tower for texts, tables of ids, numbers, and a head."""

from collections.abc import Mapping
import dataclasses
from typing import Annotated, Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from antjax.ctr.bahe.table import Batch
from antjax.ctr.bahe.towers import Encoded
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import RowWiseAdagrad
from antjax.embedding.table import EmbeddingTables
from antjax.layers import pooling
from antjax.networks import load, network
from antjax.networks.load import Standalone

# Shape suffixes: B = examples, N = sequences of a user, M = places of a
# sequence, E = embedding_dim, X = width of user vectors.

PyTree = Any

_ID_TABLES = ('user', 'item', 'behavior')
_ROWS = ('user', 'item', 'title')  # One field each.
_STEP_READS = (
  *('label', 'weight', 'numeric', 'user_vector', 'user'),
  *('is_new_user', 'is_new_item'),
)
# Needs of networks that a head does not meet.
_LACKING = {
  'moments': 'a head takes no statistics of training rows',
  'scenario': 'examples do not say their scenario',
  'labels': 'examples have one label',
  'support': 'examples belong to no task',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdConfig:
  """Id features: users, items, behaviors and id columns."""

  use: Annotated[
    tuple[str, ...],
    'Ids that the model sees: user, item, behavior (one row per text of'
    ' history and title), columns (all id columns of the data). Empty: none.',
  ] = ('user', 'item', 'behavior', 'columns')
  embedding_dim: Annotated[int, 'Width of an embedding.'] = 32
  learning_rate: Annotated[float, 'Learning rate of the rows (Adagrad).'] = 0.05
  level: Annotated[
    str, 'Sharding of the tables: none, intra, global or auto (see TableSpec).'
  ] = 'auto'

  def __post_init__(self) -> None:
    wrong = sorted(set(self.use) - {*_ID_TABLES, 'columns'})
    if wrong:
      raise ValueError(
        f'ids.use={self.use}: {wrong} unknown; use user, item, behavior,'
        ' columns.'
      )
    if self.embedding_dim < 1 or not self.learning_rate > 0:
      raise ValueError(
        f'ids.embedding_dim={self.embedding_dim} and ids.learning_rate='
        f'{self.learning_rate} must be positive.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig(load.NetworkConfig):
  """Network that predicts clicks from a user's and an item's vectors."""

  kind: Annotated[
    str,
    'Network that scores the vectors. dnn: an MLP. Other click networks:'
    f' {", ".join(load.CLICK)}. Your own: package.module:Class.',
  ] = 'dnn'
  cross_layers: Annotated[int, 'For dcnv2: number of cross layers.'] = 2
  cross_rank: Annotated[
    int, 'For dcnv2: rank of the matrices of cross layers. 0: full rank.'
  ] = 64

  def __post_init__(self) -> None:
    super().__post_init__()
    found = load.load(self.name, 'head.kind')
    load.refuse(found, _LACKING, f'head.kind={self.kind}')
    self.of(found)

  @property
  def name(self) -> str:
    return 'mlp' if self.kind == 'dnn' else self.kind


class Head(nnx.Module):
  """A click network, and a map from texts to the width of its fields."""

  def __init__(
    self,
    config: HeadConfig,
    sizes: network.Sizes,
    text_dim: int,
    *,
    rngs: nnx.Rngs,
  ):
    """Creates the layers; `text_dim` is 0 if no history of texts is read."""
    self.model = Standalone(config.name, sizes, config, rngs=rngs)
    self.text = nnx.Linear(text_dim, sizes.dim, rngs=rngs) if text_dim else None

  def text_histories(self, encoded: Encoded) -> list[network.History]:
    """Text vectors of each sequence and of the title, in the fields' width."""
    assert self.text is not None and encoded.history_BNMD is not None
    assert encoded.is_there_BNM is not None
    keys_BNME = self.text(encoded.history_BNMD)
    title_BE = self.text(encoded.title_BD)
    return [
      network.History(keys_BNME[:, n], encoded.is_there_BNM[:, n], title_BE)
      for n in range(keys_BNME.shape[1])
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class BehaviorSizes:
  """Sizes of the data that the model depends on."""

  history_lengths: tuple[int, ...]  # M of each sequence.
  num_users: int = 0  # Number of users, including the unknown one (0).
  num_items: int = 0  # Number of items.
  num_behaviors: int = 0  # Number of rows of the vocabulary.
  # Name of an id column -> number of its ids.
  columns: Mapping[str, int] = dataclasses.field(default_factory=dict)
  num_numeric: int = 0  # Number of numeric features.
  user_vector_dim: int = 0  # Width of user vectors, X; 0: no user vectors.

  @property
  def num_sequences(self) -> int:
    """Number of sequences of a user, N."""
    return len(self.history_lengths)


class ClickModel(nnx.Module):
  """A tower, if any, and a head.

  The head's fields are ids and means of their histories; its dense inputs are
  texts and numbers. Models of ids only have no tower.
  """

  def __init__(
    self,
    tower: Any,
    head: HeadConfig,
    ids: IdConfig,
    sizes: BehaviorSizes,
    *,
    rngs: nnx.Rngs,
  ):
    """Takes a `Tower` or None, and creates the head."""
    self.tower, self.head_config, self.ids, self.sizes = tower, head, ids, sizes
    self.head = self._make_head(rngs)

  def tables(self, mesh: jax.sharding.Mesh) -> EmbeddingTables | None:
    """Tables of ids; None if no ids are used."""
    sizes, use = self.sizes, self.ids.use
    rows = {
      'user': sizes.num_users,
      'item': sizes.num_items,
      'behavior': sizes.num_behaviors,
    }
    rows = {name: rows[name] for name in _ID_TABLES if name in use}
    features: dict[str, str | tuple[str, ...]] = {
      name: name for name in ('user', 'item') if name in use
    }
    if 'behavior' in use:
      features |= {'title': 'behavior', 'history': 'behavior'}
    if self._has_columns:
      columns = {f'column_{n}': size for n, size in sizes.columns.items()}
      rows |= columns
      features['columns'] = tuple(columns)
    if not rows:
      return None
    specs = [
      TableSpec(
        name,
        size,
        self.ids.embedding_dim,
        level=self.ids.level,  # type: ignore[arg-type]
        optimizer=RowWiseAdagrad(learning_rate=self.ids.learning_rate),
      )
      for name, size in rows.items()
    ]
    return EmbeddingTables(specs, features, mesh=mesh)

  @property
  def _has_columns(self) -> bool:
    return 'columns' in self.ids.use and bool(self.sizes.columns)

  # The host's part.

  def prepare(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    """Inputs of a step, from a batch of `make_batch`.

    The batch has standardized 'numeric' (`batches.Standardizer`), and
    'user_vector' [B, X] if the model uses it. For the parts see
    `Tower.prepare`.
    """
    text = {name: batch[name] for name in ('behaviors', 'title')}
    found = {name: batch[name] for name in _STEP_READS if name in batch}
    use = self.ids.use
    ids: dict[str, Any] = {
      name: batch[name] for name in ('user', 'item') if name in use
    }
    if 'behavior' in use:
      ids['title'] = text['title']
      ids['history'] = np.where(text['behaviors'] == 0, -1, text['behaviors'])
    if self._has_columns:
      ids['columns'] = batch['ids']
    if ids:
      found['ids'] = ids
    if self.tower is not None:
      found |= self.tower.prepare(text, num_parts)
    return found

  # The devices' part.

  def _make_head(self, rngs: nnx.Rngs) -> Head:
    sizes, use = self.sizes, self.ids.use
    has_history = 'behavior' in use
    names = [n for n in _ROWS if (n if n != 'title' else 'behavior') in use]
    num_fields = len(names) + len(sizes.columns) * self._has_columns
    places = sizes.history_lengths * has_history
    dense_width = sizes.num_numeric + sizes.user_vector_dim
    text_dim = 0
    if self.tower is not None:
      dense_width += self.tower.user_dim + self.tower.title_dim
      if self.attends_to_text:
        text_dim = self.tower.title_dim
        places = (*sizes.history_lengths, *places)
    return Head(
      self.head_config,
      network.Sizes(
        num_fields=num_fields + sizes.num_sequences * has_history,
        dim=self.ids.embedding_dim,
        dense_width=dense_width,
        user_fields=tuple(i for i, n in enumerate(names) if n == 'user'),
        item_fields=tuple(i for i, n in enumerate(names) if n != 'user'),
        histories=places,
      ),
      text_dim,
      rngs=rngs,
    )

  @property
  def attends_to_text(self) -> bool:
    """Whether the head attends to the behaviors' text vectors."""
    has_history = self.tower is not None and self.tower.has_history
    return 'history' in load.load(self.head_config.name).needs and has_history

  def logits(
    self, batch: Batch, vectors: PyTree = None, encoded: Encoded | None = None
  ) -> jax.Array:
    """fp32 logits of a click, [B], for one device's part of a batch.

    `vectors` from the tables are like batch['ids']; `encoded` is made if None.
    """
    vectors = vectors or {}
    dtype = jax.tree.leaves(nnx.state(self.head))[0].dtype
    dense: list[jax.Array] = []
    histories: list[network.History] = []
    if self.tower is not None:
      encoded = self.tower(batch) if encoded is None else encoded
      dense += [encoded.user_BF, encoded.title_BD]
      if self.attends_to_text:
        encoded = jax.tree.map(
          lambda x: x if x.dtype == bool else x.astype(dtype), encoded
        )
        histories += self.head.text_histories(encoded)
    rows = [vectors[name][:, None] for name in _ROWS if name in vectors]
    if 'columns' in vectors:
      rows.append(vectors['columns'])
    if 'history' in vectors:
      ids_BNM, keys_BNME = batch['ids']['history'], vectors['history']
      rows.append(pooling.pool(keys_BNME, ids_BNM))
      histories += [
        network.History(
          keys_BNME[:, n].astype(dtype),
          ids_BNM[:, n] >= 0,
          vectors['title'].astype(dtype),
        )
        for n in range(self.sizes.num_sequences)
      ]
    if self.sizes.num_numeric:
      dense.append(batch['numeric'])
    if self.sizes.user_vector_dim:
      dense.append(batch['user_vector'])
    none_B0E = jnp.zeros((len(batch['weight']), 0, self.ids.embedding_dim))
    fields_BFE = _joined([none_B0E, *rows], 1, dtype)
    dense_BX = _joined(dense, -1, dtype) if dense else None
    x = self.head.model.inputs(fields_BFE, dense_BX, tuple(histories))
    return self.head.model(x).astype(jnp.float32)

  def loss(
    self, batch: Batch, vectors: PyTree = None
  ) -> tuple[jax.Array, jax.Array]:
    """(binary cross-entropies [B], weights [B])."""
    logits_B = self.logits(batch, vectors)
    losses_B = optax.sigmoid_binary_cross_entropy(logits_B, batch['label'])
    return losses_B, batch['weight']


def _joined(parts: list[jax.Array], axis: int, dtype: Any) -> jax.Array:
  return jnp.concatenate([x.astype(dtype) for x in parts], axis=axis)
