# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Many texts of unequal length through a model at once, nearly unpadded.

Texts follow each other in rows, and rows of one width make a lane. What
works on tokens (embeddings, projections, MLPs) runs over all lanes as one long
row; only attention runs lane by lane, where a token is scored against its row
alone. So a short text costs no more scores than its lane is wide, and one
program serves all lanes. How texts are put into rows: `antjax.ctr.llm_rec`.

With several chunks the model runs them one after another and keeps nothing of a
chunk but its output: the backward pass runs each again (gradient caching, Gao
et al. 2021, https://arxiv.org/abs/2101.06983). What a loss makes of all outputs
together is not changed by that, nor is its gradient; memory is that of a chunk.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from antjax.embedding.lookup import take_rows
from antjax.lm import positions
from antjax.lm.transformer import Transformer

# Shape suffixes: R = rows of a lane, W = their width, S = slots of all lanes,
# C = chunks, D = embed_dim, H = query heads, K = width of a head.


class Lane(NamedTuple):
  """Rows of one width.

  Attributes:
    tokens: int32 [R, W].
    texts: int32 [R, W], a number for each text, different for neighbors; 0
      where there is no token.
  """

  tokens: jax.Array
  texts: jax.Array


def hidden(
  model: Transformer,
  lanes: Sequence[Lane],
  *,
  num_chunks: int = 1,
  at: jax.Array | None = None,
) -> jax.Array:
  """The normed output of the last layer for each slot.

  Args:
    model: The model, in the dtype to compute in.
    lanes: The texts. Each text is in one row.
    num_chunks: Parts that run after one another; divides the rows of each lane.
    at: int32 [M], the slots that are wanted; None: all. With one chunk the last
      layer's MLP runs for no others.

  Returns:
    [S, D], lane after lane, row after row, or [M, D]. What comes out for a slot
    without a token means nothing.

  Raises:
    ValueError: `num_chunks` does not divide the rows of a lane.
  """
  if num_chunks == 1:
    return _hidden(model, lanes, at)
  for lane in lanes:
    if len(lane.tokens) % num_chunks:
      raise ValueError(
        f'packed.hidden: a lane of {len(lane.tokens)} rows in num_chunks='
        f'{num_chunks} parts; make the rows a multiple of it.'
      )
  chunks = jax.tree.map(
    lambda x: x.reshape(num_chunks, -1, *x.shape[1:]), list(lanes)
  )
  run = jax.checkpoint(lambda chunk: _hidden(model, chunk))
  x_CSD = lax.map(run, chunks)
  parts, start = [], 0
  for lane in lanes:
    size = lane.tokens.size // num_chunks
    part = x_CSD[:, start : start + size]
    parts.append(part.reshape(-1, x_CSD.shape[-1]))
    start += size
  x_SD = jnp.concatenate(parts)
  return x_SD if at is None else take_rows(x_SD, at)


def _hidden(
  model: Transformer, lanes: Sequence[Lane], at: jax.Array | None = None
) -> jax.Array:
  config = model.config
  shapes = [lane.tokens.shape for lane in lanes]
  tokens = _flat([lane.tokens for lane in lanes])
  places = _flat([positions.document_positions(*lane) for lane in lanes])
  if config.positions == 'learned':  # A run of padding may be longer.
    places = jnp.minimum(places, config.max_positions - 1)
  biases = [model.row_bias(w) for _, w in shapes]

  def attend(block, q_1SHK, k_1SGK, v_1SGK):
    mixed, start = [], 0
    for lane, bias, shape in zip(lanes, biases, shapes, strict=True):
      stop = start + lane.tokens.size
      q, k, v = (
        x[:, start:stop].reshape(*shape, *x.shape[2:])
        for x in (q_1SHK, k_1SGK, v_1SGK)
      )
      mixed.append(block.attend(q, k, v, lane.texts, bias))
      start = stop
    return _flat(mixed)

  x_1SD = model.embedded(tokens, places)
  x_1SD = model.run_layers(x_1SD, None, places, attend=attend, at=at)
  return model.normed(x_1SD)[0]


def _flat(parts: Sequence[jax.Array]) -> jax.Array:
  """[R, W, ...] of all lanes -> [1, S, ...]."""
  return jnp.concatenate(
    [x.reshape(1, -1, *x.shape[2:]) for x in parts], axis=1
  )
