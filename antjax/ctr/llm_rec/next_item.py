# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models of item ids that predict the next item at each position.

SASRec and GRU4Rec are encoders of them. Item i has a row r(i) in a table of
`antjax.embedding`, or a frozen text vector x(i), or both:

  e(i) = r(i)        e(i) = v(i) / |v(i)|        e(i) = (v(i) + r(i)) / |..|
  v(i) = sum_k g_k(i) (x(i) - b_k) W_k           parametric whitening by k
  g(i) = softmax(x(i) G + noise)                 noise in training only

as in UniSRec (Hou et al. 2022, https://arxiv.org/abs/2206.05941, sections 2.1
and 2.4). There x is what the language model says; here it has been whitened
once, so that training starts from there. r begins at 0 beside texts: an item
that training never saw is its text alone.

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
# width of text vectors, K = experts.

PyTree = Any
TEMPERATURE = 0.07  # For texts, as in UniSRec.
_MASKED = -1e30
_LEAST_NOISE = 0.01  # Of the gate, as in the authors' code.
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
    num_experts: K, whitenings that are mixed.
    has_ids: Whether items have rows beside their texts too.
  """

  encoder: EncoderConfig
  num_items: int
  text_dim: int = 0
  learning_rate: float = 1e-3
  num_experts: int = 1
  has_ids: bool = False

  def tables(self, mesh: Mesh) -> EmbeddingTables | None:
    """The table of the ids; None for texts alone."""
    if self.text_dim and not self.has_ids:
      return None
    spec = TableSpec(
      'item',
      self.num_items,
      self.encoder.dim,
      optimizer=Adam(self.learning_rate),
      init_scale=0.0 if self.text_dim else _INIT_SCALE,
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
  def _adapter(self) -> 'Functional[TextAdapter]':
    return Functional(
      TextAdapter, self.text_dim, self.encoder.dim, self.num_experts
    )

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
    found: dict[str, Any] = dict(ids) if self.text_dim else {}
    return found if self.text_dim and not self.has_ids else found | {'ids': ids}

  def loss(
    self,
    params: PyTree,
    ids: PyTree,
    rows: PyTree | None,
    rng: jax.Array | None = None,
    texts: PyTree | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """(mean over the targets of each sequence [B], their number [B]).

    Args:
      params: Parameters from `init_params`.
      ids: 'sequence' int32 [B, T + 1], -1 for padding; 'negatives' int32
        [B, J]; of one numbering.
      rows: Row of each of them in the table; None for texts alone.
      rng: For dropout and the gate's noise; None: none.
      texts: Text vector of each of them; None for ids alone.
    """
    noise = None if rng is None else jax.random.fold_in(rng, 1)
    items = {
      name: self.items(
        params,
        None if rows is None else rows[name],
        None if texts is None else texts[name],
        noise,
      )
      for name in ('sequence', 'negatives')
    }
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

  def items(
    self,
    params: PyTree,
    rows: jax.Array | None,
    texts: jax.Array | None = None,
    rng: jax.Array | None = None,
  ) -> jax.Array:
    """Item vectors [..., D] of rows [..., D], text vectors [..., X] or both."""
    if texts is None:
      assert rows is not None
      return rows
    vectors = self._adapter.merge(params['adapter'])(texts, rng)
    return _unit(vectors if rows is None else vectors + rows)

  def _scaled(self, h: jax.Array) -> jax.Array:
    """What is multiplied with item vectors."""
    return _unit(h) / TEMPERATURE if self.text_dim else h


class TextAdapter(nnx.Module):
  """v(x): whitenings with parameters, mixed by a gate."""

  def __init__(
    self, text_dim: int, dim: int, num_experts: int, *, rngs: nnx.Rngs
  ):
    shape = num_experts, text_dim, dim
    scale = text_dim**-0.5
    self.maps = nnx.Param(scale * jax.random.normal(rngs.params(), shape))
    self.offsets = nnx.Param(jnp.zeros(shape[:2]))
    self.gate = nnx.Param(jnp.zeros((text_dim, num_experts)))
    self.noise = nnx.Param(jnp.zeros((text_dim, num_experts)))

  def __call__(self, x: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """[..., D] of [..., X]; without a key the gate has no noise."""
    maps_KXD = self.maps[...]
    found = jnp.einsum('...x,kxd->...kd', x, maps_KXD)
    logits = x @ self.gate[...]
    if rng is not None:
      deviation = jax.nn.softplus(x @ self.noise[...]) + _LEAST_NOISE
      logits += deviation * jax.random.normal(rng, logits.shape)
    shares = jax.nn.softmax(logits)
    of_offsets_KD = jnp.einsum('kx,kxd->kd', self.offsets[...], maps_KXD)
    found = jnp.einsum('...k,...kd->...d', shares, found)
    return found - shares @ of_offsets_KD


@dataclasses.dataclass(frozen=True)
class TrainedNextItem:
  """A trained model, as `ranking` asks for it.

  Attributes:
    model: The model.
    params: Its parameters, whole.
    vectors: float32 [N, D], from `NextItemModel.items`.
  """

  model: NextItemModel
  params: PyTree
  vectors: Any

  def item_vectors(self) -> np.ndarray:
    """float32 [N, D]."""
    return np.asarray(self.vectors)

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
  h_BTD = model.encoder(params['encoder'], x_BTD)
  h_BD = jnp.take_along_axis(h_BTD, last_B[:, None, None], axis=1)[:, 0]
  return model._scaled(h_BD)


def _unit(x: jax.Array) -> jax.Array:
  """Vectors of length 1; the gradient at 0 is finite."""
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
