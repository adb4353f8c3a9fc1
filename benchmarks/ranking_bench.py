# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exact full ranking over many items, beside the products that it must do.

  python -m benchmarks.ranking_bench

prints one JSON line for random vectors, 10^6 items by default:

- `items_per_s`: items ranked for all users of the turn, a second; history
  masked, ties counted; median of the turns.
- `bound_items_per_s`: the same blocks, where each is only multiplied with the
  users' vectors and the products are thrown away.
- `ratio`: of the two; turns of both alternate.
- `extra_bytes`: by how much the process grew beyond the vectors, at most, while
  it ranked; `score_bytes` is a block of scores.

One process, all its devices. Compilation is outside of the times.
"""

import statistics
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from antjax.ctr.llm_rec import ranking
from benchmarks import harness

_ITEMS = flags.DEFINE_integer('num_items', 1_000_000, 'Size of the catalog.', 2)
_USERS = flags.DEFINE_integer('num_users', 1024, 'Ranked at once.', 1)
_DIM = flags.DEFINE_integer('dim', 384, 'Width of the vectors.', 1)
_SEEN = flags.DEFINE_integer('num_seen', 100, 'Items of a history.', 1)
_BLOCK = flags.DEFINE_integer('block_items', 16_384, 'Items at a time.', 1)
_TURNS = flags.DEFINE_integer('num_turns', 3, 'Turns of each side.', 1)


def _vectors(rng: np.random.Generator, num: int) -> np.ndarray:
  """float32 [num, D], without a larger copy of it in between."""
  found = np.empty((num, _DIM.value), np.float32)
  for first in range(0, num, 4096):
    part = found[first : first + 4096]
    rng.standard_normal(dtype=np.float32, out=part)
  return found


@jax.jit
def _multiply(users_BD: jax.Array, items_ID: jax.Array) -> jax.Array:
  return jnp.einsum('bd,id->bi', users_BD, items_ID, precision='highest')


def _products(users: np.ndarray, items: np.ndarray) -> float:
  """Seconds to multiply users with all items, block by block."""
  start = time.perf_counter()
  on_device = jax.device_put(users)
  for first in range(0, len(items), _BLOCK.value):
    block = jax.device_put(items[first : first + _BLOCK.value])
    _multiply(on_device, block).block_until_ready()
  return time.perf_counter() - start


def main(argv: list[str]) -> None:
  facts = harness.start(argv)
  rng = np.random.default_rng(0)
  num_items, num_users = _ITEMS.value, _USERS.value
  items, users = _vectors(rng, num_items), _vectors(rng, num_users)
  targets = rng.integers(1, num_items, num_users)
  seen = rng.integers(1, num_items, (num_users, _SEEN.value))

  def rank(items: np.ndarray) -> float:
    start = time.perf_counter()
    ranking.full_ranks(
      users,
      items,
      np.minimum(targets, len(items) - 1),
      np.minimum(seen, len(items) - 1),
      block_items=_BLOCK.value,
      block_users=num_users,
    )
    return time.perf_counter() - start

  # Both compile for these blocks; the last one may be shorter.
  head = items[: 2 * _BLOCK.value]
  rank(head)
  _products(users, head)
  _products(users, items[len(items) - len(items) % _BLOCK.value :])
  before = harness.peak_bytes()
  rank(items)
  extra = harness.peak_bytes() - before
  turns = {
    'ranked': lambda: rank(items),
    'bound': lambda: _products(users, items),
  }
  seconds = harness.alternate(turns, _TURNS.value)
  rank_s, bound_s = (statistics.median(x) for x in seconds.values())
  result = {
    'bench': 'full_ranking',
    'num_items': num_items,
    'num_users': num_users,
    'dim': _DIM.value,
    'num_seen': _SEEN.value,
    'block_items': _BLOCK.value,
    'items_per_s': round(num_items / rank_s),
    'bound_items_per_s': round(num_items / bound_s),
    'ratio': round(bound_s / rank_s, 3),
    'gflop_per_s': round(2e-9 * num_items * num_users * _DIM.value / rank_s, 1),
    'vector_bytes': items.nbytes + users.nbytes,
    'extra_bytes': extra,
    'score_bytes': 4 * num_users * min(_BLOCK.value, num_items),
    'device': harness.device_name()
    if jax.default_backend() == 'cpu'
    else jax.devices()[0].device_kind,
    'jax': jax.__version__,
  }
  harness.emit(facts | result)


if __name__ == '__main__':
  app.run(main)
