# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models of item ids that say at each place which item comes next.

SASRec and GRU4Rec are encoders of them. Items have a row each in a table of
`antjax.embedding`, or, with frozen text vectors t(i), e(i) = A t'(i) with A
trained and t' whitened: a SASRec on texts, like UniSRec's (Hou et al. 2022,
https://arxiv.org/abs/2206.05941; there several A are mixed by a gate).

The loss is softmax cross-entropy of the next item over drawn ones, at every
place:

  -log exp(s(h_t, i+)) / (exp(s(h_t, i+)) + sum_j exp(s(h_t, i_j)))

The i_j are uniform and shared by all places that a device works off at once;
one that is the target is left out. SASRec's own binary loss with one negative
a place learns more slowly (Klenitskiy and Vasilev 2023,
https://arxiv.org/abs/2309.07602). Of ids s is a dot product, of texts the
cosine over a temperature.
"""

import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from antjax.ctr.llm_rec import histories
from antjax.ctr.llm_rec.encoders import EncoderConfig
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam
from antjax.embedding.table import EmbeddingTables
from antjax.layers.functional import Functional

# Shape suffixes: B = sequences, T = places, D = width of item vectors, N =
# items with the padding, J = drawn items a sequence, M = all drawn items, X =
# width of text vectors.

PyTree = Any
TEMPERATURE = 0.07  # For texts, as in UniSRec.
_MASKED = -1e30
# Standard deviation of initial elements: small, so that few steps change it.
_INIT_SCALE = 0.03


@dataclasses.dataclass(frozen=True)
class NextItemModel:
  """An encoder, and items by id or by text.

  Attributes:
    encoder: Its parameters are params['encoder'].
    num_items: N.
    text_dim: X, width of frozen text vectors; 0: items are ids.
    learning_rate: Learning rate of the table rows.
  """

  encoder: EncoderConfig
  num_items: int
  text_dim: int = 0
  learning_rate: float = 1e-3

  def tables(self, mesh: Mesh) -> EmbeddingTables | None:
    """The table of the ids; None for texts."""
    if self.text_dim:
      return None
    spec = TableSpec(
      'item',
      self.num_items,
      self.encoder.dim,
      optimizer=Adam(self.learning_rate),
      init_scale=_INIT_SCALE,
    )
    features = {'sequence': 'item', 'negatives': 'item'}
    return EmbeddingTables([spec], features, mesh=mesh)

  def init_params(self, key: jax.Array) -> PyTree:
    """Fresh parameters, but for the table's."""
    k_encoder, k_adapter = jax.random.split(key)
    params = {'encoder': self.encoder.init(k_encoder)}
    if self.text_dim:
      params['adapter'] = self._adapter.init(k_adapter)
    return params

  @functools.cached_property
  def _adapter(self) -> Functional[nnx.Linear]:
    return Functional(nnx.Linear, self.text_dim, self.encoder.dim)

  def prepare(
    self, sequence_BT: np.ndarray, negatives_BJ: np.ndarray
  ) -> dict[str, Any]:
    """What a step reads.

    Args:
      sequence_BT: int, items of users oldest first, 0 behind the newest: at
        most `max_length` inputs and the target of the last one.
      negatives_BJ: int, items drawn for each sequence, from 1 on.
    """
    padded = np.where(sequence_BT > 0, sequence_BT, -1).astype(np.int32)
    ids = {'sequence': padded, 'negatives': negatives_BJ.astype(np.int32)}
    return ids if self.text_dim else {'ids': ids}

  def loss(
    self,
    params: PyTree,
    ids: PyTree,
    vectors: PyTree,
    rng: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """(mean over the targets of each sequence [B], their number [B]).

    Args:
      params: Parameters from `init_params`.
      ids: 'sequence' int32 [B, T + 1], -1 for padding; 'negatives' int32
        [B, J]; of one numbering.
      vectors: Vector of each of them: item vectors or text vectors.
      rng: For dropout; None: none.
    """
    items = {name: self._items(params, x) for name, x in vectors.items()}
    h_BTD = self.encoder(params['encoder'], items['sequence'][:, :-1], rng)
    h_BTD = self._scaled(h_BTD)
    targets_BT = ids['sequence'][:, 1:]
    drawn_MD = items['negatives'].reshape(-1, self.encoder.dim)
    drawn_M = ids['negatives'].reshape(-1)
    positive_BT = jnp.sum(h_BTD * items['sequence'][:, 1:], axis=-1)
    negative_BTM = jnp.einsum('btd,md->btm', h_BTD, drawn_MD)
    is_target_BTM = targets_BT[:, :, None] == drawn_M[None, None, :]
    negative_BTM = jnp.where(is_target_BTM, _MASKED, negative_BTM)
    log_z_BT = jnp.logaddexp(
      positive_BT, jax.nn.logsumexp(negative_BTM, axis=-1)
    )
    counts_BT = (targets_BT >= 0).astype(jnp.float32)
    weights_B = counts_BT.sum(axis=1)
    sums_B = ((log_z_BT - positive_BT) * counts_BT).sum(axis=1)
    return sums_B / jnp.maximum(weights_B, 1), weights_B

  def _items(self, params: PyTree, vectors: jax.Array) -> jax.Array:
    """Item vectors [..., D]."""
    if not self.text_dim:
      return vectors
    return _unit(self._adapter.merge(params['adapter'])(vectors))

  def _scaled(self, h: jax.Array) -> jax.Array:
    """What is multiplied with item vectors."""
    return _unit(h) / TEMPERATURE if self.text_dim else h


@dataclasses.dataclass(frozen=True)
class TrainedNextItem:
  """A trained model, as `ranking` asks for it.

  Attributes:
    model: The model.
    params: Its parameters, whole.
    vectors: [N, D] rows of the table, or [N, X] whitened text vectors.
  """

  model: NextItemModel
  params: PyTree
  vectors: Any

  def item_vectors(self) -> np.ndarray:
    """float32 [N, D]."""
    return np.asarray(self.model._items(self.params, jnp.asarray(self.vectors)))

  def user_vectors(self, history_BL: np.ndarray) -> np.ndarray:
    """float32 [B, D]; that of an empty history means nothing."""
    inputs_BT = histories.newest(history_BL, self.model.encoder.max_length)
    last_B = np.maximum((inputs_BT > 0).sum(axis=1) - 1, 0)
    vectors = _user_vectors(
      self.model, self.params, self.vectors, inputs_BT, last_B
    )
    return np.asarray(vectors)


@functools.partial(jax.jit, static_argnums=0)
def _user_vectors(model, params, vectors, inputs_BT, last_B):
  is_there_BT1 = (inputs_BT > 0)[..., None]
  x_BTD = jnp.where(is_there_BT1, vectors[inputs_BT], 0)
  h_BTD = model.encoder(params['encoder'], model._items(params, x_BTD))
  h_BD = jnp.take_along_axis(h_BTD, last_B[:, None, None], axis=1)[:, 0]
  return model._scaled(h_BD)


def whiten(vectors: np.ndarray) -> np.ndarray:
  """Text vectors of mean 0 and covariance 1, float32 [N, X].

  Source: Su et al. 2021, https://arxiv.org/abs/2103.15316. Row 0, the padding,
  counts for nothing and becomes 0. Directions in which the vectors hardly
  differ are left as they are.
  """
  rest = np.asarray(vectors[1:], np.float64)
  centred = rest - rest.mean(axis=0)
  values, axes = np.linalg.eigh(centred.T @ centred / max(len(rest), 1))
  scale = np.where(values > 1e-6 * values.max(), values, np.inf) ** -0.5
  found = np.zeros(vectors.shape, np.float32)
  found[1:] = centred @ (axes * scale)
  return found


def _unit(x: jax.Array) -> jax.Array:
  """Vectors of length 1; the gradient at 0 is finite."""
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
