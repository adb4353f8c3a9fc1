# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exact low-rank fast weights: adapt linear layers without copying them.

A linear layer that takes one gradient step on S rows changes by a matrix of
rank <= S. With H the layer's input and D the gradient of its pre-activation,

    x (W - a H^T D)  =  x W - a (x H^T) D,

so the pair (H [S, in], D [S, out]) stands for the adapted kernel [in, out].
K steps keep K pairs. D comes from differentiating with respect to zero probes
added to the pre-activations, so neither the kernel's gradient nor a per-task
copy of the kernel ever exists, and `x W` stays one matrix product for all
tasks under `jax.vmap`. The form is exact, in first and in second order.

It works on any `nnx.Module` built of `nnx.Linear`: a model is merged anew for
each forward pass and the `dot_general` attribute of its linear layers, which
Flax offers for this, is replaced on that copy. Every other leaf (biases,
norms, embedding rows) adapts plainly. A kernel that is also read elsewhere
(tied weights) or whose layer runs inside an inner `scan`, `vmap`, `jit` or
`checkpoint` adapts plainly too; one log line names it.

Cost of a step, S support rows, Q query rows: (S + Q) S (in + out)
multiply-adds a layer, against (S + Q) in out in the plain form.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from absl import logging
from flax import nnx
import jax
import jax.numpy as jnp

from antjax.collectives import transition

# Shape suffixes: S = support rows (all calls of a layer flattened), I = input
# width of a layer, O = output width.

PyTree = Any
MergeFn = Callable[[PyTree], nnx.Module]
LossFn = Callable[[nnx.Module, PyTree, PyTree], jax.Array]
RateFn = Callable[[str], jax.Array | float]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FastWeights:
  """What a task changed. All of it is differentiable.

  Attributes:
    leaves: path -> adapted copy of a leaf that adapts plainly.
    rows: adapted embedding rows of the task, or whatever was passed for them.
    pairs: path of a kernel -> one (H [S, I], a D [S, O]) per step and call.
  """

  leaves: dict[str, jax.Array]
  rows: PyTree
  pairs: dict[str, tuple[tuple[jax.Array, jax.Array], ...]]


@dataclasses.dataclass(frozen=True)
class Plan:
  """Which leaves adapt, and how; static.

  Attributes:
    plain: paths of the leaves that adapt as copies.
    low_rank: path of a kernel -> shape and dtype of each pre-activation of
      its layer, one a call.
    adapt_rows: whether the rows adapt (as copies).
  """

  plain: tuple[str, ...]
  low_rank: Mapping[str, tuple[jax.ShapeDtypeStruct, ...]]
  adapt_rows: bool


def path_name(path: tuple[Any, ...]) -> str:
  """Returns 'layers/0/kernel' for a key path of `jax.tree_util`."""
  names = []
  for key in path:
    name = getattr(key, 'key', getattr(key, 'idx', getattr(key, 'name', key)))
    names.append(str(name))
  # `nnx.Variable` is a pytree node with one child, which says nothing.
  if len(names) > 1 and names[-1] == 'value':
    names.pop()
  return '/'.join(names)


def named_leaves(params: PyTree) -> dict[str, jax.Array]:
  """Returns the leaves of a pytree by name, in the order of the tree."""
  flat, _ = jax.tree_util.tree_flatten_with_path(params)
  return {path_name(path): leaf for path, leaf in flat}


def replace_leaves(params: PyTree, leaves: Mapping[str, jax.Array]) -> PyTree:
  """Returns `params` with the named leaves replaced."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaves.get(path_name(path), leaf), params
  )


def match_varying(tree: PyTree, reference: PyTree) -> PyTree:
  """Makes leaves vary over the mesh axes that `reference` varies over.

  Inside `shard_map` the gradient with respect to a value that is equal on all
  devices is summed over them. An inner step belongs to one device's tasks and
  must not be, so what it differentiates is made varying first. Outside of
  `shard_map` this does nothing.
  """
  axes = transition.varying_axes(*jax.tree.leaves(reference))

  def cast(x):
    missing = tuple(sorted(axes - transition.varying_axes(x)))
    return jax.lax.pcast(x, missing, to='varying') if missing else x

  return jax.tree.map(cast, tree)


def descend(
  value: jax.Array, grad: jax.Array, rate: jax.Array | float
) -> jax.Array:
  """Returns `value` after a gradient step, in its own dtype."""
  return value - jnp.asarray(rate, value.dtype) * grad.astype(value.dtype)


def make_plan(
  loss_fn: LossFn,
  merge_fn: MergeFn,
  params: PyTree,
  rows: PyTree,
  data: PyTree,
  *,
  adapted: frozenset[str],
  adapt_rows: bool,
) -> Plan:
  """Finds out, by one abstract forward pass, how each leaf can adapt.

  Args:
    loss_fn: (model, rows, data) -> scalar.
    merge_fn: params -> a fresh module, e.g. `partial(nnx.merge, graphdef)`.
    params: the parameters.
    rows: embedding rows of the task, or an empty pytree.
    data: support data of one task.
    adapted: names of the leaves of `params` that adapt.
    adapt_rows: whether `rows` adapt.

  Returns:
    The plan. May be called inside `vmap`, `grad`, `jit` and `shard_map`.

  Raises:
    ValueError: If `merge_fn` does not return an `nnx.Module`.
  """
  leaves = named_leaves(params)
  specs: dict[str, list[jax.ShapeDtypeStruct]] = {}

  def abstract_loss(kernels):
    model = merge_fn(replace_leaves(params, kernels))
    for path, layer in _linear_layers(model, adapted):
      specs[path] = []
      layer.dot_general = _record_calls(layer.dot_general, specs[path])
    return loss_fn(model, rows, data)

  paths = _kernel_paths(merge_fn, params, adapted)
  candidates = {path: leaves[path] for path in paths}
  jaxpr = jax.make_jaxpr(abstract_loss)(candidates).jaxpr
  # The recorders ignore the kernel, so a kernel still in use is used by
  # something else than its own layer.
  used = _used_inputs(jaxpr)
  names = sorted(candidates)  # Dicts flatten in sorted order.
  low_rank = {}
  for name, var in zip(names, jaxpr.invars, strict=True):
    if var in used:
      logging.info(
        'fast_weights: %s adapts as a per-task copy: it is read elsewhere'
        ' than by its own layer, or that layer runs inside an inner scan,'
        ' vmap, jit or checkpoint.',
        name,
      )
    else:
      low_rank[name] = tuple(specs[name])
  plain = tuple(p for p in leaves if p in adapted and p not in low_rank)
  return Plan(plain=plain, low_rank=low_rank, adapt_rows=adapt_rows)


def start(
  plan: Plan, params: PyTree, rows: PyTree, data: PyTree
) -> FastWeights:
  """Returns the fast weights before the first step: nothing has changed."""
  leaves = named_leaves(params)
  plain = {path: leaves[path] for path in plan.plain}
  if plan.adapt_rows:
    rows = match_varying(rows, data)
  return FastWeights(
    leaves=match_varying(plain, data),
    rows=rows,
    pairs=dict.fromkeys(plan.low_rank, ()),
  )


def step(
  loss_fn: LossFn,
  merge_fn: MergeFn,
  plan: Plan,
  params: PyTree,
  fast: FastWeights,
  data: PyTree,
  *,
  rate_fn: RateFn,
  order: int,
) -> FastWeights:
  """Takes one gradient step of one task.

  Args:
    loss_fn: (model, rows, data) -> scalar.
    merge_fn: see `make_plan`.
    plan: see `make_plan`.
    params: the parameters before any step.
    fast: the fast weights so far.
    data: support data of the task.
    rate_fn: name of a leaf -> its inner learning rate; rows are named
      'rows/<feature>'.
    order: 2 differentiates through the step, 1 takes it for a constant.

  Returns:
    The fast weights after the step.
  """
  probes = {
    path: tuple(
      match_varying(jnp.zeros(spec.shape, spec.dtype), (params, data))
      for spec in specs
    )
    for path, specs in plan.low_rank.items()
  }
  varying = {'leaves': fast.leaves, 'probes': probes}
  if plan.adapt_rows:
    varying['rows'] = fast.rows

  def probed_loss(varying):
    current = FastWeights(
      varying['leaves'], varying.get('rows', fast.rows), fast.pairs
    )
    model, inputs = _bind(merge_fn, plan, params, current, varying['probes'])
    return loss_fn(model, current.rows, data), inputs

  grads, inputs = jax.grad(probed_loss, has_aux=True)(varying)
  if order == 1:
    grads, inputs = jax.lax.stop_gradient((grads, inputs))

  leaves = {
    path: descend(value, grads['leaves'][path], rate_fn(path))
    for path, value in fast.leaves.items()
  }
  rows = fast.rows
  if plan.adapt_rows:
    rows = jax.tree_util.tree_map_with_path(
      lambda path, value, grad: descend(
        value, grad, rate_fn(f'rows/{path_name(path)}')
      ),
      rows,
      grads['rows'],
    )
  pairs = {}
  for path, old in fast.pairs.items():
    new = []
    for x_SI, grad in zip(inputs[path], grads['probes'][path], strict=True):
      grad_SO = grad.reshape(-1, grad.shape[-1])
      rate = jnp.asarray(rate_fn(path), grad_SO.dtype)
      new.append((x_SI, rate * grad_SO))
    pairs[path] = (*old, *new)
  return FastWeights(leaves=leaves, rows=rows, pairs=pairs)


def bind(
  merge_fn: MergeFn, plan: Plan, params: PyTree, fast: FastWeights
) -> nnx.Module:
  """Returns a module that computes with the fast weights.

  Use it at once, in the same trace; it is not meant to be split or stored.
  """
  model, _ = _bind(merge_fn, plan, params, fast, None)
  return model


def _bind(merge_fn, plan, params, fast, probes):
  model = merge_fn(replace_leaves(params, fast.leaves))
  inputs: dict[str, list[jax.Array]] = {path: [] for path in plan.low_rank}
  for path, layer in _linear_layers(model, frozenset(plan.low_rank)):
    layer.dot_general = _corrected_dot(
      layer.dot_general,
      fast.pairs[path],
      None if probes is None else probes[path],
      inputs[path],
    )
  return model, inputs


def _corrected_dot(dot_general, pairs, probes, inputs):
  """Wraps a layer's `dot_general`: adds pairs and probe, notes the input."""

  def dot(x, kernel, dimension_numbers, **kwargs):
    y = dot_general(x, kernel, dimension_numbers, **kwargs)
    precision = kwargs.get('precision')
    for h_SI, d_SO in pairs:
      scores = jnp.einsum('...i,si->...s', x, h_SI, precision=precision)
      change = jnp.einsum('...s,so->...o', scores, d_SO, precision=precision)
      y = y - change.astype(y.dtype)
    if probes is not None:
      y = y + probes[len(inputs)]
      inputs.append(x.reshape(-1, x.shape[-1]))
    return y

  return dot


def _record_calls(dot_general, specs):
  """Wraps a layer's `dot_general`: notes its output, ignores the kernel."""
  level = nnx.tracers.current_jax_trace()

  def dot(x, kernel, dimension_numbers, **kwargs):
    if nnx.tracers.current_jax_trace() != level:
      return dot_general(x, kernel, dimension_numbers, **kwargs)
    y = jax.eval_shape(
      lambda x, kernel: dot_general(x, kernel, dimension_numbers, **kwargs),
      x,
      kernel,
    )
    specs.append(jax.ShapeDtypeStruct(y.shape, y.dtype))
    # It still depends on x, and so on what x came from.
    stand_in = jnp.broadcast_to(x.sum(axis=-1, keepdims=True), y.shape)
    return stand_in.astype(y.dtype)

  return dot


def _linear_layers(model, adapted):
  for path, module in nnx.iter_modules(model):
    name = '/'.join((*map(str, path), 'kernel'))
    if isinstance(module, nnx.Linear) and name in adapted:
      yield name, module


def _kernel_paths(merge_fn, params, adapted):
  paths: list[str] = []

  def visit(params):
    model = merge_fn(params)
    if not isinstance(model, nnx.Module):
      raise ValueError(
        f'merge_fn: got a {type(model).__name__}; an nnx.Module is needed,'
        ' e.g. merge_fn=functools.partial(nnx.merge, graphdef). For other'
        ' models leave merge_fn out: they adapt in the plain form.'
      )
    paths.extend(name for name, _ in _linear_layers(model, adapted))
    return ()

  jax.eval_shape(visit, params)
  return paths


def _used_inputs(jaxpr):
  """Returns the variables that the outputs of a jaxpr depend on."""
  used = {v for v in jaxpr.outvars if not hasattr(v, 'val')}
  for eqn in reversed(jaxpr.eqns):
    if eqn.effects or not used.isdisjoint(eqn.outvars):
      used.update(v for v in eqn.invars if not hasattr(v, 'val'))
  return used
