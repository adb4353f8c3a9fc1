# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`--model.table_level=plan`: each table where the planner finds it best."""

from collections.abc import Iterable, Sequence
from typing import Any

from absl import logging
from jax.sharding import Mesh

from antjax.collectives import cost_model
from antjax.embedding import planner
from antjax.embedding.layout import TableSpec
from antjax.mesh import mesh as mesh_lib
from antjax.mesh.gather import gather_json


def place_tables(
  specs: Sequence[TableSpec],
  ids: Iterable[Any],
  mesh: Mesh,
  links: cost_model.Links,
  device_bytes: float,
) -> list[TableSpec]:
  """The tables at the levels that the planner chooses; logs why.

  All processes call it and get the same.

  Args:
    specs: The tables; each is looked up by the feature of its name.
    ids: batch['ids'] of a few of this process's batches.
    mesh: The job's.
    links: Speeds of its links.
    device_bytes: Memory of a device for tables and slots.

  Raises:
    ValueError: They do not fit.
  """
  mine = planner.count_distinct(
    ids, {spec.name: spec.name for spec in specs}, len(mesh.local_devices)
  )
  # Process 0's counts and memory decide for all.
  counts, limit = gather_json([mine, device_bytes])[0]
  plans = planner.plan_tables(
    specs,
    counts,
    links,
    num_groups=mesh_lib.num_groups(mesh),
    group_size=mesh_lib.group_size(mesh),
    device_bytes=limit,
  )
  for plan in plans:
    logging.info(
      'Table %s [%d x %d], %.0f distinct rows a device and step, %s',
      plan.spec.name,
      plan.spec.num_embeddings,
      plan.spec.embedding_dim,
      counts[plan.spec.name],
      plan.reason,
    )
  return [plan.spec for plan in plans]
