# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Per-device code with explicit collectives."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from antjax.mesh.mesh import BATCH_AXES


def manual(
  fn: Callable[..., Any],
  mesh: Mesh,
  in_specs: Any,
  out_specs: Any,
  *,
  check_vma: bool = True,
) -> Callable[..., Any]:
  """`jax.shard_map` over `inter` and `intra`; other axes stay automatic.

  A mesh that the caller has set by `jax.set_mesh`, possibly with other names
  for these axes, has no effect inside.
  """
  mapped = jax.shard_map(
    fn,
    mesh=mesh,
    in_specs=in_specs,
    out_specs=out_specs,
    axis_names=set(BATCH_AXES),
    check_vma=check_vma,
  )

  def call(*args: Any) -> Any:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return mapped(*args)

  return call
