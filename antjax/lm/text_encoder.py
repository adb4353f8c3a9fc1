# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Vectors of many texts without training: each is computed once.

Texts are sorted by length, padded to the next of a few lengths, and go through
in batches of about equal numbers of tokens: one compiled program per length.
Several texts in a row (packing) would need next to no padding, but scores of
all tokens of the row with each other; we have not measured which is faster.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from antjax.lm import token_cache
from antjax.mesh import compiler

PyTree = Any
# Shape suffixes: B = texts, T = tokens of a text, D = width of a vector.

# In the order in which sentence-transformers joins them -> their old names.
POOLINGS = {
  'cls': 'cls_token',
  'max': 'max_tokens',
  'mean': 'mean_tokens',
  'mean_sqrt_len_tokens': 'mean_sqrt_len_tokens',
  'weightedmean': 'weightedmean_tokens',
  'lasttoken': 'lasttoken',
}
# Texts are padded to these. On the titles of MovieLens-1M (12.7 tokens on
# average) MiniLM's three layers take 11 % less processor time with them than
# with powers of 2 alone.
LENGTHS = (
  *(4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024),
  *(1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384, 24_576, 32_768),
)
# Per device. On a CPU larger batches are no faster, and the last one of a
# length is emptier (measured: 2,048 takes 20 % less time than 8,192).
CPU_TOKENS = 2048
# Enough for an accelerator to be busy; not measured.
DEVICE_TOKENS = 32_768


def token_mask(tokens_BT: jax.Array, lengths_B: jax.Array) -> jax.Array:
  """int32 [B, T]: 1 for tokens, 0 for padding behind them."""
  place_1T = jnp.arange(tokens_BT.shape[1])[None]
  return (place_1T < lengths_B[:, None]).astype(jnp.int32)


def pool(x_BTD: jax.Array, mask_BT: jax.Array, mode: str = 'mean') -> jax.Array:
  """Outputs of a text's tokens as one vector, fp32 [B, D]; zeros for no token.

  Args:
    x_BTD: Outputs of the tokens.
    mask_BT: 1 for the tokens that count.
    mode: One of `POOLINGS`; cls is the first token that counts; weightedmean
      weighs a token by its place from 1 (Muennighoff 2022, SGPT).
  """
  mask_BT1 = mask_BT[..., None] > 0
  place_1T1 = jnp.arange(x_BTD.shape[1])[None, :, None]
  if mode in ('cls', 'lasttoken'):
    far = jnp.where(mask_BT1, place_1T1, -1 if mode == 'lasttoken' else 1 << 30)
    end = far.max(1) if mode == 'lasttoken' else far.min(1)
    mask_BT1 &= place_1T1 == end[:, None]
  weight_BT1 = mask_BT1.astype(jnp.float32)
  if mode == 'weightedmean':
    weight_BT1 *= place_1T1 + 1
  x_BTD = x_BTD.astype(jnp.float32)
  if mode == 'max':
    best_BD = jnp.where(mask_BT1, x_BTD, -jnp.inf).max(axis=1)
    return jnp.where(mask_BT1.any(axis=1), best_BD, 0)
  # What comes out for padding is no number to count on: not by products.
  sums_BD = (jnp.where(mask_BT1, x_BTD, 0) * weight_BT1).sum(axis=1)
  total_B1 = jnp.maximum(weight_BT1.sum(axis=1), 1)
  root = mode == 'mean_sqrt_len_tokens'
  return sums_BD / (jnp.sqrt(total_B1) if root else total_B1)


class TextEncoder:
  """Encodes texts on all devices of this process.

  Attributes:
    dim: Width of a vector.
    max_tokens: Longest text.
  """

  def __init__(
    self,
    encode_fn: Callable[[PyTree, jax.Array, jax.Array], jax.Array],
    model: PyTree,
    *,
    dim: int,
    max_tokens: int,
    tokens_per_batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Puts the model on the devices; compiles nothing yet.

    Args:
      encode_fn: (model, tokens int32 [B, T], lengths int32 [B]) -> [B, D].
      model: A Flax module, or another tree of arrays in the compute dtype.
      dim: Width of a vector, D.
      max_tokens: Tokens of a text at most.
      tokens_per_batch: Tokens of a batch on a device, at least one text; None:
        CPU_TOKENS or DEVICE_TOKENS.
      devices: Devices to compute on; None: all of this process.
    """
    devices = jax.local_devices() if devices is None else devices
    mesh = jax.sharding.Mesh(np.asarray(devices), ('text',))
    self.dim, self.max_tokens = dim, max_tokens
    self._num_devices = len(devices)
    if tokens_per_batch is None:
      is_cpu = devices[0].platform == 'cpu'
      tokens_per_batch = CPU_TOKENS if is_cpu else DEVICE_TOKENS
    self._tokens_per_batch = tokens_per_batch
    self._everywhere = NamedSharding(mesh, PartitionSpec())
    self._by_text = NamedSharding(mesh, PartitionSpec('text'))
    by_text = self._by_text.spec
    self._encode = jax.jit(
      jax.shard_map(  # Each device its texts, by fused kernels if it has any.
        encode_fn,
        mesh=mesh,
        in_specs=(PartitionSpec(), by_text, by_text),
        out_specs=by_text,
        check_vma=False,
      ),
      compiler_options=compiler.options(mesh),
    )
    self.hold(model)

  def hold(self, model: PyTree) -> None:
    """Takes other parameters; nothing is compiled again."""
    self._model = jax.device_put(model, self._everywhere)

  def __call__(
    self,
    tokens: np.ndarray,
    offsets: np.ndarray,
    on_texts: Callable[[int], None] = lambda num_texts: None,
  ) -> np.ndarray:
    """Encodes texts.

    Args:
      tokens: int32 [all].
      offsets: int64 [n + 1]: text i is tokens[offsets[i]:offsets[i + 1]]. One
        without tokens becomes zeros.
      on_texts: Called after each batch with the number of texts so far.

    Returns:
      float32 [n, D].

    Raises:
      ValueError: A text is longer than `max_tokens`.
    """
    lengths = np.diff(offsets)
    if len(lengths) and lengths.max() > self.max_tokens:
      raise ValueError(
        f'TextEncoder: text {int(lengths.argmax())} has {lengths.max()} tokens;'
        f' max_tokens is {self.max_tokens}. Cut the texts.'
      )
    result = np.zeros((len(lengths), self.dim), np.float32)
    num_done = 0
    # One batch is on the devices while the one before is fetched.
    pending: tuple[np.ndarray, jax.Array] | None = None
    for batch in [*self._batches(lengths), None]:
      vectors = None
      if batch is not None:
        ids, num_rows, num_tokens = batch
        padded = token_cache.padded(tokens, offsets, ids, num_tokens)
        vectors = self._encode(self._model, *self._place(padded, num_rows))
      if pending is not None:
        rows, array = pending
        result[rows] = np.asarray(array)[: len(rows)]
        num_done += len(rows)
        on_texts(num_done)
      pending = None if vectors is None else (ids, vectors)
    return result

  def _place(
    self, arrays: Sequence[np.ndarray], num_rows: int
  ) -> Sequence[jax.Array]:
    """Puts arrays on the devices, with rows of zeros up to `num_rows`."""
    whole = [
      np.pad(x, [(0, num_rows - len(x))] + [(0, 0)] * (x.ndim - 1))
      for x in arrays
    ]
    return jax.device_put(whole, self._by_text)

  def _batches(
    self, lengths: np.ndarray
  ) -> Iterator[tuple[np.ndarray, int, int]]:
    """(texts, rows of the batch, tokens per row), shortest first.

    The texts of a length that fill no batch join those of the next one where
    that pads less than empty rows would.
    """
    steps = [n for n in LENGTHS if n < self.max_tokens] + [self.max_tokens]
    step_of = np.searchsorted(steps, lengths)
    step_of[lengths == 0] = -1
    ids = np.empty(0, np.int64)
    last = int(step_of.max(initial=-1))
    for step, num_tokens in enumerate(steps[: last + 1]):
      ids = np.concatenate([ids, np.flatnonzero(step_of == step)])
      a_device = max(1, self._tokens_per_batch // num_tokens)
      num_rows = a_device * self._num_devices
      while len(ids) >= num_rows:
        yield ids[:num_rows], num_rows, num_tokens
        ids = ids[num_rows:]
      empty = (num_rows - len(ids)) * num_tokens
      if len(ids) and (
        step == last or empty < len(ids) * (steps[step + 1] - num_tokens)
      ):
        yield ids, num_rows, num_tokens
        ids = ids[:0]
