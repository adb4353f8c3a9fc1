# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The interface of embedding tables for a training step."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
from jax.sharding import Mesh
import numpy as np

from antjax.embedding.home import Home

PyTree = Any


class SparseTables(Protocol):
  """Interface of embedding tables for a step; see `antjax.embedding`."""

  @property
  def mesh(self) -> Mesh: ...
  @property
  def home(self) -> Home | None: ...
  @property
  def features(self) -> Mapping[str, Any]: ...
  @property
  def shapes(self) -> PyTree: ...
  def init(self, key: jax.Array) -> PyTree: ...
  def reset_rows(
    self, state: PyTree, ids: Mapping[str, np.ndarray], key: jax.Array
  ) -> PyTree: ...
  def partition_specs(self) -> PyTree: ...
  def shardings(self) -> PyTree: ...
  def prepare(self, ids: PyTree, num_devices: int) -> tuple[PyTree, PyTree]: ...
  def fetch(self, state: PyTree, routing: PyTree) -> tuple[PyTree, PyTree]: ...
  def push(
    self,
    state: PyTree,
    routing: PyTree,
    rounds: PyTree,
    grads: PyTree,
    step: jax.Array,
    is_active: jax.Array,
    lr_scale: jax.Array | None = None,
  ) -> PyTree: ...
  def to_canonical(self, state: PyTree) -> PyTree: ...
  def from_canonical(self, tables: PyTree) -> PyTree: ...
  def canonical_shardings(self) -> PyTree: ...
  def canonical_shapes(self) -> PyTree: ...
  def bytes_per_device(self) -> Mapping[str, int]: ...


def home_of(tables: SparseTables | None) -> Home | None:
  """Home of the tables' rows, if there are tables larger than the devices."""
  return None if tables is None else tables.home
