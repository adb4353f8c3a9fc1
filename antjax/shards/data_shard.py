# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shards of a data set, and the seeded order of shards and of their records.

A data set of N records is divided into shards, contiguous ranges of records,
that a ledger leases to workers one by one (AntDT's stateful dynamic data
sharding, https://arxiv.org/abs/2404.09679). Orders come from a hash, so they
are the same on every version and machine.
"""

import dataclasses
import functools

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SHARDS, _RECORDS = 0, 1  # What is in order: other hashes for each.
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class DataShard:
  """The records start <= index < stop in one epoch."""

  index: int  # start // shard_size.
  start: int
  stop: int
  epoch: int  # From 0.

  def __len__(self) -> int:
    return self.stop - self.start


def num_shards(num_records: int, shard_size: int) -> int:
  """Returns the number of shards; the last one may be smaller."""
  return -(-num_records // shard_size)


def shard_order(shards: int, seed: int, epoch: int) -> np.ndarray:
  """Returns the shard index [S] at each position of an epoch's own order."""
  return _seeded_order(np.arange(shards), seed, epoch, _SHARDS).astype(np.int32)


@functools.lru_cache(maxsize=4)
def shard_positions(shards: int, seed: int, epoch: int) -> np.ndarray:
  """Returns the position [S] of each shard: the inverse of `shard_order`."""
  inverse = np.empty(shards, np.int32)
  inverse[shard_order(shards, seed, epoch)] = np.arange(shards)
  return inverse


def shard_position(index: int, shards: int, seed: int, epoch: int) -> int:
  """Returns the position of one shard, in little memory and without a sort."""
  own = _hashes(np.array([index]), seed, epoch, _SHARDS)
  blocks = range(0, shards, _BLOCK)
  parts = (np.arange(at, min(shards, at + _BLOCK)) for at in blocks)
  return sum(int((_hashes(p, seed, epoch, _SHARDS) < own).sum()) for p in parts)


def record_order(start: int, stop: int, seed: int, epoch: int) -> np.ndarray:
  """Returns the records start <= index < stop in their seeded order."""
  return start + _seeded_order(np.arange(start, stop), seed, epoch, _RECORDS)


def _seeded_order(
  values: np.ndarray, seed: int, epoch: int, salt: int
) -> np.ndarray:
  """Returns the order of `values` by a hash."""
  # All hashes differ: it is a bijection.
  return np.argsort(_hashes(values, seed, epoch, salt))


def _hashes(values: np.ndarray, seed: int, epoch: int, salt: int) -> np.ndarray:
  key = np.array([salt], np.uint64)
  for part in (seed, epoch):
    key = mix((key + np.array([part % 2**64], np.uint64)) * GOLDEN + GOLDEN)
  return mix(values.astype(np.uint64) * GOLDEN + key)


def mix(x: np.ndarray) -> np.ndarray:
  """SplitMix64's finalizer: uint64 -> uint64 of the same shape."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
