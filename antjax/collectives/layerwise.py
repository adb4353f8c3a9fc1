# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Stacked layers, gathered one at a time.

A model that runs its layers with `scan_layers` holds at most one gathered
layer: under PaRO levels I and G a layer is gathered just before it runs, and
again in the backward pass, where its gradient is reduced before that of the
next layer starts.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives import layer_loop, transition
from antjax.collectives.layer_piece import GATHERED, LayerPiece

PyTree = Any


def scan_layers(
  body: Callable[[PyTree, PyTree], PyTree],
  carry: PyTree,
  layers: PyTree,
  *,
  last: Callable[[PyTree, PyTree], PyTree] | None = None,
  remat: bool = True,
  policy: Callable[..., bool] | None = None,
  layers_per_step: int = 1,
  is_pinned: bool = False,
) -> PyTree:
  """Runs `carry = body(carry, layer)` over a stack of layers.

  Args:
    body: Function that runs one layer, `(carry, layer) -> carry`.
    carry: Input of the first layer, such as activations. With a single layer
      its shape may change.
    layers: Tree whose leaves are stacks [L, ...]: arrays, or what the Trainer
      substitutes for leaves selected by `scanned`.
    last: Function that runs the last layer instead of `body`, for example for
      some places only; its result may have another shape. Needs
      `layers_per_step` 1.
    remat: Whether to recompute a layer in the backward pass instead of keeping
      its intermediate results. If not, gathered layers are kept too.
    policy: Policy of `jax.checkpoint_policies` for results to keep
      nevertheless.
    layers_per_step: Number of layers gathered at once. 2 lets the compiler
      gather a layer while the previous one computes, and holds two of them.
    is_pinned: Whether XLA must keep a layer's arrays apart from their use, as
      it does the Trainer's: a layer then has the same bits.

  Raises:
    ValueError: The stacks have unequal lengths, or a length that is not a
      multiple of `layers_per_step`; or `last` is given with groups of layers.
  """
  sizes = {x.shape[0] for x in jax.tree.leaves(layers)}
  if len(sizes) != 1 or min(sizes) % layers_per_step:
    raise ValueError(
      f'scan_layers: the stacks have {sorted(sizes)} layers; needed is one'
      f' number, a multiple of layers_per_step={layers_per_step}.'
    )
  if last is not None and layers_per_step > 1:
    raise ValueError('scan_layers: last needs layers_per_step=1.')
  leaves = jax.tree.leaves(layers, is_leaf=_is_piece)
  pieces = [x for x in leaves if isinstance(x, LayerPiece)]
  for use, slot in {x.use: x.slot for x in pieces if x.use}.items():
    use.take(slot)
  num_steps = min(sizes) // layers_per_step
  if remat and layers_per_step == 1 < num_steps and _is_ahead(layers, carry):
    return _run_ahead(body, last, carry, layers, policy)
  if remat and any(x.is_kept for x in pieces):
    keep = jax.checkpoint_policies.save_only_these_names(GATHERED)
    both = jax.checkpoint_policies.save_from_both_policies
    policy = keep if policy is None else both(policy, keep)
  run = functools.partial(
    _run_in_turn, remat, policy, layers_per_step, is_pinned or bool(pieces)
  )
  if last is None:
    return run(body, carry, layers)
  if num_steps > 1:
    carry = run(body, carry, jax.tree.map(lambda x: x[:-1], layers))
  return run(last, carry, jax.tree.map(lambda x: x[-1:], layers))


def _run_in_turn(
  remat: bool,
  policy: Callable[..., bool] | None,
  layers_per_step: int,
  is_pinned: bool,
  body: Callable[[PyTree, PyTree], PyTree],
  carry: PyTree,
  layers: PyTree,
) -> PyTree:
  """`scan_layers` that gathers a layer right before it runs."""

  def step(carry: PyTree, stack: PyTree) -> PyTree:
    if is_pinned:
      stack, carry = _pin(stack, carry)
    if layers_per_step == 1:
      return body(carry, _whole(stack))
    chunk = [
      _whole(layer) for layer in layer_loop.apart(stack, layers_per_step)
    ]
    for layer in chunk:
      carry = body(carry, layer)
    return carry

  num_steps = len(jax.tree.leaves(layers)[0]) // layers_per_step
  if remat:
    # Inside a scan XLA merges nothing across iterations.
    step = jax.checkpoint(step, policy=policy, prevent_cse=num_steps == 1)
  if num_steps == 1:
    return step(carry, _at(layers, 0) if layers_per_step == 1 else layers)
  # Single layers are not sliced: the backward pass would hold copies.
  stacks = layers
  if layers_per_step > 1:
    stacks = jax.tree.map(
      lambda x: x.reshape(num_steps, layers_per_step, *x.shape[1:]), layers
    )
  return lax.scan(lambda *args: (step(*args), None), carry, stacks)[0]


def _is_ahead(layers: PyTree, carry: PyTree) -> bool:
  """Whether all pieces ask for it, and else only the carry has gradients."""

  def is_float(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)

  leaves = jax.tree.leaves(layers, is_leaf=_is_piece)
  return (
    any(map(_is_piece, leaves))
    and all(
      x.is_ahead and not x.is_kept if _is_piece(x) else not is_float(x)
      for x in leaves
    )
    and all(map(is_float, jax.tree.leaves(carry)))
  )


def _run_ahead(
  body: Callable[[PyTree, PyTree], PyTree],
  last: Callable[[PyTree, PyTree], PyTree] | None,
  carry: PyTree,
  layers: PyTree,
  policy: Callable[..., bool] | None,
) -> PyTree:
  leaves, treedef = jax.tree.flatten(layers, is_leaf=_is_piece)
  slots = [getattr(x, 'slot', None) for x in leaves]  # Or integers, keys.
  homes = [getattr(x, 'home', None) for x in leaves]
  trained = [x for x in leaves if _is_piece(x) and x.slot is not None]

  def gather(pieces: list[jax.Array]) -> list[jax.Array]:
    return [
      transition.gather(piece, x.spec, x.step_level, x.how)
      if _is_piece(x)
      else piece
      for piece, x in zip(pieces, leaves, strict=True)
    ]

  def bring(pieces: list[jax.Array], *, is_landing: bool) -> list[jax.Array]:
    pairs = zip(pieces, leaves, strict=True)
    return [
      x.brought(piece, is_landing) if _is_piece(x) else piece
      for piece, x in pairs
    ]

  def reduce(grads: list[jax.Array], slots: list[PyTree]) -> list[PyTree]:
    return [
      x.reduced(slot, grad)
      for grad, x, slot in zip(grads, trained, slots, strict=True)
    ]

  def cross(addends: list[PyTree], slots: list[PyTree], i: Any) -> list[PyTree]:
    found = []
    for x, leaf, slot in zip(addends, trained, slots, strict=True):
      if leaf.carried is not None:
        before = lax.dynamic_index_in_dim(leaf.carried, i, keepdims=False)
        x = leaf.crossed(before, x, slot)
      found.append(x)
    return found

  def of_leaves(body: Callable[..., PyTree]) -> Callable[..., PyTree]:
    return lambda carry, layer: body(carry, jax.tree.unflatten(treedef, layer))

  return layer_loop.run(
    of_leaves(body),
    carry,
    [x.piece if _is_piece(x) else x for x in leaves],
    slots,
    layer_loop.LayerTransfers(
      gather,
      reduce,
      cross if any(x.carried is not None for x in trained) else None,
      functools.partial(bring, is_landing=False),
      functools.partial(bring, is_landing=True),
    ),
    policy,
    homes,
    None if last is None else of_leaves(last),
  )


def lean(
  run: Callable[..., Any], remat: str, static: tuple[int, ...] = ()
) -> Callable[..., Any]:
  """Wraps `run` so that the backward pass keeps only its inputs.

  For arithmetic whose results cost more to keep than to compute again. If
  `remat` is not 'none', `scan_layers` decides.
  """
  if remat != 'none':
    return run
  return jax.checkpoint(run, prevent_cse=False, static_argnums=static)


def _is_piece(x: Any) -> bool:
  return isinstance(x, LayerPiece)


def _pin(stack: PyTree, carry: PyTree) -> tuple[PyTree, PyTree]:
  """Keeps XLA from gathering all layers before the loop."""
  leaves, treedef = jax.tree.flatten(stack, is_leaf=_is_piece)
  held = [x.piece if _is_piece(x) else x for x in leaves]
  held, carry = lax.optimization_barrier((held, carry))
  leaves = [
    dataclasses.replace(x, piece=own) if _is_piece(x) else own
    for x, own in zip(leaves, held, strict=True)
  ]
  return jax.tree.unflatten(treedef, leaves), carry


def _at(stack: PyTree, i: int) -> PyTree:
  """Layer i of the stack."""
  return jax.tree.map(lambda x: x[i], stack)


def _whole(layer: PyTree) -> PyTree:
  """The layer with its pieces gathered."""
  return jax.tree.map(
    lambda x: x.gather() if _is_piece(x) else x, layer, is_leaf=_is_piece
  )
