# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exchange of arrays, JSON values or bytes between the processes of a job."""

from collections.abc import Mapping
import json
import pickle
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np


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
