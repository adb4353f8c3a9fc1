# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Encodes many texts, each once, without training.

Texts are sorted by length, padded to the next of a few lengths, and run in
batches of about equal numbers of tokens: one compiled program per length.
Packing several texts per row would need almost no padding, but scores between
all tokens of a row; we have not measured which is faster.
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

# In the order of sentence-transformers' concatenation -> their old names.
POOLINGS = {
  'cls': 'cls_token',
  'max': 'max_tokens',
  'mean': 'mean_tokens',
  'mean_sqrt_len_tokens': 'mean_sqrt_len_tokens',
  'weightedmean': 'weightedmean_tokens',
  'lasttoken': 'lasttoken',
}
# Lengths to which texts are padded. On the titles of MovieLens-1M (12.7 tokens
# on average) three layers of MiniLM take 11 % less processor time with these
# than with powers of 2 only.
LENGTHS = (
  *(4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024),
  *(1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384, 24_576, 32_768),
)
# Per device. On a CPU larger batches are no faster, and the last batch of a
# length has more padding (measured: 2,048 takes 20 % less time than 8,192).
CPU_TOKENS = 2048
# Enough to keep an accelerator busy; not measured.
DEVICE_TOKENS = 32_768


def pool(x_BTD: jax.Array, mask_BT: jax.Array, mode: str = 'mean') -> jax.Array:
  """Pools token outputs to one vector per text, fp32 [B, D]; zeros if empty.

  Args:
    x_BTD: Outputs of the tokens.
    mask_BT: Mask, 1 for the tokens that count.
    mode: One of `POOLINGS`; cls is the first token that counts; weightedmean
      weights tokens by their place, from 1 (Muennighoff 2022, SGPT).
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
  # Outputs for padding may be nan or inf, so they are not multiplied by 0.
  sums_BD = (jnp.where(mask_BT1, x_BTD, 0) * weight_BT1).sum(axis=1)
  total_B1 = jnp.maximum(weight_BT1.sum(axis=1), 1)
  root = mode == 'mean_sqrt_len_tokens'
  return sums_BD / (jnp.sqrt(total_B1) if root else total_B1)


class TextEncoder:
  """Encodes texts on all devices of this process.

  Attributes:
    dim: Width of a vector.
    max_tokens: Length of the longest text, in tokens.
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
    """Places the model on the devices; compiles nothing yet.

    Args:
      encode_fn: (model, tokens int32 [B, T], lengths int32 [B]) -> [B, D].
      model: A Flax module, or another tree of arrays in the compute dtype.
      dim: Width of a vector, D.
      max_tokens: Maximum number of tokens of a text.
      tokens_per_batch: Number of tokens per batch and device, at least one
        text; None: CPU_TOKENS or DEVICE_TOKENS.
      devices: Devices to use; None: all of this process.
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
      jax.shard_map(  # Each device encodes its texts, by fused kernels if any.
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
    """Replaces the parameters without compiling again."""
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
      offsets: int64 [n + 1]: text i is tokens[offsets[i]:offsets[i + 1]]. A
        text without tokens becomes zeros.
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
    # A batch runs on the devices while the previous one is fetched.
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
    """Places arrays on the devices, zero-padded to `num_rows` rows."""
    whole = [
      np.pad(x, [(0, num_rows - len(x))] + [(0, 0)] * (x.ndim - 1))
      for x in arrays
    ]
    return jax.device_put(whole, self._by_text)

  def _batches(
    self, lengths: np.ndarray
  ) -> Iterator[tuple[np.ndarray, int, int]]:
    """(texts, rows of the batch, tokens per row), shortest first.

    Texts of a length that do not fill a batch join the next length if this
    needs less padding than empty rows.
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
