# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A click model: text by a tower, ids by tables, numbers, and a head."""

from collections.abc import Mapping
import dataclasses
from typing import Annotated, Any

import jax
import numpy as np
import optax

from antjax.ctr import heads
from antjax.ctr.bahe.towers import Batch, Encoded, PyTree, Tower
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import RowWiseAdagrad
from antjax.embedding.table import EmbeddingTables
from antjax.layers import dense

# Shape suffixes: B = examples, N = sequences of a user, M = places of a
# sequence, E = embedding_dim, X = width of given user vectors.

_ID_TABLES = ('user', 'item', 'behavior')


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdConfig:
  """Features that are ids: users, items, behaviours, and columns of ids."""

  use: Annotated[
    tuple[str, ...],
    'Which: user, item, behavior (history and title, a row each), columns (all'
    ' id columns of the data). Empty: none.',
  ] = ('user', 'item', 'behavior', 'columns')
  embedding_dim: Annotated[int, 'Width of a row.'] = 32
  learning_rate: Annotated[float, "Of the rows' Adagrad."] = 0.05
  level: Annotated[
    str, 'Where rows live: none, intra, global, or auto (see TableSpec).'
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


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What the model has to know of the data.

  Attributes:
    num_users: Users, the unknown one (0) included.
    num_items: Items.
    num_behaviors: Rows of the vocabulary.
    columns: Name of an id column -> its ids.
    num_numeric: Numeric features.
    num_sequences: N.
    user_vector_dim: Width of given user vectors, X; 0: there are none.
  """

  num_users: int
  num_items: int
  num_behaviors: int
  columns: Mapping[str, int]
  num_numeric: int
  num_sequences: int
  user_vector_dim: int = 0


@dataclasses.dataclass(frozen=True)
class ClickModel:
  """Its parameters are {'tower': ..., 'text': ..., 'head': ...}.

  'text' maps text vectors to the width of the head's attention, where it has
  one; models of ids have the head only.

  Attributes:
    tower: The text side; None: the model knows ids only.
    head: The head.
    ids: Which ids it knows.
    sizes: Of the data.
  """

  tower: Tower | None
  head: heads.HeadConfig
  ids: IdConfig
  sizes: Sizes

  def tables(self, mesh: jax.sharding.Mesh) -> EmbeddingTables | None:
    """The tables of the ids; None where none are used."""
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
    """What a step reads, from a batch of `make_batch`.

    Args:
      batch: The batch, its 'numeric' standardized (`batches.Standardizer`);
        'user_vector' [B, X] where the model has them.
      num_parts: See `Tower.prepare`.
    """
    behaviors = batch['behaviors']
    found = {k: batch[k] for k in ('label', 'weight')}
    for name in ('numeric', 'user_vector', 'is_new_user', 'is_new_item'):
      if name in batch:
        found[name] = batch[name]
    found['user'] = batch['user']
    use = self.ids.use
    ids: dict[str, Any] = {
      name: batch[name] for name in ('user', 'item') if name in use
    }
    if 'behavior' in use:
      ids['title'] = batch['title']
      ids['history'] = np.where(behaviors == 0, -1, behaviors)
    if self._has_columns:
      ids['columns'] = batch['ids']
    if ids:
      found['ids'] = ids
    if self.tower is not None:
      text = {'behaviors': behaviors, 'title': batch['title']}
      found |= self.tower.prepare(text, num_parts)
    return found

  # The devices' part.

  def init_params(self, key: jax.Array, pretrained: PyTree = None) -> PyTree:
    """Fresh parameters, but for the language model's.

    Args:
      key: Random key.
      pretrained: The whole language model's parameters, where there is a tower.
    """
    sizes, E = self.sizes, self.ids.embedding_dim
    k_head, k_text = jax.random.split(key)
    num_features = sizes.num_numeric + sizes.user_vector_dim
    dims: dict[str, int] = {}  # Of histories.
    params: dict[str, Any] = {}
    if self.tower is not None:
      params['tower'] = self.tower.init_params(pretrained)
      num_features += self.tower.user_dim + self.tower.title_dim
      if self.attends_to_text:
        params['text'] = dense.init(k_text, self.tower.title_dim, E)
        dims |= {f'text_{n}': E for n in range(sizes.num_sequences)}
    for name in ('user', 'item'):
      num_features += E * (name in self.ids.use)
    if 'behavior' in self.ids.use:
      num_features += E
      dims |= {f'history_{n}': E for n in range(sizes.num_sequences)}
    if self._has_columns:
      num_features += E * len(sizes.columns)
    params['head'] = heads.init(self.head, k_head, num_features, dims)
    return params

  @property
  def attends_to_text(self) -> bool:
    """Whether the head weighs the behaviours' text vectors."""
    has_history = self.tower is not None and self.tower.has_history
    return self.head.kind == 'din' and has_history

  def logits(self, params: PyTree, vectors: PyTree, batch: Batch) -> jax.Array:
    """fp32 logits of a click, [B].

    Args:
      params: From `init_params`, in the dtype to compute in.
      vectors: Like batch['ids'], of the tables; {} where there are none.
      batch: From `prepare`; one device's part.
    """
    features: list[jax.Array] = []
    histories: dict[str, heads.History] = {}
    if self.tower is not None:
      encoded = self.tower(params['tower'], batch)
      features += [encoded.user_BF, encoded.title_BD]
      if self.attends_to_text:
        histories |= _text_histories(params['text'], encoded)
    features += [vectors[k] for k in ('user', 'item') if k in vectors]
    if 'title' in vectors:
      features.append(vectors['title'])
      is_there_BNM = batch['ids']['history'] >= 0
      histories |= {
        f'history_{n}': heads.History(
          vectors['history'][:, n], is_there_BNM[:, n], vectors['title']
        )
        for n in range(self.sizes.num_sequences)
      }
    if 'columns' in vectors:
      features.append(vectors['columns'].reshape(len(batch['label']), -1))
    if self.sizes.num_numeric:
      features.append(batch['numeric'])
    if self.sizes.user_vector_dim:
      features.append(batch['user_vector'])
    return heads.logits(self.head, params['head'], features, histories)

  def loss(
    self, params: PyTree, vectors: PyTree, batch: Batch
  ) -> tuple[jax.Array, jax.Array]:
    """(binary cross-entropies [B], weights [B])."""
    logits_B = self.logits(params, vectors, batch)
    losses_B = optax.sigmoid_binary_cross_entropy(logits_B, batch['label'])
    return losses_B, batch['weight']


def _text_histories(
  params: PyTree, encoded: Encoded
) -> dict[str, heads.History]:
  """Each sequence's text vectors and the title's, in the head's width."""
  assert encoded.history_BNMD is not None and encoded.is_there_BNM is not None
  keys_BNME = dense.apply(params, encoded.history_BNMD)
  title_BE = dense.apply(params, encoded.title_BD)
  return {
    f'text_{n}': heads.History(
      keys_BNME[:, n], encoded.is_there_BNM[:, n], title_BE
    )
    for n in range(keys_BNME.shape[1])
  }
