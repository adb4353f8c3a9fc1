# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Random keys whose draws depend on an example's place in the global batch.

A loss gets one key, and draws for all examples of its micro-batch at once, as
`nnx.Dropout` does. Keys of this kind hold, beside those of Threefry, the number
of the micro-batch in the step. Row r of a draw of shape [B, ...] in the i-th
micro-batch has the key i * B + r, which is the example's place in the step's
batch. So it is the same for any numbers of devices and micro-batches.
"""

import functools

import jax
from jax.extend import random as jex_random
import jax.numpy as jnp

_THREEFRY = 'threefry2x32'


def row_key(key: jax.Array, index: jax.Array) -> jax.Array:
  """The key of a step's `index`-th micro-batch, counted over all devices.

  Args:
    key: Key of the step, equal for all of its micro-batches.
    index: Integer scalar.

  Returns:
    A key for `jax.random`. Keys that are split or folded from it number their
    rows alike. Draws of shape [] are of the micro-batch.
  """
  number = jnp.asarray(index).astype(jnp.uint32)[None]
  data = jnp.concatenate([jax.random.key_data(key), number])
  return jax.random.wrap_key_data(data, impl=_impl())


def _threefry(data: jax.Array) -> jax.Array:
  return jax.random.wrap_key_data(data[:2], impl=_THREEFRY)


def _like(keys: jax.Array, data: jax.Array) -> jax.Array:
  """Data of Threefry's keys [...], with the number of `data`: [..., 3]."""
  found = jax.random.key_data(keys)
  number = jnp.broadcast_to(data[2:], (*found.shape[:-1], 1))
  return jnp.concatenate([found, number], axis=-1)


def _seed(seed: jax.Array) -> jax.Array:
  key = jax.random.key(seed, impl=_THREEFRY)
  return _like(key, jnp.zeros(3, jnp.uint32))


def _split(data: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  return _like(jax.random.split(_threefry(data), shape), data)


def _fold_in(data: jax.Array, number: jax.Array | int) -> jax.Array:
  return _like(jax.random.fold_in(_threefry(data), number), data)


def _random_bits(
  data: jax.Array, bit_width: int, shape: tuple[int, ...]
) -> jax.Array:
  key, num = _threefry(data), shape[0] if shape else 1
  rows = data[2] * jnp.uint32(num) + jnp.arange(num, dtype=jnp.uint32)
  dtype = jnp.dtype(f'uint{bit_width}')

  def row(number: jax.Array) -> jax.Array:
    return jax.random.bits(jax.random.fold_in(key, number), shape[1:], dtype)

  return jax.vmap(row)(rows).reshape(shape)


@functools.cache
def _impl() -> object:
  return jex_random.define_prng_impl(
    key_shape=(3,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name='antjax_rows',
    tag='rows',
  )
