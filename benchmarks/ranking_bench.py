# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exact full ranking over many items, compared with its products alone.

  python -m benchmarks.ranking_bench

prints one JSON line for random vectors, 10^6 items by default:

- `items_per_s`: items ranked per second for all users of a turn, with masked
  histories and counted ties; median of the turns.
- `bound_items_per_s`: the same blocks, only multiplied with the users' vectors,
  discarding the products.
- `ratio`: ratio of the two; their turns alternate.
- `extra_bytes`: maximum growth of the process beyond the vectors during
  ranking; `score_bytes` is the size of a block of scores.

Uses one process with all its devices. Compilation is not timed.
"""

import dataclasses
import statistics
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from antjax.ctr.llm_rec import ranking
from benchmarks import harness, machine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  num_items: Annotated[int, 'Size of the catalog.'] = 1_000_000
  num_users: Annotated[int, 'Ranked at once.'] = 1024
  dim: Annotated[int, 'Width of the vectors.'] = 384
  num_seen: Annotated[int, 'Items of a history.'] = 100
  block_items: Annotated[int, 'Items at a time.'] = 16_384
  num_turns: Annotated[int, 'Turns of each side.'] = 3


@jax.jit
def _multiply(users_BD: jax.Array, items_ID: jax.Array) -> jax.Array:
  return jnp.einsum('bd,id->bi', users_BD, items_ID, precision='highest')


def main(config: Config) -> None:
  facts = harness.start()
  rng = np.random.default_rng(0)
  num_items, num_users = config.num_items, config.num_users
  block = config.block_items
  items, users = (
    rng.standard_normal((num, config.dim), dtype=np.float32)
    for num in (num_items, num_users)
  )
  targets = rng.integers(1, num_items, num_users)
  seen = rng.integers(1, num_items, (num_users, config.num_seen))

  def rank(items: np.ndarray) -> None:
    last = len(items) - 1
    ranking.full_ranks(
      users,
      items,
      np.minimum(targets, last),
      np.minimum(seen, last),
      block_items=block,
      block_users=num_users,
    )

  def multiply(items: np.ndarray) -> None:
    """Multiplies users with items, block by block."""
    on_device = jax.device_put(users)
    for first in range(0, len(items), block):
      part = jax.device_put(items[first : first + block])
      _multiply(on_device, part).block_until_ready()

  # Both compile for these blocks, of which the last may be shorter.
  rank(items[: 2 * block])
  multiply(items[: 2 * block])
  multiply(items[num_items - num_items % block :])
  before = machine.peak_bytes()
  rank(items)
  extra = machine.peak_bytes() - before
  seconds = harness.alternate(
    {
      'ranked': lambda: harness.timed(lambda: rank(items)),
      'bound': lambda: harness.timed(lambda: multiply(items)),
    },
    config.num_turns,
  )
  rank_s, bound_s = (statistics.median(x) for x in seconds.values())
  result = {
    'bench': 'full_ranking',
    **dataclasses.asdict(config),
    'items_per_s': round(num_items / rank_s),
    'bound_items_per_s': round(num_items / bound_s),
    'ratio': bound_s / rank_s,
    'gflop_per_s': 2e-9 * num_items * num_users * config.dim / rank_s,
    'vector_bytes': items.nbytes + users.nbytes,
    'extra_bytes': extra,
    'score_bytes': 4 * num_users * min(block, num_items),
  }
  if jax.default_backend() != 'cpu':
    result['device'] = jax.devices()[0].device_kind
  harness.emit(facts | result)


if __name__ == '__main__':
  harness.run(main, Config())
