# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How each leaf adapts: by low-rank pairs, or as a copy per task.

Decides for `antjax.layers.fast_weights`, from one abstract forward pass in
which each linear layer reads a token of its own in place of kernel and bias. A
kernel that is still read is used elsewhere, and the tokens show what the inputs
of a layer depend on.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

from absl import logging
from flax import nnx
import jax
import jax.numpy as jnp

PyTree = Any
MergeFn = Callable[[PyTree], nnx.Module]
LossFn = Callable[[nnx.Module, PyTree, PyTree], jax.Array]


@dataclasses.dataclass(frozen=True)
class LowRank:
  """Static description of a linear layer that adapts by pairs.

  Attributes:
    outputs: Shape and dtype of its pre-activations, one per call.
    bias: Path of the bias that adapts by the same pairs, or None.
    constant: Whether the layer's inputs depend on no adapted leaf, so that they
      are the same at every step.
  """

  outputs: tuple[jax.ShapeDtypeStruct, ...]
  bias: str | None
  constant: bool


@dataclasses.dataclass(frozen=True)
class AdaptPlan:
  """Static description of which leaves adapt, and how.

  Attributes:
    plain: Paths of the leaves that adapt as copies.
    low_rank: Path of a kernel -> how its layer adapts.
    adapt_rows: Whether the rows adapt (as copies).
  """

  plain: tuple[str, ...]
  low_rank: Mapping[str, LowRank]
  adapt_rows: bool


def path_name(path: tuple[Any, ...]) -> str:
  """'layers/0/kernel' for a key path of `jax.tree_util`."""
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  # `nnx.Variable` is a pytree node with one child, whose key is no name.
  return name.removesuffix('/value')


def named_leaves(params: PyTree) -> dict[str, jax.Array]:
  """The leaves of a pytree by name, in tree order."""
  flat, _ = jax.tree_util.tree_flatten_with_path(params)
  return {path_name(path): leaf for path, leaf in flat}


def replace_leaves(params: PyTree, leaves: Mapping[str, jax.Array]) -> PyTree:
  """`params` with the named leaves replaced."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaves.get(path_name(path), leaf), params
  )


def make_plan(
  loss_fn: LossFn,
  merge_fn: MergeFn,
  params: PyTree,
  rows: PyTree,
  data: PyTree,
  *,
  adapted: frozenset[str],
  adapt_rows: bool,
) -> AdaptPlan:
  """Decides, by one abstract forward pass, how each leaf adapts.

  A kernel [I, O] adapts by pairs if those of a step, I + O numbers per support
  row, are fewer numbers than I O; a head of width one is copied instead. May be
  called inside `vmap`, `grad`, `jit` and `shard_map`.

  Args:
    loss_fn: Function (model, rows, data) -> scalar.
    merge_fn: params -> a new module, e.g. `partial(nnx.merge, graphdef)`.
    params: Parameters before any step.
    rows: Embedding rows of the task, or an empty pytree.
    data: Support data of one task.
    adapted: Names of the leaves of `params` that adapt.
    adapt_rows: Whether `rows` adapt.

  Raises:
    ValueError: `merge_fn` does not return an `nnx.Module`.
  """
  leaves = named_leaves(params)
  outputs: dict[str, list[jax.ShapeDtypeStruct]] = {}
  biases = _kernels(merge_fn, params, adapted)

  def abstract_loss(moving):
    model = merge_fn(replace_leaves(params, moving['leaves']))
    inputs: dict[str, list[jax.Array]] = {}
    for path, layer in linear_layers(model, biases):
      outputs[path], inputs[path] = [], []
      token = moving['tokens'][path]
      layer.dot_general = _record_calls(
        layer.dot_general, token, outputs[path], inputs[path]
      )
      if biases[path] is not None:
        layer.promote_dtype = _hide_bias(layer.promote_dtype)
    return loss_fn(model, moving.get('rows', rows), data), inputs

  moving = {
    'leaves': {path: x for path, x in leaves.items() if path in adapted},
    'tokens': {path: jnp.zeros(()) for path in biases},
  }
  if adapt_rows:
    moving['rows'] = rows
  closed, shape = jax.make_jaxpr(abstract_loss, return_shape=True)(moving)
  jaxpr = closed.jaxpr
  variables = jax.tree.unflatten(jax.tree.structure(moving), jaxpr.invars)
  _, inputs = jax.tree.unflatten(jax.tree.structure(shape), jaxpr.outvars)
  used, moved = _used_inputs(jaxpr), _moved(jaxpr)

  def used_elsewhere(path):
    if variables['leaves'][path] not in used:
      return False
    logging.info(
      'fast_weights: %s adapts as a per-task copy: it is read elsewhere'
      ' than by its own layer, or that layer runs inside an inner scan,'
      ' vmap, jit or checkpoint.',
      path,
    )
    return True

  low_rank = {}
  for path, bias in biases.items():
    if used_elsewhere(path) or not _pays(leaves[path].shape, outputs[path]):
      continue
    if bias is not None and used_elsewhere(bias):
      bias = None
    constant = bool(inputs[path]) and not moved & _variables(inputs[path])
    low_rank[path] = LowRank(tuple(outputs[path]), bias, constant)
  paired = {*low_rank, *(layer.bias for layer in low_rank.values())}
  plain = tuple(p for p in leaves if p in adapted and p not in paired)
  return AdaptPlan(plain=plain, low_rank=low_rank, adapt_rows=adapt_rows)


def linear_layers(model, kernels):
  """Yields (path of the kernel, layer) for the linear layers of `kernels`."""
  for path, module in nnx.iter_modules(model):
    name = '/'.join((*map(str, path), 'kernel'))
    if isinstance(module, nnx.Linear) and name in kernels:
      yield name, module


def _pays(kernel_shape, outputs):
  num_rows = sum(math.prod(spec.shape[:-1]) for spec in outputs)
  return num_rows * sum(kernel_shape) < math.prod(kernel_shape)


def _record_calls(dot_general, token, outputs, inputs):
  """Wraps a layer's `dot_general`: records calls, does not read the kernel."""
  level = nnx.tracers.current_jax_trace()

  def dot(x, kernel, dimension_numbers, **kwargs):
    if nnx.tracers.current_jax_trace() != level:
      return dot_general(x, kernel, dimension_numbers, **kwargs)
    y = jax.eval_shape(
      lambda x, kernel: dot_general(x, kernel, dimension_numbers, **kwargs),
      x,
      kernel,
    )
    outputs.append(jax.ShapeDtypeStruct(y.shape, y.dtype))
    inputs.append(x)
    # The output still depends on x, and so on the tokens in x.
    stand_in = jnp.broadcast_to(x.sum(axis=-1, keepdims=True), y.shape)
    return (stand_in + token).astype(y.dtype)

  return dot


def _hide_bias(promote_dtype):
  """Wraps a layer's `promote_dtype`: the layer does not read its bias."""
  level = nnx.tracers.current_jax_trace()

  def promote(args, **kwargs):
    x, kernel, bias = args
    if nnx.tracers.current_jax_trace() == level:
      bias = jnp.zeros(bias.shape, bias.dtype)
    return promote_dtype((x, kernel, bias), **kwargs)

  return promote


def _kernels(merge_fn, params, adapted):
  """Path of an adapted kernel -> path of its bias, if pairs can adapt it."""
  biases: dict[str, str | None] = {}

  def visit(params):
    model = merge_fn(params)
    if not isinstance(model, nnx.Module):
      raise ValueError(
        f'merge_fn: got a {type(model).__name__}; an nnx.Module is needed,'
        ' e.g. merge_fn=functools.partial(nnx.merge, graphdef). For other'
        ' models leave merge_fn out: they adapt in the plain form.'
      )
    for path, layer in linear_layers(model, adapted):
      bias = path.removesuffix('kernel') + 'bias'
      # A subclass may do more between its product and its bias.
      ordinary = type(layer).__call__ is nnx.Linear.__call__
      biases[path] = bias if ordinary and bias in adapted else None
    return ()

  jax.eval_shape(visit, params)
  return biases


def _variables(atoms):
  """The atoms that are not literals."""
  return {atom for atom in atoms if not hasattr(atom, 'val')}


def _used_inputs(jaxpr):
  """The variables that the outputs of a jaxpr depend on."""
  used = _variables(jaxpr.outvars)
  for eqn in reversed(jaxpr.eqns):
    if eqn.effects or not used.isdisjoint(eqn.outvars):
      used |= _variables(eqn.invars)
  return used


def _moved(jaxpr):
  """The variables that depend on an input of a jaxpr."""
  moved = set(jaxpr.invars)
  for eqn in jaxpr.eqns:
    # Results of effects may differ between steps.
    if eqn.effects or moved & _variables(eqn.invars):
      moved.update(eqn.outvars)
  return moved
