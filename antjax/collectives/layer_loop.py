# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A loop over layers that gathers the next layer while one computes.

`scan_layers` gathers a layer right before it runs, so transfers and products
alternate. Here the loop's carry holds the gathered next layer, in the forward
and the backward pass. The backward pass also reduces the gradient of the
previous layer during the products of the current one. If a step's sums can be
sent to other groups, they are sent one layer later. If a step's parameters come
from other groups, the forward pass fetches them in the same way, once. Memory
holds two layers instead of one, and the gradient of one. Computation and
traffic are the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives.varying import to_varying

PyTree = Any
Arrays = Sequence[jax.Array]


def run(
  body: Callable[[PyTree, list[jax.Array]], PyTree],
  carry: PyTree,
  pieces: list[jax.Array],
  slots: list[PyTree],
  gather: Callable[[list[jax.Array]], list[jax.Array]],
  reduce: Callable[[list[jax.Array], list[PyTree]], list[PyTree]],
  policy: Callable[..., bool] | None = None,
  cross: Callable[[list[PyTree], list[PyTree], Any], list[PyTree]]
  | None = None,
  homes: Sequence[jax.Array | None] = (),
  fetch: Callable[[list[jax.Array]], list[jax.Array]] = list,
  land: Callable[[list[jax.Array]], list[jax.Array]] = list,
) -> PyTree:
  """Runs `carry = body(carry, gather(pieces of a layer))` over all layers.

  Args:
    body: Function of one layer; it may close over other arrays.
    carry: Floating-point arrays of the shapes that `body` returns.
    pieces: Stacks [L, ...], L at least 2.
    slots: For each stack, zeros [L, ...] whose gradient is the reduced gradient
      of the whole layers, or None for a frozen stack. Or a tuple of these and
      other arrays [L, ...], whose gradients are their new values.
    gather: Function from the pieces of one layer to the whole layer.
    reduce: Function from the gradients of a whole layer's trained leaves, and
      from a layer of their slots, to the values for the slots.
    policy: Policy of `jax.checkpoint_policies` for results to keep for the
      backward pass, beside a layer's inputs.
    cross: Function from the result of `reduce`, a layer of the slots and its
      number to the values for the slots, called one layer later. L must then be
      at least 3, as with `fetch`.
    homes: With `fetch`, zeros [L, ...] for each stack, whose gradients are the
      landed pieces, or None for a stack that is not fetched.
    fetch: Function from the pieces of one layer to those for `land`, called
      once for each layer.
    land: Function from a result of `fetch` to the pieces for `gather`, called
      one layer later.
  """
  num_layers = pieces[0].shape[0]
  is_trained = [slot is not None for slot in slots]
  carry = jax.tree.map(to_varying, carry)
  flat, treedef = jax.tree.flatten(carry)
  homes = list(homes) or [None] * len(pieces)
  is_fetching = any(x is not None for x in homes)
  layer = gather(land(fetch([x[0] for x in pieces])))
  # Arrays that the body closes over must be arguments of a custom gradient.
  closed = jax.make_jaxpr(
    lambda flat, layer: jax.tree.leaves(
      jax.tree.map(to_varying, body(jax.tree.unflatten(treedef, flat), layer))
    )
  )(flat, layer)
  others = list(closed.consts)
  is_float = [jnp.issubdtype(x.dtype, jnp.inexact) for x in others]

  def call(flat: Arrays, layer: Arrays, others: Arrays) -> list[jax.Array]:
    return jax.core.eval_jaxpr(closed.jaxpr, others, *flat, *layer)

  def differentiable(
    flat: Arrays, layer: Arrays, others: Arrays
  ) -> tuple[list[jax.Array], Callable[..., Any]]:
    """A layer's outputs, and the vjp for all arguments with a gradient."""
    trained = [x for x, t in zip(layer, is_trained) if t]
    floats = [x for x, f in zip(others, is_float) if f]

    def of(flat: Arrays, trained: Arrays, floats: Arrays) -> list[jax.Array]:
      it, those = iter(trained), iter(floats)
      layer_ = [next(it) if t else x for x, t in zip(layer, is_trained)]
      others_ = [next(those) if f else x for x, f in zip(others, is_float)]
      return call(flat, layer_, others_)

    again = jax.checkpoint(of, policy=policy, prevent_cse=False)
    result, vjp = jax.vjp(again, flat, trained, floats)
    return result, vjp

  def piece_of(pieces: Arrays, i: Any) -> list[jax.Array]:
    one = [lax.dynamic_index_in_dim(x, i, keepdims=False) for x in pieces]
    # Otherwise XLA gathers the whole stack before it slices the layer.
    return lax.optimization_barrier(one)

  def whole(pieces: Arrays, i: Any) -> list[jax.Array]:
    return gather(piece_of(pieces, i))

  def arrive(piece: list[jax.Array], homes: Any, i: Any) -> tuple[Any, Any]:
    """(layer i, whole, from its fetched pieces; homes with these)."""
    one = land(piece)
    return gather(one), [
      home if home is None else lax.dynamic_update_index_in_dim(home, x, i, 0)
      for home, x in zip(homes, one, strict=True)
    ]

  def forward(
    flat: list[Any], pieces: Arrays, homes: Any, others: Arrays, keep: Any
  ) -> tuple[list[jax.Array], Any]:
    """(outputs, residuals).

    These are results of `keep`, stacked for the layers in the loop and by
    themselves for those behind it, and the pieces to gather in the backward
    pass.
    """
    if not is_fetching:

      def step(state: Any, i: jax.Array) -> tuple[Any, Any]:
        flat, layer = state
        following = whole(pieces, i + 1)
        flat, kept = keep(flat, layer, others)
        return (flat, following), kept

      first = flat, whole(pieces, 0)
      (flat, layer), kept = lax.scan(step, first, jnp.arange(num_layers - 1))
      flat, last = keep(flat, layer, others)
      return flat, (kept, [last], pieces)

    # A layer is fetched two ahead, and gathered one ahead: in a chain of both
    # the first would have no product beside it.
    def fetching(state: Any, i: jax.Array) -> tuple[Any, Any]:
      flat, layer, piece, homes = state
      following, homes = arrive(piece, homes, i + 1)
      piece = fetch(piece_of(pieces, i + 2))
      flat, kept = keep(flat, layer, others)
      return (flat, following, piece, homes), kept

    layer, homes = arrive(fetch(piece_of(pieces, 0)), homes, 0)
    state = flat, layer, fetch(piece_of(pieces, 1)), homes
    state, kept = lax.scan(fetching, state, jnp.arange(num_layers - 2))
    flat, layer, piece, homes = state
    following, homes = arrive(piece, homes, num_layers - 1)
    flat, before = keep(flat, layer, others)
    flat, last = keep(flat, following, others)
    there = [x if y is None else y for x, y in zip(pieces, homes, strict=True)]
    return flat, (kept, [before, last], there)

  @jax.custom_vjp
  def loop(
    flat: Any, pieces: Any, slots: Any, homes: Any, others: Any
  ) -> list[jax.Array]:
    del slots

    def keep(*args: Any) -> tuple[list[jax.Array], None]:
      return call(*args), None

    return forward(flat, pieces, homes, others, keep)[0]

  def fwd(
    flat: Any, pieces: Any, slots: Any, homes: Any, others: Any
  ) -> tuple[list[jax.Array], Any]:
    def keep(flat: Any, layer: Any, others: Any) -> tuple[Any, Any]:
      result, vjp = differentiable(flat, layer, others)
      known = [*flat, *layer, *others]
      more = [x for x in jax.tree.leaves(vjp) if not _is_one_of(x, known)]
      return result, (flat, more)

    result, kept = forward(flat, pieces, homes, others, keep)
    return result, (kept, slots, others)

  def bwd(saved: Any, d_flat: Any) -> tuple[Any, Any, Any, Any, Any]:
    (kept, tail, pieces), sums, others = saved
    *tail, last = tail

    def back(kept: Any, layer: Any, d_flat: Any, d_others: Any) -> Any:
      """Gradients of a layer's inputs, of its weights, sums for `others`."""
      flat, more = kept
      # Traced again only for its structure; its residuals are known or kept.
      _, vjp = differentiable(flat, layer, others)
      known = [*flat, *layer, *others]
      leaves, tree = jax.tree.flatten(vjp)
      it = iter(more)
      vjp = jax.tree.unflatten(
        tree, [x if _is_one_of(x, known) else next(it) for x in leaves]
      )
      d_flat, d_trained, d_floats = vjp(d_flat)
      return d_flat, d_trained, list(map(jnp.add, d_others, d_floats))

    def put(sums: Any, sent: Any, i: Any) -> list[PyTree]:
      new = sent if cross is None else cross(sent, layer_of(sums, i), i)
      return jax.tree.map(
        lambda a, x: lax.dynamic_update_index_in_dim(
          a, x.astype(a.dtype), i, 0
        ),
        sums,
        new,
      )

    def layer_of(stacks: Any, i: Any) -> Any:
      return jax.tree.map(
        lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), stacks
      )

    def reduced(waiting: Any, sums: Any, i: Any) -> tuple[Any, Any]:
      """Advances waiting gradients while layer i computes; (waiting, sums)."""
      pending, sent = waiting
      held = layer_of(sums, i + 1)
      if cross is None:
        return (None, None), put(sums, reduce(pending, held), i + 1)
      if sent is not None:
        sums = put(sums, sent, i + 2)
      return (None, reduce(pending, held)), sums

    def step(state: Any, i: Any, kept_i: Any = None) -> tuple[Any, None]:
      d_flat, layer, waiting, sums, d_others = state
      following = whole(pieces, i - 1)
      (_, sent), sums = reduced(waiting, sums, i)
      kept_i = layer_of(kept, i) if kept_i is None else kept_i
      d_flat, pending, d_others = back(kept_i, layer, d_flat, d_others)
      return (d_flat, following, (pending, sent), sums, d_others), None

    d_others = [jnp.zeros_like(x) for x, f in zip(others, is_float) if f]
    # Hidden from XLA, which would unroll a short loop and keep whole layers
    # from the forward pass.
    end, d_flat = lax.optimization_barrier((jnp.int32(num_layers - 1), d_flat))
    layer = whole(pieces, end)
    following = whole(pieces, end - 1)
    d_flat, pending, d_others = back(last, layer, d_flat, d_others)
    state = d_flat, following, (pending, None), sums, d_others
    first = num_layers - 2  # First layer in the loop.
    # Peeled, since nothing was reduced before it, or since it is kept alone.
    if cross is not None or tail:
      state, _ = step(state, end - 1, *tail)
      first -= 1
    state, _ = lax.scan(
      step, state, end - jnp.arange(num_layers - 1 - first, num_layers - 1)
    )
    d_flat, layer, waiting, sums, d_others = state
    waiting, sums = reduced(waiting, sums, 0)
    d_flat, pending, d_others = back(layer_of(kept, 0), layer, d_flat, d_others)
    waiting, sums = reduced((pending, waiting[1]), sums, -1)
    if cross is not None:
      sums = put(sums, waiting[1], 0)
    it = iter(d_others)
    d_all = [next(it) if f else None for f in is_float]
    arrived = [x if y is not None else None for x, y in zip(pieces, homes)]
    return d_flat, [None] * len(pieces), sums, arrived, d_all

  loop.defvjp(fwd, bwd)
  trained_slots = [x for x in slots if x is not None]
  result = loop(flat, pieces, trained_slots, homes, others)
  return jax.tree.unflatten(treedef, result)


def _is_one_of(x: jax.Array, known: Arrays) -> bool:
  return any(x is y for y in known)


def apart(stack: PyTree, num_layers: int) -> list[PyTree]:
  """The layers of a stack.

  By a split, whose gradient joins those of the layers; that of slices would add
  up as many stacks as there are layers.
  """
  leaves, treedef = jax.tree.flatten(stack)
  parts = [lax.split(x, (1,) * num_layers) for x in leaves]
  return [
    jax.tree.unflatten(treedef, [x[i].reshape(x[i].shape[1:]) for x in parts])
    for i in range(num_layers)
  ]
