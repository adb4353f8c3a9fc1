# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LLM-Rec: one language model encodes users and items, a dot product ranks.

  s(u, i) = LM(T_1 T_2 .. T_n) . LM(T_i)

(Tang et al. 2025, https://arxiv.org/abs/2310.14304, section 3). T are titles;
the user's are those of their last items in all domains, so that nothing in the
model knows a domain or an id. Its parameters are {'lm': the language model's,
'head': the head's}.

Not in the paper is a part of a text's vector that says which words it has:

  w(T) = sum over tokens t of T: 2^(-d(t) / h) e_t

e_t is a trained vector of the token, d(t) how many tokens come behind it, h the
half-life. Vectors begin as long as the inverse document frequency, r_t =
log(1 + N / (1 + N_t)) for a token in N_t of N titles, and nearly orthogonal: so
at first a dot product counts the rare tokens that two texts share, as BM25
does, and training teaches which different ones go together. A language model's
pooled output keeps the topic of a text and blurs its words.

Random directions in D dimensions meet by chance, and what that adds up to over
the frequent tokens of two texts hides what they share. So the tokens that weigh
most, by r_t^2 N_t, have half the dimensions to themselves, one each, and the
others are random in the other half.
"""

from collections.abc import Sequence
import dataclasses
from typing import Annotated, Any, Literal

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.ctr.llm_rec import late, losses
from antjax.ctr.llm_rec.losses import Batch, LossConfig
from antjax.ctr.texts import Pooling
from antjax.embedding.lookup import add_rows, take_rows
from antjax.lm import packed
from antjax.lm.transformer import Transformer

# Shape suffixes: M = texts, T = tokens of a text, S = slots of all rows,
# B = examples, U = distinct items, D = width of a vector, V = vocabulary.


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorConfig:
  """How a text becomes a vector."""

  pooling: Annotated[
    Literal['family', 'first', 'last', 'mean'],
    "Tokens whose outputs form the vector of a text. family: as in the paper's"
    ' code, [CLS] for BERT and the last token for other models.',
  ] = 'family'
  projection_dim: Annotated[
    int, 'Width of a linear projection after the language model. 0: none.'
  ] = 0
  normalize: Annotated[bool, 'Scale vectors to length 1.'] = False
  half_life: Annotated[
    float,
    'For pooling=mean and word vectors: number of tokens after which the'
    " weight of an earlier token halves, to favor a user's newest titles. 0:"
    ' equal weights.',
  ] = 0.0
  word_dim: Annotated[
    int,
    'Width of an additional part of the vector: the sum of one trained vector'
    ' per token. Needs normalize. 0: none, as in the paper.',
  ] = 0
  train_words: Annotated[
    bool, 'Train the word vectors; otherwise they keep their initial values.'
  ] = True
  token_vectors: Annotated[
    bool,
    'With --store: add a trained vector per token, initially zero, to the'
    ' stored vector of a title.',
  ] = False
  whiten: Annotated[
    bool,
    'With --store of all layers: whiten titles first, so that no direction'
    ' dominates. The linear projection starts as the identity.',
  ] = False
  word_weight: Annotated[
    float, 'Weight of the word cosine relative to that of the language model.'
  ] = 1.0

  def __post_init__(self) -> None:
    if self.projection_dim < 0:
      raise ValueError(
        f'vector.projection_dim={self.projection_dim} must not be negative.'
      )
    if min(self.word_dim, self.half_life) < 0 or self.word_weight <= 0:
      raise ValueError(
        f'vector.word_dim={self.word_dim} and vector.half_life='
        f'{self.half_life} must not be negative, vector.word_weight='
        f'{self.word_weight} must be above 0.'
      )
    if self.word_weight != 1 and not self.word_dim:
      raise ValueError(
        f'vector.word_weight={self.word_weight}: there are no words to weigh;'
        ' set vector.word_dim.'
      )
    if self.word_dim and not self.normalize:
      raise ValueError(
        f'vector.word_dim={self.word_dim}: the parts of a vector are weighed as'
        ' cosines; add --vector.normalize.'
      )

  @property
  def has_head(self) -> bool:
    """Whether anything is trained besides the language model."""
    return bool(
      self.projection_dim
      or self.token_vectors
      or (self.word_dim and self.train_words)
    )

  def joined(self, own: jax.Array, words: jax.Array | None) -> jax.Array:
    """A text's vector [..., D] of the language model's part and the words'."""
    if self.normalize:
      own = unit(own)
    if words is None:
      return own
    share = self.word_weight / (1 + self.word_weight)
    return jnp.concatenate(
      [(1 - share) ** 0.5 * own, share**0.5 * unit(words)], axis=-1
    )


class VectorHead(nnx.Module):
  """What is trained besides the language model; it may be nothing."""

  def __init__(
    self,
    embed_dim: int,
    vector: VectorConfig,
    loss_config: LossConfig,
    rarity_V: Any,
    rngs: nnx.Rngs,
    late_history: int = 0,
  ):
    if vector.whiten:  # Never trained.
      self.whitening = nnx.Linear(embed_dim, embed_dim, rngs=rngs)
    if vector.projection_dim:
      self.projection = nnx.Linear(embed_dim, vector.projection_dim, rngs=rngs)
      if vector.whiten:
        self.projection.kernel[...] = jnp.eye(embed_dim, vector.projection_dim)
    if vector.word_dim:
      self.words = nnx.Embed(
        len(rarity_V),
        vector.word_dim,
        embedding_init=lambda key, *_: init_words(
          key, rarity_V, vector.word_dim
        ),
        rngs=rngs,
      )
    if vector.token_vectors:
      shape = len(rarity_V), vector.projection_dim or embed_dim
      self.tokens = nnx.Param(jnp.zeros(shape, jnp.float32))
    if late_history:
      ages = late.initial_ages(late_history, vector.half_life)
      self.ages = nnx.Param(ages)
    if loss_config.learn_temperature or late_history:
      inverse = jnp.full((1,), 1 / loss_config.temperature, jnp.float32)
      self.log_scale = nnx.Param(jnp.log(inverse))


class LLMRec(nnx.Module):
  """The model.

  Attributes:
    lm: The language model, without its output layer.
    head: What is trained besides.
    pooling: How a text's outputs are pooled.
    vector: Vector options; their own pooling is not read.
    loss_config: Configuration of the loss.
    num_chunks: Parts that a step's texts are encoded in.
  """

  def __init__(
    self,
    lm: Transformer,
    pooling: Pooling,
    vector: VectorConfig = VectorConfig(),
    loss_config: LossConfig | None = None,
    num_chunks: int = 1,
    *,
    rarity_V: Any = None,
    rngs: nnx.Rngs,
  ):
    """Takes a language model, whose parameters it shares, and makes the head.

    Args:
      lm: The language model.
      pooling: How a text's outputs are pooled.
      vector: Vector options.
      loss_config: Configuration of the loss; None: the published one's.
      num_chunks: Parts that a step's texts are encoded in, see
        `antjax.lm.packed`: more take less memory and a third more time.
      rarity_V: Rarity of each token, [V], for `vector.word_dim`; see
        `TextMaker.rarity`.
      rngs: Source of the head's random numbers.
    """
    if vector.half_life and pooling != 'mean' and not vector.word_dim:
      raise ValueError(
        f'vector.half_life={vector.half_life}: with pooling={pooling} one'
        ' token is read; use pooling=mean, or vector.word_dim.'
      )
    if vector.token_vectors or vector.whiten:
      raise ValueError(
        f'vector.token_vectors={vector.token_vectors} and vector.whiten='
        f'{vector.whiten} are of stored titles; give --store.'
      )
    self.lm, self.pooling, self.vector = lm.trunk(), pooling, vector
    self.loss_config = loss_config or LossConfig()
    self.num_chunks = num_chunks
    self.head = VectorHead(
      lm.config.embed_dim, vector, self.loss_config, rarity_V, rngs
    )

  @property
  def dim(self) -> int:
    """D."""
    own = self.vector.projection_dim or self.lm.config.embed_dim
    return own + self.vector.word_dim

  def __call__(
    self,
    users: tuple[jax.Array, jax.Array],
    items: tuple[jax.Array, jax.Array],
  ) -> jax.Array:
    """Scores of items for users, fp32 [B, U], from `encode`'s arguments."""
    return self._scale() * self.encode(*users) @ self.encode(*items).T

  def _scale(self) -> jax.Array:
    is_learned = self.loss_config.learn_temperature
    log_scale = self.head.log_scale[...] if is_learned else None
    return losses.scale(self.loss_config, log_scale)

  def encode(self, tokens_MT: jax.Array, lengths_M: jax.Array) -> jax.Array:
    """Vectors of padded texts, fp32 [M, D]; zeros for texts without tokens."""
    M, T = tokens_MT.shape
    mask_MT = jnp.arange(T)[None] < lengths_M[:, None]
    at = self._pooled_slots(T * jnp.arange(M), lengths_M)
    x = self.lm.hidden(tokens_MT, lengths_M, at=at)
    texts_MT = jnp.where(mask_MT, 1 + jnp.arange(M)[:, None], 0)
    x = x[0] if at is not None else x.reshape(M * T, -1)
    slots = tokens_MT.ravel(), texts_MT.ravel(), T * jnp.arange(M)
    return self._finish(x, slots, lengths_M)

  def encode_packed(
    self,
    lanes: Sequence[packed.Lane],
    starts_M: jax.Array,
    lengths_M: jax.Array,
  ) -> jax.Array:
    """Vectors of packed texts, fp32 [M, D].

    Args:
      lanes: The tokens; text m has number m + 1 there.
      starts_M: int32, slot of each text's first token.
      lengths_M: int32, its tokens; 0 for none.
    """
    at = self._pooled_slots(starts_M, lengths_M)
    x = packed.hidden(self.lm, lanes, num_chunks=self.num_chunks, at=at)
    tokens_S, texts_S = (
      jnp.concatenate([part.ravel() for part in parts]) for parts in zip(*lanes)
    )
    return self._finish(x, (tokens_S, texts_S, starts_M), lengths_M)

  def _pooled_slots(self, starts_M, lengths_M) -> jax.Array | None:
    """Where the token is whose output is the text's vector; None: all count."""
    if self.pooling == 'mean':
      return None
    slots_M = jnp.maximum(starts_M, 0)
    if self.pooling == 'last':
      slots_M += jnp.maximum(lengths_M - 1, 0)
    return slots_M

  def _finish(self, x, slots, lengths_M) -> jax.Array:
    """Vectors [M, D] of outputs: [M, D] pooled already, or [S, D] of tokens.

    `slots` are (tokens [S], texts [S], starts [M]): text m has number m + 1.
    """
    tokens_S, texts_S, starts_M = slots
    ends_M = starts_M + lengths_M - 1
    # One more for padding, whose number is 0.
    ends_S = jnp.pad(ends_M, (1, 0))[texts_S]
    distance_S = ends_S - jnp.arange(len(texts_S))
    weight_S = token_weights(distance_S, self.vector.half_life)
    is_there_M1 = lengths_M[:, None] > 0
    if self.pooling == 'mean':
      x = _sums(x, weight_S, texts_S, len(lengths_M))
      ones_S1 = jnp.ones((len(texts_S), 1), jnp.float32)
      total_M1 = _sums(ones_S1, weight_S, texts_S, len(lengths_M))
      x /= jnp.maximum(total_M1, jnp.finfo(jnp.float32).tiny)
    # Before what follows: outputs of padding may be anything.
    found_MD = jnp.where(is_there_M1, x.astype(jnp.float32), 0)
    if self.vector.projection_dim:
      projection = self.head.projection
      found_MD = projection(found_MD.astype(projection.kernel.dtype))
      found_MD = jnp.where(is_there_M1, found_MD.astype(jnp.float32), 0)
    words_MD = None
    if self.vector.word_dim:
      words_SD = take_rows(self.head.words.embedding[...], tokens_S)
      words_MD = _sums(words_SD, weight_S, texts_S, len(lengths_M))
    return self.vector.joined(found_MD, words_MD)

  def loss(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(losses [B], weights [B]) of a part of `inputs.TrainingInputs`."""
    lanes = [packed.Lane(*lane) for lane in batch['lanes']]
    vectors_MD = self.encode_packed(lanes, batch['starts'], batch['lengths'])
    num_examples = len(batch['target'])
    losses_B = losses.losses(
      self.loss_config,
      losses.products(vectors_MD[:num_examples], self._scale()),
      vectors_MD[num_examples:],
      batch,
    )
    return losses_B, batch['weight']


def unit(x: jax.Array) -> jax.Array:
  """Vectors [..., D] of length 1; zeros stay zeros."""
  squares = jnp.sum(x**2, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))


def init_words(key: jax.Array, rarity_V: jax.Array, dim: int) -> jax.Array:
  """Vectors of tokens, fp32 [V, D], each as long as r_t."""
  rarity_V = jnp.asarray(rarity_V, jnp.float32)
  num_axes = min(dim // 2, len(rarity_V))
  num_random = dim - num_axes
  # N_t / N is nearly 1 / (exp(r_t) - 1).
  weight_V = rarity_V**2 / jnp.maximum(jnp.expm1(rarity_V), 1e-6)
  heaviest = jnp.argsort(-weight_V)[:num_axes]
  shape = (len(rarity_V), num_random)
  random = jax.random.normal(key, shape, jnp.float32) / num_random**0.5
  vectors_VD = jnp.pad(random, ((0, 0), (num_axes, 0)))
  vectors_VD = vectors_VD.at[heaviest].set(jnp.eye(num_axes, dim))
  return vectors_VD * rarity_V[:, None]


def token_weights(distance_S: jax.Array, half_life: float) -> jax.Array:
  """fp32 [...]: what tokens count that have so many others behind them."""
  if not half_life:
    return jnp.ones(distance_S.shape, jnp.float32)
  return 2.0 ** (-jnp.maximum(distance_S, 0).astype(jnp.float32) / half_life)


def _sums(
  x_SD: jax.Array, weight_S: jax.Array, texts_S: jax.Array, num_texts: int
) -> jax.Array:
  """Weighted sum of the rows of each text, whose numbers begin at 1, [M, D]."""
  is_text_S1 = texts_S[:, None] > 0
  # Padding may hold anything.
  x_SD = jnp.where(is_text_S1, x_SD.astype(jnp.float32), 0)
  x_SD *= weight_S[:, None]
  return add_rows(num_texts + 1, x_SD, texts_S)[1:]
