# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Late interaction: an item meets each title of a history, not their mean.

  s(u, i) = log sum over titles j of u: exp(w(age j) + q_j . k_i / T)

q_j is the vector of a title that a user had, k_i that of an item, both of
length 1; age j says how many of the user's titles are newer. w and T are
trained. What one title makes likely stays likely, whatever the others are:
their mean would lie between them. Multi-vector scores are due to Khattab and
Zaharia 2020 (https://arxiv.org/abs/2004.12832), who take maxima.

A user is several vectors, (q_j / T, w, 1), and an item one, (k_i, 1, c): the
products of these are the terms. An item is therefore stored as any other, and
vector indexes find the items near to each of a user's vectors. A vector of
zeros is none. c adds to s: it is 0 but for items without training events, which
score lower than others, and for these the caller's choice. Training knows
little of them, so that their words may count more than those of others.

A user's scores after each title share the terms: exp(s) is linear in exp(term),
so that one product with the ages' weights gives all of them (`of_prefixes`).
"""

import dataclasses
import functools
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

# Shape suffixes: R = rows, W = places of a row, B = users, H = titles of a
# history, I = items, J = items of a user, C = candidates, D = width, A = ages.

# 1 / T stays below it: exp(term - 1 / T) would round to 0.
MAX_SCALE = 40.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserConfig:
  """How a user's titles make a score."""

  interaction: Annotated[
    Literal['pooled', 'late'],
    'pooled: one vector per user, the mean of the titles. late: with --store,'
    ' one vector per title, whose scores are added as probabilities; age and'
    ' temperature weigh them, both trained.',
  ] = 'pooled'

  loss_of_ndcg: Annotated[
    float,
    'With late: share of NDCG@10 over the validation examples that may be lost'
    ' to rank items without training events higher. 0: none.',
  ] = 0.02

  def __post_init__(self) -> None:
    if not 0 <= self.loss_of_ndcg < 1:
      raise ValueError(
        f'user.loss_of_ndcg={self.loss_of_ndcg} must be at least 0 and below 1.'
      )

  @property
  def is_late(self) -> bool:
    """Whether users are several vectors."""
    return self.interaction == 'late'


def initial_ages(max_history: int, half_life: float) -> jax.Array:
  """Weights w at first, fp32 [A]; 0: titles of any age weigh the same."""
  age_A = jnp.arange(max_history, dtype=jnp.float32)
  return -age_A * (np.log(2) / half_life if half_life else 0)


def items(vectors: jax.Array) -> jax.Array:
  """(k, 1, 0), [..., D + 2], of vectors [..., D]."""
  shape = (*vectors.shape[:-1], 1)
  return jnp.concatenate([vectors, jnp.ones(shape), jnp.zeros(shape)], axis=-1)


def newest(
  vectors_BHD: jax.Array,
  inverse: jax.Array,
  ages_A: jax.Array,
  sizes_B: jax.Array,
) -> jax.Array:
  """(q / T, w, 1) of users whose titles stand first in rows, [B, H, D + 2].

  Args:
    vectors_BHD: q, oldest first.
    inverse: 1 / T.
    ages_A: w.
    sizes_B: int32, titles of each user.
  """
  age_BH = sizes_B[:, None] - 1 - jnp.arange(vectors_BHD.shape[1])[None]
  w_BH = ages_A[jnp.clip(age_BH, 0, len(ages_A) - 1)]
  w_BH1 = w_BH[..., None]
  found = jnp.concatenate(
    [inverse * vectors_BHD, w_BH1, jnp.ones_like(w_BH1)], axis=-1
  )
  return jnp.where(age_BH[..., None] >= 0, found, 0)


def of_prefixes(
  terms_RWC: jax.Array,
  bound: jax.Array,
  ages_A: jax.Array,
  segments_RW: jax.Array,
) -> jax.Array:
  """Scores s of users after each title, fp32 [R, W, C].

  Args:
    terms_RWC: q . k / T of the title at each place.
    bound: What they do not exceed.
    ages_A: w.
    segments_RW: int32, a number for each user of a row.
  """
  place_W = jnp.arange(segments_RW.shape[1])
  age_1WW = (place_W[:, None] - place_W[None])[None]
  is_mine_RWW = segments_RW[:, :, None] == segments_RW[:, None]
  weight_1WW = jnp.exp(ages_A[jnp.clip(age_1WW, 0, len(ages_A) - 1)])
  weight_RWW = jnp.where(is_mine_RWW & (age_1WW >= 0), weight_1WW, 0)
  sums_RWC = weight_RWW @ jnp.exp(terms_RWC - bound)
  return bound + jnp.log(jnp.maximum(sums_RWC, jnp.finfo(jnp.float32).tiny))


def scores(users_BHD: Any, items: Any) -> jax.Array:
  """Scores s of users' vectors, fp32 [B, I]; a title at a time, no [B, H, I].

  Args:
    users_BHD: Vectors of users; those of zeros are none.
    items: [I, D], or [B, J, D] for items of each user: then [B, H, J] is there.
  """
  is_there_BH = jnp.any(users_BHD != 0, axis=2)
  if items.ndim == 3:
    terms_BHJ = _products('bhd,bjd->bhj', users_BHD, items)
    terms_BHJ = jnp.where(is_there_BH[..., None], terms_BHJ, -jnp.inf)
    return jax.nn.logsumexp(terms_BHJ, axis=1)

  def add(s_BI, of_title):
    vectors_BD, is_there_B = of_title
    term_BI = _products('bd,id->bi', vectors_BD, items)
    term_BI = jnp.where(is_there_B[:, None], term_BI, -jnp.inf)
    return jnp.logaddexp(s_BI, term_BI), None

  none_BI = jnp.full((len(users_BHD), len(items)), -jnp.inf)
  titles = users_BHD.swapaxes(0, 1), is_there_BH.T
  return jax.lax.scan(add, none_BI, titles)[0]


_products = functools.partial(
  jnp.einsum,
  precision=jax.lax.Precision.HIGHEST,
  preferred_element_type=jnp.float32,
)
