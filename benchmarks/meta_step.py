# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax's side of `benchmarks.meta_bench`."""

from collections.abc import Callable
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from antjax.collectives import bucket, transition
from antjax.layers import fast_weights, mlp
from antjax.mesh import mesh as mesh_lib
from antjax.meta import maml
from benchmarks import meta_problem


def make_step(
  case: meta_problem.Case, num_support: int, arrays: dict[str, np.ndarray]
) -> Callable[[], tuple[Any, dict[str, Any]]]:
  """Returns our step on a problem of `meta_problem.make`."""
  num_layers = sum(name.startswith('w') for name in arrays)
  widths = [arrays[f'w{i}'].shape[1] for i in range(num_layers)]
  graphdef, params = nnx.split(
    mlp.MLP(
      arrays['w0'].shape[0], widths, activate_last=False, rngs=nnx.Rngs(0)
    )
  )
  names = {
    f'layers/{i}/{leaf}': f'{short}{i}'
    for i in range(num_layers)
    for leaf, short in (('kernel', 'w'), ('bias', 'b'))
  }
  params = fast_weights.replace_leaves(
    params, {leaf: jnp.asarray(arrays[short]) for leaf, short in names.items()}
  )
  inner = maml.InnerLoop(
    num_steps=case.inner_steps,
    learning_rate=meta_problem.LEARNING_RATE,
    order=case.order,
    adapt=case.adapted,
  )

  def loss(model, rows, part):
    if case.adapted == 'mlp':
      x = part['vectors']
    else:
      x = rows['row'][part['index']]
    logits = model(x.reshape(*x.shape[:-2], -1))[..., 0]
    return optax.sigmoid_binary_cross_entropy(logits, part['label']).mean()

  def task_loss(params, task_rows, support, query):
    model, rows = maml.adapt_task(
      loss,
      params,
      task_rows,
      support,
      inner,
      merge_fn=functools.partial(nnx.merge, graphdef),
    )
    return loss(model, rows, query)

  def mean_loss(params, rows, batch):
    task_rows, parts = {}, {'label': batch['label']}
    if case.adapted == 'mlp':
      parts['vectors'] = rows[batch['index']]
    else:
      parts['index'] = batch['task_index']
      task_rows = {'row': rows[batch['task_rows']]}
    support, query = (
      {name: x[:, cut] for name, x in parts.items()}
      for cut in (slice(None, num_support), slice(num_support, None))
    )
    losses = jax.vmap(task_loss, (None, 0, 0, 0))(
      params, task_rows, support, query
    )
    return losses.mean()

  num_tasks = len(arrays['label'])
  num_devices = max(
    d for d in range(1, jax.device_count() + 1) if num_tasks % d == 0
  )
  mesh = mesh_lib.make_mesh(
    intra=num_devices, devices=jax.devices()[:num_devices]
  )

  def local(params, rows, batch):
    whole = jax.tree.map(transition.to_varying, (params, rows))
    result = jax.value_and_grad(mean_loss, (0, 1))(*whole, batch)
    leaves, treedef = jax.tree.flatten(result)
    total = jax.lax.psum(bucket.pack(leaves), mesh.axis_names)
    return treedef.unflatten(
      bucket.unpack(total / num_devices, [x.shape for x in leaves])
    )

  step = jax.jit(
    jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(P(), P(), P(mesh_lib.BATCH_AXES)),
      out_specs=P(),
    )
  )
  names_of_batch = ('index', 'task_rows', 'task_index', 'label')
  batch = jax.device_put(
    {name: arrays[name] for name in names_of_batch},
    NamedSharding(mesh, P(mesh_lib.BATCH_AXES)),
  )
  params, rows = jax.device_put(
    (params, arrays['rows']), NamedSharding(mesh, P())
  )

  def run():
    value, (grads, row_grads) = jax.block_until_ready(step(params, rows, batch))
    leaves = fast_weights.named_leaves(grads)
    named = {short: leaves[leaf] for leaf, short in names.items()}
    return value, named | {'rows': row_grads}

  return run
