# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LLM-Rec over a store of titles: all prefixes of a user in one pass.

Titles are atomic behaviors (`antjax.ctr.bahe`): b_i is title i's row of a
store, the mean of its tokens' outputs of the k low layers, which are frozen. A
user is the sequence of their titles, over which the L - k high layers run once,
causally:

  h_1, h_2, ..., h_n = LM_high(b_1, b_2, ..., b_n)
  s(u_t, i) = v(h_1, ..., h_t) . v(LM_high(b_i))

so that the user after every title, u_1 to u_n, costs one pass and not n. v is
that of `model`: the mean of the outputs or the last one, a linear map, words,
length 1. Only that `half_life` counts titles here. Words of a title are the sum
over its tokens, and a user's the sum over their titles.

An item is a sequence of one: its vector takes the high layers alone.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from antjax.ctr.llm_rec import histories, late, losses
from antjax.ctr.llm_rec.late import UserConfig
from antjax.ctr.llm_rec.losses import LossConfig
from antjax.ctr.llm_rec.model import (
  token_weights,
  unit,
  VectorConfig,
  VectorHead,
)
from antjax.embedding.lookup import take_rows
from antjax.layers import functional
from antjax.lm import lora, positions
from antjax.lm.split import HighEncoder
from antjax.lm.transformer import Transformer

# Shape suffixes: U = distinct titles, T = tokens of a title, R = rows, W =
# places of a row, X = width of a stored row, D = width of a vector, B = users,
# N = items with the padding.

Batch = Mapping[str, Any]
_ITEMS, _USERS = 1024, 64  # Encoded at once.
_LEAST = 256  # Titles of users at once; others are powers of 2 above.
# (rows [U, X], tokens int32 [U, T], -1 behind the last one).
Titles = tuple[jax.Array, jax.Array]


class StoredRec(nnx.Module):
  """The model.

  Attributes:
    lm: The high half.
    head: What is trained besides.
    pooling: 'mean', or 'last' place.
    vector: Vector options; their own pooling is not read.
    loss_config: Configuration of the loss.
    user: How a user's titles make a score.
    new_bias: For late users: addition to scores of items without training
      events, and `new_words` how often their words count; see `raise_new`.
  """

  def __init__(
    self,
    lm: Transformer,
    num_low: int,
    pooling: Literal['mean', 'last'],
    vector: VectorConfig | None = None,
    loss_config: LossConfig | None = None,
    *,
    user: UserConfig | None = None,
    max_history: int,
    rarity_V: Any = None,
    whitening: tuple[Any, Any] | None = None,
    rngs: nnx.Rngs,
  ):
    """Copies a language model's high half, and makes the head.

    Args:
      lm: The whole language model.
      num_low: k, layers below the cut.
      pooling: How a user's outputs are pooled.
      vector: Vector options; None: the published ones.
      loss_config: Configuration of the loss; None: the published one's.
      user: How a user's titles make a score; None: by their mean.
      max_history: Longest sequence of titles.
      rarity_V: Rarity of each token, [V], for `vector.word_dim`.
      whitening: From `untrained.whitening` of all titles, for `vector.whiten`;
        None: the caller loads it.
      rngs: Source of the head's random numbers.
    """
    config = dataclasses.replace(lm.config, causal=True)
    if vector is not None and vector.whiten and num_low < config.num_layers:
      raise ValueError(
        f'vector.whiten: the store has {num_low} of {config.num_layers} layers,'
        ' and what those above say changes; use a store of all.'
      )
    self.user = user or UserConfig()
    self.new_bias, self.new_words = 0.0, 1.0
    if self.user.is_late and not (vector and vector.normalize):
      raise ValueError(
        'user.interaction=late: its terms are cosines; add --vector.normalize.'
      )
    has_places = config.positions == 'learned' and num_low < config.num_layers
    self.lm = HighEncoder(
      Transformer.of(config, functional.params_of(lm)),
      num_low,
      max_history if has_places else 0,
    )
    self.pooling, self.vector = pooling, vector or VectorConfig()
    self.loss_config = loss_config or LossConfig()
    self.head = VectorHead(
      config.embed_dim,
      self.vector,
      self.loss_config,
      rarity_V,
      rngs,
      max_history if self.user.is_late else 0,
    )
    if whitening is not None:
      kernel, bias = map(jnp.asarray, whitening)
      nnx.update(self.head.whitening, {'kernel': kernel, 'bias': bias})

  @property
  def dim(self) -> int:
    """D of an item's vector."""
    own = self.vector.projection_dim or self.lm.config.embed_dim
    return own + self.vector.word_dim + 2 * self.user.is_late

  def items(
    self, titles: Titles, outputs_U1X: jax.Array | None = None
  ) -> jax.Array:
    """Vectors of titles, fp32 [U, D]; of the layers' outputs if given."""
    if outputs_U1X is None:
      outputs_U1X = self.lm(self._cast(titles[0])[:, None])
    outputs_UX = self._whitened(outputs_U1X[:, 0])
    found_UD = self._finish(outputs_UX, *self._sums(titles))
    return late.items(found_UD) if self.user.is_late else found_UD

  def users(
    self,
    titles: Titles,
    places_RW: jax.Array,
    segments_RW: jax.Array,
    outputs_RWX: jax.Array | None = None,
  ) -> jax.Array:
    """Vectors of users after each title, fp32 [R, W, D].

    Those that are late are of the titles alone, `late`'s q.

    Args:
      titles: Distinct titles.
      places_RW: int32, the title at each place; users follow one another.
      segments_RW: int32, a number for each user of a row; 0: nobody, and what
        comes out there means nothing.
      outputs_RWX: The layers' outputs, if they have run.
    """
    if outputs_RWX is None:
      outputs_RWX = self.lm(*self._rows(titles, places_RW, segments_RW))
    outputs_RWX = self._whitened(outputs_RWX)
    sums = [
      None if x is None else take_rows(x, places_RW) for x in self._sums(titles)
    ]
    if not self.user.is_late:
      mixed_RWW = _weights(segments_RW, self.vector.half_life)
      if self.pooling == 'mean':
        outputs_RWX = mixed_RWW @ outputs_RWX.astype(jnp.float32)
      sums = [None if x is None else mixed_RWW @ x for x in sums]
    return self._finish(outputs_RWX, *sums)

  def _rows(
    self, titles: Titles, places_RW: jax.Array, segments_RW: jax.Array
  ) -> tuple[jax.Array, ...]:
    """Arguments of the layers for users."""
    order_RW = positions.document_positions(places_RW, segments_RW)
    if self.lm.max_behaviors:  # A run of padding may be longer.
      order_RW = jnp.minimum(order_RW, self.lm.max_behaviors - 1)
    return self._cast(take_rows(titles[0], places_RW)), segments_RW, order_RW

  def newest_users(
    self, titles: Titles, places_BW: jax.Array, is_there_BW: jax.Array
  ) -> jax.Array:
    """Vectors of users whose titles stand first in rows.

    fp32 [B, D], or [B, W, D] of each title where they are late.
    """
    vectors_BWD = self.users(titles, places_BW, is_there_BW)
    size_B = is_there_BW.sum(axis=1)
    if self.user.is_late:
      ages_A = self.head.ages[...]
      return late.newest(vectors_BWD, self._scale(), ages_A, size_B)
    last_B = jnp.maximum(size_B - 1, 0)
    found_B1D = jnp.take_along_axis(vectors_BWD, last_B[:, None, None], axis=1)
    return found_B1D[:, 0]

  def _scale(self) -> jax.Array:
    """Factor on cosines."""
    if not (self.user.is_late or self.loss_config.learn_temperature):
      return losses.scale(self.loss_config, None)
    scale = losses.scale(self.loss_config, self.head.log_scale[...])
    return jnp.minimum(scale, late.MAX_SCALE) if self.user.is_late else scale

  def _cast(self, rows: jax.Array) -> jax.Array:
    """Stored rows in the dtype to compute in."""
    leaves = jax.tree.leaves(nnx.state(self.lm))
    return rows.astype(leaves[0].dtype if leaves else jnp.float32)

  def _whitened(self, outputs: jax.Array) -> jax.Array:
    """Outputs [..., X] as they are, or whitened and of length 1."""
    if not self.vector.whiten:
      return outputs
    whitening = self.head.whitening
    return unit(whitening(outputs.astype(whitening.kernel.dtype)))

  def _sums(self, titles: Titles) -> tuple[jax.Array | None, jax.Array | None]:
    """Sums over titles' tokens of their words and vectors, fp32 [U, ...]."""
    tokens_UT, vector = titles[1], self.vector

    def summed(table_VD: jax.Array) -> jax.Array:
      rows_UTD = take_rows(table_VD, jnp.maximum(tokens_UT, 0))
      is_there_UT1 = tokens_UT[..., None] >= 0
      return jnp.where(is_there_UT1, rows_UTD.astype(jnp.float32), 0).sum(1)

    return (
      summed(self.head.words.embedding[...]) if vector.word_dim else None,
      summed(self.head.tokens[...]) if vector.token_vectors else None,
    )

  def _finish(self, outputs, words, tokens) -> jax.Array:
    """Vectors fp32 [..., D] of pooled outputs, and sums over tokens."""
    found = outputs.astype(jnp.float32)
    if self.vector.projection_dim:
      projection = self.head.projection
      found = projection(found.astype(projection.kernel.dtype))
    found = found.astype(jnp.float32)
    return self.vector.joined(
      found if tokens is None else found + tokens, words
    )

  def loss(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(losses [R W], weights [R W]) of a part of `StoredInputs`."""
    titles = batch['rows'], batch['tokens']
    places = batch['places'], batch['segments']
    outputs_RWX, outputs_U1X = self.lm.together(
      [self._rows(titles, *places), (self._cast(titles[0])[:, None],)]
    )
    users_RWD = self.users(titles, *places, outputs_RWX)
    scale = self._scale()
    scores_fn = losses.products(
      users_RWD.reshape(-1, users_RWD.shape[-1]), scale
    )
    if self.user.is_late:

      def scores_fn(item_CD):
        terms_RWC = scale * users_RWD @ item_CD[:, :-2].T
        found_RWC = late.of_prefixes(
          terms_RWC, scale, self.head.ages[...], batch['segments']
        )
        return found_RWC.reshape(-1, len(item_CD))

    items_UD = self.items(titles, outputs_U1X)
    losses_B = losses.losses(self.loss_config, scores_fn, items_UD, batch)
    return losses_B, batch['weight']


def _weights(segments_RW: jax.Array, half_life: float) -> jax.Array:
  """What each place of a row counts at each, fp32 [R, W, W]; rows sum to 1."""
  place_W = jnp.arange(segments_RW.shape[1])
  distance_1WW = (place_W[:, None] - place_W[None])[None]
  is_mine = segments_RW[:, :, None] == segments_RW[:, None]
  weight_1WW = token_weights(distance_1WW, half_life)
  weight_RWW = jnp.where(is_mine & (distance_1WW >= 0), weight_1WW, 0)
  return weight_RWW / weight_RWW.sum(axis=2, keepdims=True)


class StoredEncoder:
  """Vectors of items and users outside of training, for `evaluation`.

  Attributes:
    model: As it was given.
  """

  def __init__(
    self,
    model: StoredRec,
    rows_NX: np.ndarray,
    tokens_NT: np.ndarray,
    *,
    max_history: int,
    compute_dtype: Any = np.float32,
  ):
    """Puts the model on a device; compiles nothing yet.

    Args:
      model: The model, whole.
      rows_NX: Rows of the store.
      tokens_NT: int32, tokens of titles, -1 behind the last one.
      max_history: Newest items of a history that are read.
      compute_dtype: Dtype of the parameter copy used to compute.
    """
    self._rows_NX, self._tokens_NT = rows_NX, tokens_NT
    self._max_history, self._of = max_history, lora.computing(compute_dtype)
    self.hold(model)

  def hold(self, model: StoredRec) -> None:
    """Takes the model of another step; nothing is compiled again."""
    self._cast = jax.device_put(functional.cast(model, self._of))
    self.model = model
    self._items: np.ndarray | None = None

  def items(self, ids: np.ndarray) -> np.ndarray:
    """float32 [R, D] of items, int [R]; zeros for item 0, the padding."""
    found = np.zeros((len(ids), self.model.dim), np.float32)
    for start in range(0, len(ids), _ITEMS):
      mine = np.asarray(ids[start : start + _ITEMS])
      vectors = _item_vectors(self._cast, self._titles(mine, _ITEMS))
      vectors = np.asarray(vectors)[: len(mine)]
      found[start : start + len(mine)] = np.where(mine[:, None], vectors, 0)
    return found

  def item_vectors(self) -> np.ndarray:
    """float32 [N, D] of all items, for `evaluation.ranks`."""
    if self._items is None:
      self._items = self.items(np.arange(len(self._rows_NX)))
    return self._items

  @property
  def is_late(self) -> bool:
    """Whether a user has several vectors, see `late`."""
    return self.model.user.is_late

  def hold_items(self, vectors: np.ndarray) -> None:
    """Takes the vectors of all items, which processes have made together."""
    self._items = vectors

  def raise_new(
    self, is_new_N: np.ndarray, bias: float, words: float = 1.0
  ) -> None:
    """Scores some items, bool [N], otherwise for late users, from now on."""
    vectors_ND = np.array(self.item_vectors())
    new_XD = self.items(np.flatnonzero(is_new_N))
    new_XD[:, -2 - self.model.vector.word_dim : -2] *= words
    new_XD[:, -1] = bias
    vectors_ND[is_new_N] = new_XD
    self.model.new_bias, self.model.new_words = bias, words
    vectors_ND[0] = 0
    self.hold_items(vectors_ND)

  def user_vectors(self, history: np.ndarray) -> np.ndarray:
    """float32 [B, D] of users by what they have had; zeros for nothing.

    Of late ones [B, H, D], H as the longest history needs.

    Args:
      history: int [B, L], oldest first, 0 behind the newest.
    """
    history = np.asarray(history)
    size = self._max_history
    if self.is_late:
      longest = int((history > 0).sum(axis=1).max(initial=1))
      size = min(size, 1 << (longest - 1).bit_length())
    newest_BW = histories.newest(history, size)
    shape = (len(newest_BW), *((size,) if self.is_late else ()), self.model.dim)
    found = np.zeros(shape, np.float32)
    for start in range(0, len(newest_BW), _USERS):
      mine = newest_BW[start : start + _USERS]
      ids, places = np.unique(mine, return_inverse=True)
      places = places.reshape(mine.shape).astype(np.int32)
      empty = [(0, _USERS - len(mine)), (0, 0)]
      vectors = _newest_users(
        self._cast,
        self._titles(ids, max(_LEAST, 1 << (len(ids) - 1).bit_length())),
        np.pad(places, empty),
        np.pad((mine > 0).astype(np.int32), empty),
      )
      found[start : start + len(mine)] = np.asarray(vectors)[: len(mine)]
    found[~newest_BW.any(axis=1)] = 0
    return found

  def _titles(self, ids: np.ndarray, size: int) -> Titles:
    """Of some items, with so many rows."""
    ids = np.pad(ids, (0, size - len(ids)))
    return self._rows_NX[ids], self._tokens_NT[ids]


@jax.jit
def _item_vectors(model, titles):
  return model.items(titles)


@jax.jit
def _newest_users(model, titles, places_BW, is_there_BW):
  return model.newest_users(titles, places_BW, is_there_BW)
