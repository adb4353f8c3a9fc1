# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs many texts of unequal length at once, with little padding.

Texts follow each other in rows, and rows of one width form a lane. Operations
on tokens (embeddings, projections, MLPs) run over all lanes as one long row.
Only attention runs lane by lane, with scores inside a row only. So a token of a
short text costs at most as many scores as its lane is wide, and one program
serves all lanes. `antjax.ctr.llm_rec` packs texts into rows.

With several chunks, the model runs them one after another and keeps only their
outputs; the backward pass recomputes each (gradient caching, Gao et al. 2021,
https://arxiv.org/abs/2101.06983). This changes neither a loss over all outputs
nor its gradient, and takes the memory of one chunk.
"""

from collections.abc import Callable, Sequence
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
    texts: int32 [R, W], a number for each text, different from its neighbors';
      0 for no token. Or int32 [R], tokens of each row with padding behind.
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
    lanes: Texts in lanes, each text in one row.
    num_chunks: Number of sequential chunks; divides the rows of each lane.
    at: int32 [M], the slots to return; None: all. With one chunk, the last
      layer's MLP runs for these only.

  Returns:
    [S, D], lane by lane, row by row, or [M, D]. Outputs of slots without a
    token are meaningless.

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

  @jax.checkpoint
  def run(part: tuple[Sequence[Lane], jax.Array]) -> jax.Array:
    if not hasattr(model, 'rng'):
      return _hidden(model, part[0])
    key = jax.random.fold_in(model.rng[...], part[1])
    return _hidden(model.seeded(key), part[0])

  x_CSD = lax.map(run, (chunks, jnp.arange(num_chunks)))
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
  tokens = flat([lane.tokens for lane in lanes])
  places = flat([positions.document_positions(*lane) for lane in lanes])
  if config.positions == 'learned':  # A padding run may be longer.
    places = jnp.minimum(places, config.max_positions - 1)
  shapes = [lane.tokens.shape for lane in lanes]
  attend = by_lane(model, shapes, [lane.texts for lane in lanes])
  x_1SD = model.embedded(tokens, places)
  x_1SD = model.run_layers(x_1SD, None, places, attend=attend, at=at)
  return model.normed(x_1SD)[0]


def by_lane(
  model: Transformer,
  shapes: Sequence[tuple[int, ...]],
  texts: Sequence[jax.Array | None],
) -> Callable[..., jax.Array]:
  """Attention over a long row inside the rows of its lanes, each [R, W].

  `texts` are those of `Lane`; None: each row of the lane is one text.
  """
  biases = [model.row_bias(w) for _, w in shapes]

  def attend(block, q_1SHK, k_1SGK, v_1SGK):
    mixed, start = [], 0
    for shape, text, bias in zip(shapes, texts, biases, strict=True):
      stop = start + shape[0] * shape[1]
      q, k, v = (
        x[:, start:stop].reshape(*shape, *x.shape[2:])
        for x in (q_1SHK, k_1SGK, v_1SGK)
      )
      mixed.append(block.attend(q, k, v, text, bias))
      start = stop
    return flat(mixed)

  return attend


def flat(parts: Sequence[jax.Array]) -> jax.Array:
  """[R, W, ...] of all lanes -> [1, S, ...]."""
  return jnp.concatenate(
    [x.reshape(1, -1, *x.shape[2:]) for x in parts], axis=1
  )
