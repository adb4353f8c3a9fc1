# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exact low-rank fast weights: adapt linear layers without copying them.

A linear layer that takes one gradient step on S rows changes by a matrix of
rank <= S. With H the layer's input, D the gradient of its pre-activation, and
a and b the rates of kernel and bias,

    x (W - a H^T D) + (bias - b sum(D))  =  x W + bias - (a x H^T + b) D,

so the pair (H [S, in], D [S, out]) represents the adapted kernel [in, out] and
the adapted bias. K steps keep K pairs, or one if H is the same at each step. D
is the gradient with respect to zero probes added to the pre-activations, so
neither the kernel's gradient nor a per-task copy of the kernel ever exists, and
`x W` stays one matrix product for all tasks under `jax.vmap`. The form is
exact, in first and in second order.

A layer whose input depends on no adapted leaf, such as the first one if
embedding rows do not adapt, also computes `x W` and `x H^T` once for all steps,
in the forward and the backward pass.

This works for any `nnx.Module` built of `nnx.Linear`: the model is merged again
for each forward pass, and on that copy we replace the `dot_general` attribute
of its linear layers, a hook of Flax. Every other leaf (norms, embedding rows,
kernels too small to gain) adapts plainly. A kernel that is also read elsewhere
(tied weights) or whose layer runs inside an inner `scan`, `vmap`, `jit` or
`checkpoint` adapts plainly too; one log line names it. The decision is made in
`antjax.layers.fast_plan`.

Cost of a step, S support rows, Q query rows: (S + Q) S (in + out)
multiply-adds per layer, against (S + Q) in out in the plain form.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.collectives import transition
from antjax.layers import fast_plan

# Shape suffixes: S = support rows (all calls of a layer flattened), I = input
# width of a layer, O = output width.

PyTree = Any
RateFn = Callable[[str], jax.Array | float]
MergeFn = fast_plan.MergeFn
LossFn = fast_plan.LossFn
AdaptPlan = fast_plan.AdaptPlan

make_plan = fast_plan.make_plan
named_leaves = fast_plan.named_leaves
path_name = fast_plan.path_name
replace_leaves = fast_plan.replace_leaves


class Call(NamedTuple):
  """Known results of a layer's call that depend on no adapted leaf.

  Attributes:
    product: x W [..., O].
    scores: x H^T [..., S]; None before the first pair.
  """

  product: jax.Array | None
  scores: jax.Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FastWeights:
  """The changes of a task, all differentiable.

  Attributes:
    leaves: Path -> adapted copy of a leaf that adapts plainly.
    rows: Adapted embedding rows of the task, or whatever was passed for them.
    rates: Name of an adapted leaf -> its inner rate, [] or [K], one per step;
      rows are named 'rows/<feature>'.
    pairs: Path of a kernel -> one (H [S, I], D [S, O]) per step and call. A
      layer with constant input has one per step, or one for all steps if its
      rate is the same at each.
    calls: Path of a kernel with constant input -> its calls on the support.
    num_steps: Steps taken so far; static.
  """

  leaves: dict[str, jax.Array]
  rows: PyTree
  rates: dict[str, jax.Array | float]
  pairs: dict[str, tuple[tuple[jax.Array, jax.Array], ...]]
  calls: dict[str, tuple[Call, ...]]
  num_steps: int = dataclasses.field(default=0, metadata={'static': True})


def match_varying(tree: PyTree, reference: PyTree) -> PyTree:
  """Marks leaves as varying over the mesh axes that `reference` varies over.

  Inside `shard_map` the gradient with respect to a value that is equal on all
  devices is summed over them. An inner step belongs to one device's tasks, so
  its inputs are marked varying first to prevent the sum. Outside `shard_map`
  this does nothing.
  """
  axes = transition.varying_axes(*jax.tree.leaves(reference))

  def cast(x):
    missing = tuple(sorted(axes - transition.varying_axes(x)))
    return jax.lax.pcast(x, missing, to='varying') if missing else x

  return jax.tree.map(cast, tree)


def descend(
  value: jax.Array, grad: jax.Array, rate: jax.Array | float
) -> jax.Array:
  """`value` after a gradient step, in the dtype of `value`."""
  return value - jnp.asarray(rate, value.dtype) * grad.astype(value.dtype)


def rate_at(
  rate: jax.Array | float, step: jax.Array | int
) -> jax.Array | float:
  """The rate of a step; of rates [K] per step, the last one from K on."""
  if jnp.ndim(rate) == 0:
    return rate
  rates = jnp.asarray(rate)
  return rates[jnp.minimum(step, len(rates) - 1)]


def start(
  plan: AdaptPlan,
  params: PyTree,
  rows: PyTree,
  data: PyTree,
  *,
  rate_fn: RateFn,
) -> FastWeights:
  """The fast weights before the first step.

  `rate_fn` maps the name of a leaf to its inner rate, see `FastWeights.rates`;
  for the rest see `make_plan`.
  """
  leaves = named_leaves(params)
  names = [*plan.plain, *plan.low_rank]
  names += [layer.bias for layer in plan.low_rank.values() if layer.bias]
  if plan.adapt_rows:
    names += [f'rows/{name}' for name in named_leaves(rows)]
    rows = match_varying(rows, data)
  return FastWeights(
    leaves=match_varying({path: leaves[path] for path in plan.plain}, data),
    rows=rows,
    rates={name: rate_fn(name) for name in names},
    pairs=dict.fromkeys(plan.low_rank, ()),
    calls={},
  )


def step(
  loss_fn: LossFn,
  merge_fn: MergeFn,
  plan: AdaptPlan,
  params: PyTree,
  fast: FastWeights,
  data: PyTree,
  *,
  order: int,
) -> FastWeights:
  """The fast weights after one more gradient step of one task.

  `params` are those before any step; loss and data are the same at every step.
  Order 2 differentiates through the step; order 1 treats it as a constant.
  """
  before = fast
  if order == 1:
    # On the inputs, too: otherwise the backward pass of this forward pass is
    # computed, for zeros.
    params, before, data = jax.lax.stop_gradient((params, fast, data))
  probes = {
    path: tuple(
      match_varying(jnp.zeros(spec.shape, spec.dtype), (params, data))
      for spec in layer.outputs
    )
    for path, layer in plan.low_rank.items()
  }
  varying = {'leaves': before.leaves, 'probes': probes}
  if plan.adapt_rows:
    varying['rows'] = before.rows

  def probed_loss(varying):
    current = dataclasses.replace(
      before, leaves=varying['leaves'], rows=varying.get('rows', before.rows)
    )
    model, notes = _bind(merge_fn, plan, params, current, varying['probes'])
    return loss_fn(model, current.rows, data), notes

  grads, notes = jax.grad(probed_loss, has_aux=True)(varying)
  if order == 1:
    grads, notes = jax.lax.stop_gradient((grads, notes))

  rates = {
    name: rate_at(rate, fast.num_steps) for name, rate in fast.rates.items()
  }
  leaves = {
    path: descend(value, grads['leaves'][path], rates[path])
    for path, value in fast.leaves.items()
  }
  rows = fast.rows
  if plan.adapt_rows:
    rows = jax.tree_util.tree_map_with_path(
      lambda path, value, grad: descend(
        value, grad, rates[f'rows/{path_name(path)}']
      ),
      rows,
      grads['rows'],
    )
  pairs, calls = {}, {}
  for path, layer in plan.low_rank.items():
    inputs, noted = notes[path]
    old = fast.pairs[path]
    new = [d.reshape(-1, d.shape[-1]) for d in grads['probes'][path]]
    if not layer.constant:
      pairs[path] = (*old, *zip(inputs, new, strict=True))
      continue
    calls[path] = tuple(noted)
    d_SO = jnp.concatenate(new)
    if old and not _by_step(fast, path, layer):
      pairs[path] = ((old[0][0], old[0][1] + d_SO),)
    else:
      pairs[path] = (*old, (jnp.concatenate(inputs), d_SO))
  return FastWeights(
    leaves=leaves,
    rows=rows,
    rates=fast.rates,
    pairs=pairs,
    calls=calls,
    num_steps=fast.num_steps + 1,
  )


def bind(
  merge_fn: MergeFn, plan: AdaptPlan, params: PyTree, fast: FastWeights
) -> nnx.Module:
  """A module that computes with the fast weights, in the same trace only."""
  model, _ = _bind(merge_fn, plan, params, fast, None)
  return model


def pull(plan: AdaptPlan, params: PyTree, fast: FastWeights) -> jax.Array:
  """A number whose gradient in `params` is the change made by the steps.

  That is, `params` before the steps minus `params` after them; all else is
  treated as constant. A kernel's part, sum_k a_k H_k^T D_k, is the gradient of
  sum_k <a_k D_k, H_k W>, so the change of a task is never materialized.
  """
  leaves = named_leaves(params)
  fast = jax.lax.stop_gradient(fast)
  total = jnp.zeros(())
  for path, value in fast.leaves.items():
    change = jax.lax.stop_gradient(leaves[path]) - value
    total += jnp.vdot(change, leaves[path])
  for path, layer in plan.low_rank.items():
    for (h_SI, d_SO), (kernel_rate, bias_rate) in zip(
      fast.pairs[path], _rates(fast, path, layer), strict=True
    ):
      total += kernel_rate * jnp.vdot(d_SO, h_SI @ leaves[path])
      if layer.bias is not None:
        total += bias_rate * jnp.vdot(d_SO.sum(axis=0), leaves[layer.bias])
  return total


def _by_step(fast, path, layer):
  """Whether a layer's rates differ between steps."""
  names = [path] if layer.bias is None else [path, layer.bias]
  return any(jnp.ndim(fast.rates[name]) for name in names)


def _rates(fast, path, layer):
  """The rates of kernel and bias of each of a layer's pairs."""
  pairs_a_step = 1 if layer.constant else len(layer.outputs)
  steps = [i // pairs_a_step for i in range(len(fast.pairs[path]))]

  def rates(name):
    return [name and rate_at(fast.rates[name], step) for step in steps]

  return list(zip(rates(path), rates(layer.bias), strict=True))


def _bind(merge_fn, plan, params, fast, probes):
  """A module and the records of its calls: path -> inputs, calls."""
  model = merge_fn(replace_leaves(params, fast.leaves))
  notes: dict[str, tuple[list[jax.Array], list[Call]]] = {
    path: ([], []) for path in plan.low_rank
  }
  for path, layer in fast_plan.linear_layers(model, plan.low_rank):
    # The known products are those of the support.
    known = () if probes is None else fast.calls.get(path, ())
    layer.dot_general = _fast_dot(
      layer.dot_general,
      fast.pairs[path],
      _rates(fast, path, plan.low_rank[path]),
      known,
      None if probes is None else probes[path],
      notes[path],
    )
  return model, notes


def _fast_dot(dot_general, pairs, rates, known, probes, notes):
  """Wraps a layer's `dot_general`: adds pairs and probes, records calls."""
  inputs, calls = notes

  def dot(x, kernel, dimension_numbers, **kwargs):
    call = known[len(inputs)] if known else Call(None, None)
    product: Any = call.product
    scores: Any = call.scores
    if product is None:
      product = dot_general(x, kernel, dimension_numbers, **kwargs)
    y = product
    einsum = functools.partial(jnp.einsum, precision=kwargs.get('precision'))
    for (h_SI, d_SO), (kernel_rate, bias_rate) in zip(pairs, rates):
      # The pairs of a known call share one H.
      if call.scores is None:
        scores = einsum('...i,si->...s', x, h_SI)
      # Applied to the scores, not to D: the bias needs no separate product.
      weights = jnp.asarray(kernel_rate, scores.dtype) * scores
      if bias_rate is not None:
        weights = weights + jnp.asarray(bias_rate, scores.dtype)
      y = y - einsum('...s,so->...o', weights, d_SO).astype(y.dtype)
    if probes is not None:
      y = y + probes[len(inputs)]
      inputs.append(x.reshape(-1, x.shape[-1]))
      calls.append(Call(product, scores))
    return y

  return dot
