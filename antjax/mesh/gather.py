# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exchange of arrays, JSON values or bytes between the processes of a job."""

from collections.abc import Mapping, Sequence
import functools
import json
import pickle
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

_WORD = 4  # Bytes of the numbers that devices exchange.


def gather_json(value: Any) -> list[Any]:
  """Every process's JSON value, in the order of processes."""
  return [json.loads(x) for x in gather_bytes(json.dumps(value).encode())]


def gather_arrays(
  arrays: Mapping[str, np.ndarray],
) -> list[dict[str, np.ndarray]]:
  """Every process's arrays by name, in the order of processes."""
  # NumPy's file format does not preserve bfloat16.
  return [pickle.loads(x) for x in gather_bytes(pickle.dumps(dict(arrays)))]


def gather_bytes(data: bytes) -> list[bytes]:
  """Every process's bytes, in the order of processes; a collective call."""
  if jax.process_count() == 1:
    return [data]
  mine = np.frombuffer(data, np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(mine.size))
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: mine.size] = mine
  every = multihost_utils.process_allgather(padded)
  return [row[:size].tobytes() for row, size in zip(every, sizes, strict=True)]


def swap_trees(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """`swap_bytes` for trees of arrays."""
  return [
    pickle.loads(x)
    for x in swap_bytes([pickle.dumps(dict(part)) for part in parts])
  ]


def swap_bytes(parts: Sequence[bytes]) -> list[bytes]:
  """Sends part p to process p; what each process sent to this one.

  A collective call: an all-gather of sizes, then an all-to-all in which every
  part is as large as the largest of all. It waits for the devices.
  """
  count = jax.process_count()
  if count == 1:
    return list(parts)
  every = multihost_utils.process_allgather(
    np.array([len(x) for x in parts], np.int32)
  )
  mesh = process_mesh()
  num_words = _rounded(-(-int(every.max()) // (_WORD * mesh.shape['local'])))
  words = np.zeros((1, count, mesh.shape['local'] * num_words), np.uint32)
  for part, row in zip(parts, words[0].view(np.uint8), strict=True):
    row[: len(part)] = np.frombuffer(part, np.uint8)
  sent = jax.make_array_from_process_local_data(
    NamedSharding(mesh, P('process', None, 'local')), words
  )
  shards = _swapper(mesh)(sent).addressable_shards
  shards = sorted(shards, key=lambda s: s.index[-1].start or 0)
  got = np.concatenate([np.asarray(s.data)[:, 0] for s in shards], axis=-1)
  sizes = every[:, jax.process_index()]
  return [
    row.tobytes()[:size] for row, size in zip(got, sizes.tolist(), strict=True)
  ]


@functools.cache
def _swapper(mesh: Mesh) -> Any:
  # From one row per sender to one column per receiver: XLA's all-to-all.
  return jax.jit(
    lambda x: x,
    out_shardings=NamedSharding(mesh, P(None, 'process', 'local')),
  )


def process_mesh() -> Mesh:
  """All devices, as axes `process` and `local`."""
  devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  shape = jax.process_count(), jax.local_device_count()
  return Mesh(np.array(devices).reshape(shape), ('process', 'local'))


def _rounded(size: int) -> int:
  """A size that is little larger and one of few: each one is compiled."""
  unit = 1 << max(0, size.bit_length() - 3)
  return max(1, -(-size // unit) * unit)
