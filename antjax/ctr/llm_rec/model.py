# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LLM-Rec: one language model encodes users and items, a dot product ranks.

  s(u, i) = LM(T_1 T_2 .. T_n) . LM(T_i)

(Tang et al. 2025, https://arxiv.org/abs/2310.14304, section 3). T are titles;
the user's are those of their last items in all domains, so that nothing in the
model knows a domain or an id. Its parameters are {'lm': the language model's,
'head': what stands behind it}.
"""

from collections.abc import Sequence
import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from antjax.ctr.llm_rec import losses
from antjax.ctr.llm_rec.losses import Batch, LossConfig
from antjax.ctr.llm_rec.texts import Pooling
from antjax.layers import dense
from antjax.lm import packed, transformer
from antjax.lm.config import Config

PyTree = Any
# Shape suffixes: M = texts, T = tokens of a text, S = slots of all rows,
# B = examples, U = distinct items, D = width of a vector.


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorConfig:
  """How a text becomes a vector."""

  pooling: Annotated[
    Literal['family', 'first', 'last', 'mean'],
    "Tokens whose output is the text's vector. family: as in the paper's code,"
    ' [CLS] for BERT, the end for others.',
  ] = 'family'
  projection_dim: Annotated[
    int, 'Width of a linear map behind the language model; 0: none.'
  ] = 0
  normalize: Annotated[bool, 'Scale vectors to length 1.'] = False

  def __post_init__(self) -> None:
    if self.projection_dim < 0:
      raise ValueError(
        f'vector.projection_dim={self.projection_dim} must not be negative.'
      )


@dataclasses.dataclass(frozen=True)
class LLMRec:
  """The model.

  Attributes:
    lm: The language model.
    pooling: Of a text's outputs.
    vector: What is done to them; its own pooling is not read.
    loss_config: Of the loss.
    num_chunks: Parts that a step's texts are encoded in, see
      `antjax.lm.packed`: more take less memory and a third more time.
  """

  lm: Config
  pooling: Pooling
  vector: VectorConfig = VectorConfig()
  loss_config: LossConfig = LossConfig()
  num_chunks: int = 1

  @property
  def dim(self) -> int:
    """D."""
    return self.vector.projection_dim or self.lm.embed_dim

  def init_params(self, key: jax.Array, pretrained: PyTree) -> PyTree:
    """A language model's parameters, less its output layer, and the head."""
    head: dict[str, Any] = {}
    if self.vector.projection_dim:
      head['projection'] = dense.init(
        key, self.lm.embed_dim, self.vector.projection_dim
      )
    if self.loss_config.learn_temperature:
      inverse = 1 / self.loss_config.temperature
      head['log_scale'] = jnp.log(jnp.full((1,), inverse, jnp.float32))
    lm = {k: x for k, x in pretrained.items() if k != 'lm_head'}
    return {'lm': lm, 'head': head} if head else {'lm': lm}

  def encode(
    self, params: PyTree, tokens_MT: jax.Array, lengths_M: jax.Array
  ) -> jax.Array:
    """Vectors of padded texts, fp32 [M, D]; zeros for texts without tokens."""
    M, T = tokens_MT.shape
    mask_MT = jnp.arange(T)[None] < lengths_M[:, None]
    at = self._pooled_slots(T * jnp.arange(M), lengths_M)
    x = transformer.encode(
      self.lm, params['lm'], tokens_MT, mask=mask_MT, at=at
    )
    if at is not None:
      return self._finish(params, x[0], lengths_M)
    texts_MT = jnp.where(mask_MT, 1 + jnp.arange(M)[:, None], 0)
    x_SD = x.reshape(M * T, -1)
    means_MD = _means(x_SD, texts_MT.ravel(), lengths_M)
    return self._finish(params, means_MD, lengths_M)

  def encode_packed(
    self,
    params: PyTree,
    lanes: Sequence[packed.Lane],
    starts_M: jax.Array,
    lengths_M: jax.Array,
  ) -> jax.Array:
    """Vectors of packed texts, fp32 [M, D].

    Args:
      params: From `init_params`, in the dtype to compute in.
      lanes: The tokens; text m has number m + 1 there.
      starts_M: int32, slot of each text's first token.
      lengths_M: int32, its tokens; 0 for none.
    """
    at = self._pooled_slots(starts_M, lengths_M)
    x = packed.hidden(
      self.lm, params['lm'], lanes, num_chunks=self.num_chunks, at=at
    )
    if at is None:
      texts_S = jnp.concatenate([lane.texts.ravel() for lane in lanes])
      x = _means(x, texts_S, lengths_M)
    return self._finish(params, x, lengths_M)

  def _pooled_slots(self, starts_M, lengths_M) -> jax.Array | None:
    """Where the token is whose output is the text's vector; None: all count."""
    if self.pooling == 'mean':
      return None
    slots_M = jnp.maximum(starts_M, 0)
    if self.pooling == 'last':
      slots_M += jnp.maximum(lengths_M - 1, 0)
    return slots_M

  def _finish(self, params, pooled_MD, lengths_M) -> jax.Array:
    pooled_MD = pooled_MD.astype(jnp.float32)
    # Before what follows: outputs of padding may be anything.
    pooled_MD = jnp.where(lengths_M[:, None] > 0, pooled_MD, 0)
    if self.vector.projection_dim:
      projection = params['head']['projection']
      dtype = jax.tree.leaves(projection)[0].dtype
      pooled_MD = dense.apply(projection, pooled_MD.astype(dtype))
      pooled_MD = pooled_MD.astype(jnp.float32)
      pooled_MD = jnp.where(lengths_M[:, None] > 0, pooled_MD, 0)
    if self.vector.normalize:
      squares_M1 = jnp.sum(pooled_MD**2, axis=1, keepdims=True)
      pooled_MD *= jax.lax.rsqrt(jnp.maximum(squares_M1, 1e-12))
    return pooled_MD

  def loss(self, params: PyTree, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(losses [B], weights [B]) of a part of `inputs.TrainingInputs`."""
    lanes = [packed.Lane(*lane) for lane in batch['lanes']]
    vectors_MD = self.encode_packed(
      params, lanes, batch['starts'], batch['lengths']
    )
    num_examples = len(batch['target'])
    losses_B = losses.losses(
      self.loss_config,
      vectors_MD[:num_examples],
      vectors_MD[num_examples:],
      losses.scale(self.loss_config, params.get('head', {})),
      batch,
    )
    return losses_B, batch['weight']


def _means(x_SD, texts_S, lengths_M) -> jax.Array:
  """Mean output of each text, fp32 [M, D]; text m has number m + 1."""
  x_SD = jnp.where(texts_S[:, None] > 0, x_SD.astype(jnp.float32), 0)
  sums_MD = jax.ops.segment_sum(x_SD, texts_S, len(lengths_M) + 1)[1:]
  return sums_MD / jnp.maximum(lengths_M, 1)[:, None]
