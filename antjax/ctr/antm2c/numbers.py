# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Numeric columns, as separate fields or as dense inputs.

  bins     the row of the quantile bin of x; bins are an id column
  linear   v x, x the standardized value: AutoInt, Song et al. 2019,
           https://arxiv.org/abs/1810.11921, section 4.3
  log      the same of sign(x) log(1 + |x|)
  autodis  sum_h softmax(W l + a l)_h m_h with l = leaky_relu(w x), a mixture of
           H meta-embeddings: AutoDis, Guo et al. 2021,
           https://arxiv.org/abs/2012.08986, section 3.2
  dense    no field: the standardized values side by side, for the bottom MLP of
           a DLRM, say

A missing value, NaN, has its own vector, or bin 0; as a dense input it is the
mean.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
from typing import get_args, Literal, Self

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from antjax.ctr.bahe.batches import Standardizer
from antjax.networks.network import Inputs

# Shape suffixes: N = clicks, K = numbers, F = numbers as fields, B = rows of a
# batch, D = embedding width, H = meta-embeddings of a number.

Way = Literal['bins', 'linear', 'log', 'autodis', 'dense']
WAYS = get_args(Way)
_NUM_META = 20
_NUM_SORTED = 1 << 20  # Number of clicks for quantiles, evenly spread.
_SKIP = 0.5  # The paper's alpha.


def ways(
  flag: str,
  texts: Sequence[str],
  names: Sequence[str] | None,
  known: Sequence[str],
) -> tuple[str, dict[str, str]]:
  """(default way, column -> its own way), from texts such as price=bins.

  `flag` names the setting in errors. `texts` are name=way, and at most one
  other default than the first of the `known` ways; `names` are the existing
  columns, None: not known yet.

  Raises:
    ValueError: A way or a column is unknown, or one is given twice.
  """
  found: dict[str, str] = {}
  for text in texts:
    name, _, way = text.rpartition('=')
    if way not in known or name in found:
      raise ValueError(
        f'{flag}={",".join(texts)}: {text!r}; needed: one of {", ".join(known)}'
        ' for all columns, and for some of them another one, as price=WAY,'
        ' each once.'
      )
    found[name] = way
  rest = found.pop('', known[0])
  if names is not None and (unknown := sorted(set(found) - set(names))):
    raise ValueError(
      f'{flag}={",".join(texts)}: {", ".join(unknown)} unknown; the data have'
      f' {", ".join(names) or "none"}.'
    )
  return rest, found


@dataclasses.dataclass(frozen=True, eq=False)
class Numbers:
  """Transformation of numeric columns, fitted on training data."""

  ways: Mapping[str, str]  # Column -> `Way`.
  # Column of bins -> ascending upper bounds of all bins but the last.
  edges: Mapping[str, np.ndarray]
  # Standardizer of the other columns; None: no such columns.
  standardizer: Standardizer | None

  @classmethod
  def fit(
    cls,
    ways: Mapping[str, str],
    chunks: Iterable[np.ndarray],
    num_clicks: int,
    num_bins: int,
  ) -> Self:
    """Fits the numbers [N, K] of training, in the order of `ways`.

    `chunks` are of [n, K], and read once.
    """
    found, kept = cls(ways, {}, None), list[np.ndarray]()
    every, start = max(1, num_clicks // _NUM_SORTED), 0

    def smooth() -> Iterator[np.ndarray]:
      nonlocal start
      for values_NK in chunks:
        kept.append(values_NK[-start % every :: every].copy())
        start += len(values_NK)
        if found.smooth:
          yield found._smooth(values_NK)

    blocks = smooth()
    standardizer = Standardizer.of(blocks) if found.smooth else None
    for _ in blocks:  # Reads the rest, if any.
      pass
    shares = np.arange(1, num_bins) / num_bins
    edges = {}
    for k, (name, way) in enumerate(ways.items()):
      if way == 'bins':
        some = np.concatenate([values_NK[:, k] for values_NK in kept])
        there = np.sort(some[~np.isnan(some)])
        places = np.unique((shares * len(there)).astype(int))
        bounds = np.unique(there[places[: len(there)]])
        # No value is above the greatest one.
        edges[name] = bounds[bounds < there.max(initial=-np.inf)]
    return cls(ways, edges, standardizer)

  @property
  def smooth(self) -> dict[str, str]:
    """Column -> its way in `NumberFields`: linear, autodis or dense."""
    is_log = {'log': 'linear'}
    return {
      name: is_log.get(way, way)
      for name, way in self.ways.items()
      if way != 'bins'
    }

  @property
  def num_ids(self) -> dict[str, int]:
    """Column of bins -> number of its ids, including 0 for missing values."""
    return {name: len(edges) + 2 for name, edges in self.edges.items()}

  def bins(self, values_NK: np.ndarray) -> dict[str, np.ndarray]:
    """Column of bins -> int32 [N], from 1; 0 for a missing value."""
    found = {}
    for (name, _), column_N in zip(self.ways.items(), values_NK.T, strict=True):
      if name in self.edges:
        place_N = np.searchsorted(self.edges[name], column_N) + 1
        found[name] = np.where(np.isnan(column_N), 0, place_N).astype(np.int32)
    return found

  def __call__(self, values_NK: np.ndarray) -> np.ndarray:
    """float32 [N, K], the columns of `smooth` in standard deviations."""
    if self.standardizer is None:
      return np.zeros((len(values_NK), 0), np.float32)
    return self.standardizer(self._smooth(values_NK))

  def _smooth(self, values_NK: np.ndarray) -> np.ndarray:
    columns = []
    for way, column_N in zip(self.ways.values(), values_NK.T, strict=True):
      if way == 'log':
        column_N = np.sign(column_N) * np.log1p(np.abs(column_N))
      if way != 'bins':
        columns.append(column_N)
    return np.stack(columns, axis=1)


class NumberFields(nnx.Module):
  """Vectors and linear terms of standardized numbers; NaN is missing."""

  def __init__(
    self,
    ways: Sequence[str],
    dim: int,
    init_scale: float,
    *,
    rngs: nnx.Rngs,
  ):
    """Creates the parameters of columns, each linear, autodis or dense."""

    def normal(scale: float, *shape: int) -> nnx.Param[jax.Array]:
      return nnx.Param(scale * jax.random.normal(rngs.params(), shape))

    fields = [way for way in ways if way != 'dense']
    self.dense = tuple(k for k, way in enumerate(ways) if way == 'dense')
    self.fields = tuple(k for k, way in enumerate(ways) if way != 'dense')
    self.soft = tuple(f for f, way in enumerate(fields) if way == 'autodis')
    K, F, S, H = len(ways), len(fields), len(self.soft), _NUM_META
    self.weight = nnx.Param(jnp.zeros(K))
    self.missing_weight = nnx.Param(jnp.zeros(K))
    if F:
      self.missing = nnx.Param(jnp.zeros((F, dim)))
      self.vectors = normal(init_scale, F, dim)
    if S:
      self.up = normal(1.0, S, H)
      self.mix = normal(H**-0.5, S, H, H)
      self.meta = normal(init_scale, S, H, dim)

  def __call__(self, x_BK: jax.Array, x: Inputs) -> Inputs:
    """Adds vectors [B, F, D], linear terms and dense numbers to the inputs."""
    is_missing_BK = jnp.isnan(x_BK)
    x_BK = jnp.where(is_missing_BK, 0, x_BK)
    linear_BK = jnp.where(
      is_missing_BK, self.missing_weight[None], x_BK * self.weight[None]
    )
    x = x._replace(first_order_B=x.first_order_B + linear_BK.sum(axis=1))
    if self.dense:
      x = x._replace(dense_BX=x_BK[:, np.array(self.dense)])
    if not self.fields:
      return x
    if self.dense:
      fields = np.array(self.fields)
      x_BK, is_missing_BK = x_BK[:, fields], is_missing_BK[:, fields]
    found_BFD = x_BK[..., None] * self.vectors[None]
    if self.soft:
      soft = np.array(self.soft)
      l_BSH = jax.nn.leaky_relu(x_BK[:, soft, None] * self.up[None])
      score_BSH = jnp.einsum('bsh,shj->bsj', l_BSH, self.mix[...])
      share_BSH = jax.nn.softmax(score_BSH + _SKIP * l_BSH, axis=-1)
      mixed = jnp.einsum('bsh,shd->bsd', share_BSH, self.meta[...])
      found_BFD = found_BFD.at[:, soft].set(mixed, unique_indices=True)
    missing = is_missing_BK[..., None]
    found_BFD = jnp.where(missing, self.missing[None], found_BFD)
    fields_BFD = jnp.concatenate([x.fields_BFD, found_BFD], axis=1)
    return x._replace(fields_BFD=fields_BFD)
