# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exchange of arrays, JSON values or bytes between the processes of a job."""

from collections.abc import Mapping
import io
import json
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np


def gather_json(value: Any) -> list[Any]:
  """Every process's JSON value, in the order of processes."""
  return [json.loads(x) for x in gather_bytes(json.dumps(value).encode())]


def gather_arrays(
  arrays: Mapping[str, np.ndarray],
) -> list[dict[str, np.ndarray]]:
  """Every process's arrays by name, in the order of processes."""
  file = io.BytesIO()
  np.savez(file, **arrays)  # type: ignore[arg-type]
  # NumPy forgets what bfloat16 and the like are.
  dtypes = gather_json({name: x.dtype.name for name, x in arrays.items()})
  every = []
  for data, names in zip(gather_bytes(file.getvalue()), dtypes, strict=True):
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
      every.append(
        {
          name: x.view(jnp.dtype(names[name])) if x.dtype.kind == 'V' else x
          for name, x in archive.items()
        }
      )
  return every


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
