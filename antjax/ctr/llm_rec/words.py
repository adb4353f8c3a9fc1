# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The part of a text's vector that says which words it has.

  w(T) = sum over tokens t of T: 2^(-d(t) / h) e_t

e_t is a trained vector of the token, d(t) how many tokens come behind it, h the
half-life. Vectors begin as long as the inverse document frequency, r_t =
log(1 + N / (1 + N_t)) for a token in N_t of N titles, and nearly orthogonal: so
at first a dot product counts the rare tokens that two texts share, as BM25
does, and training teaches which different ones go together. A language model's
pooled output keeps the topic of a text and blurs its words. Not in the paper,
whose vector is the language model's alone; titles are still all that is known.

Random directions in D dimensions meet by chance, and what that adds up to over
the frequent tokens of two texts hides what they share. So the tokens that weigh
most, by r_t^2 N_t, have half the dimensions to themselves, one each, and the
others are random in the other half.
"""

import jax
import jax.numpy as jnp

from antjax.embedding.lookup import add_rows

# Shape suffixes: V = vocabulary, S = tokens, M = texts, D = width.


def init(key: jax.Array, rarity_V: jax.Array, dim: int) -> dict[str, jax.Array]:
  """Vectors of tokens, {'embedding': fp32 [V, D]}.

  Args:
    key: Random key.
    rarity_V: r_t, the length of each token's vector; see `TextMaker.rarity`.
    dim: D.
  """
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
  return {'embedding': vectors_VD * rarity_V[:, None]}


def weights(distance_S: jax.Array, half_life: float) -> jax.Array:
  """fp32 [S]: what tokens count that have so many others behind them."""
  if not half_life:
    return jnp.ones(distance_S.shape, jnp.float32)
  return 2.0 ** (-jnp.maximum(distance_S, 0).astype(jnp.float32) / half_life)


def sums(
  x_SD: jax.Array, weight_S: jax.Array, texts_S: jax.Array, num_texts: int
) -> jax.Array:
  """Weighted sum of each text's rows, fp32 [M, D].

  Args:
    x_SD: Rows.
    weight_S: Their weights.
    texts_S: int32, number of each row's text from 1; 0 for padding.
    num_texts: M.
  """
  is_text_S1 = texts_S[:, None] > 0
  # Padding may hold anything.
  x_SD = jnp.where(is_text_S1, x_SD.astype(jnp.float32), 0)
  x_SD *= weight_S[:, None]
  return add_rows(num_texts + 1, x_SD, texts_S)[1:]
