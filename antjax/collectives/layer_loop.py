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
import dataclasses
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives.varying import to_varying

PyTree = Any
Arrays = Sequence[jax.Array]


@dataclasses.dataclass(frozen=True)
class LayerTransfers:
  """The transfers of one layer.

  Attributes:
    gather: Function from the pieces of one layer to the whole layer.
    reduce: Function from the gradients of a whole layer's trained leaves, and
      from a layer of their slots, to the values for the slots.
    cross: Function from the result of `reduce`, a layer of the slots and its
      number to the values for the slots, called one layer later. There must
      then be at least 3 layers, as with `fetch`.
    fetch: Function from the pieces of one layer to those for `land`, called
      once for each layer.
    land: Function from a result of `fetch` to the pieces for `gather`, called
      one layer later.
  """

  gather: Callable[[list[jax.Array]], list[jax.Array]]
  reduce: Callable[[list[jax.Array], list[PyTree]], list[PyTree]]
  cross: Callable[[list[PyTree], list[PyTree], Any], list[PyTree]] | None = None
  fetch: Callable[[list[jax.Array]], list[jax.Array]] = list
  land: Callable[[list[jax.Array]], list[jax.Array]] = list

  def whole(self, pieces: Arrays, i: Any) -> list[jax.Array]:
    """Layer i, gathered."""
    return self.gather(_piece_of(pieces, i))

  def arrive(self, piece: list[jax.Array], homes: Any, i: Any) -> Any:
    """(layer i, whole, from its fetched pieces; homes with these)."""
    one = self.land(piece)
    return self.gather(one), [
      home if home is None else lax.dynamic_update_index_in_dim(home, x, i, 0)
      for home, x in zip(homes, one, strict=True)
    ]


def run(
  body: Callable[[PyTree, list[jax.Array]], PyTree],
  carry: PyTree,
  pieces: list[jax.Array],
  slots: list[PyTree],
  transfers: LayerTransfers,
  policy: Callable[..., bool] | None = None,
  homes: Sequence[jax.Array | None] = (),
  last: Callable[[PyTree, list[jax.Array]], PyTree] | None = None,
) -> PyTree:
  """Runs `carry = body(carry, gather(pieces of a layer))` over all layers.

  Args:
    body: Function of one layer; it may close over other arrays.
    carry: Floating-point arrays of the shapes that `body` returns.
    pieces: Stacks [L, ...], L at least 2.
    slots: For each stack, zeros [L, ...] whose gradient is the reduced gradient
      of the whole layers, or None for a frozen stack. Or a tuple of these and
      other arrays [L, ...], whose gradients are their new values.
    transfers: Transfers of a layer's pieces and gradients.
    policy: Policy of `jax.checkpoint_policies` for results to keep for the
      backward pass, beside a layer's inputs.
    homes: With `transfers.fetch`, zeros [L, ...] for each stack, whose
      gradients are the landed pieces, or None for a stack that is not fetched.
    last: Function of the last layer, if another; it may return other shapes.
  """
  carry = jax.tree.map(to_varying, carry)
  flat, treedef = jax.tree.flatten(carry)
  homes = list(homes) or [None] * len(pieces)
  first = transfers.gather(
    transfers.land(transfers.fetch([x[0] for x in pieces]))
  )

  def traced(body: Callable[..., PyTree]) -> tuple[Any, Any]:
    def of(flat: Any, layer: Any) -> PyTree:
      result = body(jax.tree.unflatten(treedef, flat), layer)
      return jax.tree.map(to_varying, result)

    closed, shapes = jax.make_jaxpr(of, return_shape=True)(flat, first)
    return closed, jax.tree.structure(shapes)

  # Arrays that a body closes over must be arguments of a custom gradient.
  traces = [traced(body)] + ([traced(last)] if last is not None else [])
  layers, others = list[_Layer](), list[Any]()
  for closed, _ in traces:
    span = slice(len(others), len(others) + len(closed.consts))
    is_trained = [x is not None for x in slots]
    layers.append(_Layer(closed.jaxpr, span, is_trained, policy))
    others += closed.consts

  @jax.custom_vjp
  def loop(
    flat: Any, pieces: Any, slots: Any, homes: Any, others: Any
  ) -> list[jax.Array]:
    del slots

    def call(flat: Any, whole: Any, i: int = 0) -> tuple[list[jax.Array], None]:
      return layers[i].call(flat, whole, others), None

    return _forward(transfers, call, flat, pieces, homes)[0]

  def fwd(
    flat: Any, pieces: Any, slots: Any, homes: Any, others: Any
  ) -> tuple[list[jax.Array], Any]:
    def keep(flat: Any, whole: Any, i: int = 0) -> tuple[list[jax.Array], Any]:
      return layers[i].keep(flat, whole, others)

    result, kept = _forward(transfers, keep, flat, pieces, homes)
    return result, (kept, slots, others)

  def bwd(saved: Any, d_flat: Any) -> tuple[Any, Any, Any, Any, Any]:
    kept, sums, others = saved
    passed = _Backward(transfers, layers, kept, others)
    d_flat, sums, d_others = passed.run(d_flat, sums)
    arrived = [
      x if home is not None else None
      for x, home in zip(kept.pieces, homes, strict=True)
    ]
    return d_flat, [None] * len(pieces), sums, arrived, d_others

  loop.defvjp(fwd, bwd)
  trained_slots = [x for x in slots if x is not None]
  result = loop(flat, pieces, trained_slots, homes, others)
  return jax.tree.unflatten(traces[-1][1], result)


@dataclasses.dataclass(frozen=True)
class _Layer:
  """A layer as a function of arrays, with a gradient in two parts.

  Its arguments are the flat carry, the whole layer and the other arrays that
  the body closes over.
  """

  jaxpr: Any
  span: slice  # Of the other arrays that it closes over.
  is_trained: Sequence[bool]  # Of the whole layer's leaves.
  policy: Callable[..., bool] | None

  def call(self, flat: Arrays, layer: Arrays, others: Arrays) -> Any:
    """The next flat carry."""
    return jax.core.eval_jaxpr(self.jaxpr, others[self.span], *flat, *layer)

  def keep(self, flat: Arrays, layer: Arrays, others: Arrays) -> Any:
    """(next flat carry, what `back` reads beside the arguments)."""
    result, vjp = self._vjp(flat, layer, others)
    known = [*flat, *layer, *others]
    more = [x for x in jax.tree.leaves(vjp) if not _is_one_of(x, known)]
    return result, (flat, more)

  def back(self, kept: Any, layer: Arrays, others: Arrays, d_flat: Any) -> Any:
    """Gradients of the carry, of trained leaves and of floats in `others`."""
    flat, more = kept
    # Traced again only for its structure; its residuals are known or kept.
    _, vjp = self._vjp(flat, layer, others)
    known = [*flat, *layer, *others]
    leaves, tree = jax.tree.flatten(vjp)
    it = iter(more)
    vjp = jax.tree.unflatten(
      tree, [x if _is_one_of(x, known) else next(it) for x in leaves]
    )
    return vjp(d_flat)

  def _vjp(
    self, flat: Arrays, layer: Arrays, others: Arrays
  ) -> tuple[list[jax.Array], Callable[..., Any]]:
    """The outputs, and the vjp for all arguments with a gradient."""
    is_float = list(map(_is_float, others))
    trained = [x for x, t in zip(layer, self.is_trained) if t]
    floats = [x for x, f in zip(others, is_float) if f]

    def of(flat: Arrays, trained: Arrays, floats: Arrays) -> list[jax.Array]:
      it, those = iter(trained), iter(floats)
      layer_ = [next(it) if t else x for x, t in zip(layer, self.is_trained)]
      others_ = [next(those) if f else x for x, f in zip(others, is_float)]
      return self.call(flat, layer_, others_)

    again = jax.checkpoint(of, policy=self.policy, prevent_cse=False)
    result, vjp = jax.vjp(again, flat, trained, floats)
    return result, vjp


class _Kept(NamedTuple):
  """What the backward pass reads of the forward pass."""

  looped: Any  # Results of `_Layer.keep` of the layers in the loop, stacked.
  tail: list[Any]  # Those of the layers behind it.
  pieces: Arrays  # Stacks to gather from.


def _forward(
  transfers: LayerTransfers,
  call: Callable[..., tuple[Any, Any]],
  flat: Any,
  pieces: Arrays,
  homes: Any,
) -> tuple[list[jax.Array], _Kept]:
  """Runs `flat, kept = call(flat, layer)` over all layers; -1: the last."""
  if any(x is not None for x in homes):
    return _forward_fetching(transfers, call, flat, pieces, homes)

  def step(state: Any, i: jax.Array) -> tuple[Any, Any]:
    flat, layer = state
    following = transfers.whole(pieces, i + 1)
    flat, kept = call(flat, layer)
    return (flat, following), kept

  first = flat, transfers.whole(pieces, 0)
  (flat, layer), kept = lax.scan(step, first, jnp.arange(len(pieces[0]) - 1))
  flat, last = call(flat, layer, -1)
  return flat, _Kept(kept, [last], pieces)


def _forward_fetching(
  transfers: LayerTransfers,
  call: Callable[..., tuple[Any, Any]],
  flat: Any,
  pieces: Arrays,
  homes: Any,
) -> tuple[list[jax.Array], _Kept]:
  """`_forward` of layers that are fetched two ahead and gathered one ahead.

  In a chain of both the first would have no product beside it.
  """
  num_layers = len(pieces[0])

  def step(state: Any, i: jax.Array) -> tuple[Any, Any]:
    flat, layer, piece, homes = state
    following, homes = transfers.arrive(piece, homes, i + 1)
    piece = transfers.fetch(_piece_of(pieces, i + 2))
    flat, kept = call(flat, layer)
    return (flat, following, piece, homes), kept

  layer, homes = transfers.arrive(
    transfers.fetch(_piece_of(pieces, 0)), homes, 0
  )
  state = flat, layer, transfers.fetch(_piece_of(pieces, 1)), homes
  state, kept = lax.scan(step, state, jnp.arange(num_layers - 2))
  flat, layer, piece, homes = state
  following, homes = transfers.arrive(piece, homes, num_layers - 1)
  flat, before = call(flat, layer)
  flat, last = call(flat, following, -1)
  there = [x if y is None else y for x, y in zip(pieces, homes, strict=True)]
  return flat, _Kept(kept, [before, last], there)


class _BackState(NamedTuple):
  """What the backward pass hands from layer to layer."""

  d_flat: Any  # Gradient of a layer's output.
  layer: list[jax.Array]  # The same layer, whole.
  pending: Any  # Gradient of the layer behind it, or None: reduced.
  sent: Any  # The result of `reduce` of the one behind that, or None.
  sums: Any  # Stacks of the slots.
  d_others: list[jax.Array]


@dataclasses.dataclass(frozen=True)
class _Backward:
  """The backward pass, with a layer's transfers beside another's products."""

  transfers: LayerTransfers
  layers: list[_Layer]  # That of the loop, and the last if it is another.
  kept: _Kept
  others: Arrays

  def run(self, d_flat: Any, sums: Any) -> tuple[Any, Any, list[Any]]:
    """Gradients of the first carry, of the slots and of `others`."""
    is_float = list(map(_is_float, self.others))
    d_others = [jnp.zeros_like(x) for x, f in zip(self.others, is_float) if f]
    num_layers = len(self.kept.pieces[0])
    *tail, last = self.kept.tail
    # Hidden from XLA, which would unroll a short loop and keep whole layers
    # from the forward pass.
    end, d_flat = lax.optimization_barrier((jnp.int32(num_layers - 1), d_flat))
    state = _BackState(d_flat, self._whole(end), None, None, sums, d_others)
    state = self._computed(state, last, self._whole(end - 1), -1)
    first = num_layers - 2  # First layer in the loop.
    # Peeled, since nothing was reduced before it, or since it is kept alone.
    if self.transfers.cross is not None or tail:
      state = self._step(state, end - 1, *tail)
      first -= 1
    state, _ = lax.scan(
      lambda state, i: (self._step(state, i), None),
      state,
      end - jnp.arange(num_layers - 1 - first, num_layers - 1),
    )
    state = self._reduced(state, 0)
    state = self._computed(state, _layer_of(self.kept.looped, 0), None)
    state = self._reduced(state, -1)
    if self.transfers.cross is not None:
      state = state._replace(sums=self._put(state.sums, state.sent, 0))
    it = iter(state.d_others)
    d_all = [next(it) if f else None for f in is_float]
    return state.d_flat, state.sums, d_all

  def _step(self, state: _BackState, i: Any, kept: Any = None) -> _BackState:
    """Computes layer i; beside it layer i - 1 is gathered, others reduced."""
    following = self._whole(i - 1)
    state = self._reduced(state, i)
    kept = _layer_of(self.kept.looped, i) if kept is None else kept
    return self._computed(state, kept, following)

  def _whole(self, i: Any) -> list[jax.Array]:
    return self.transfers.whole(self.kept.pieces, i)

  def _computed(
    self, state: _BackState, kept: Any, following: Any, which: int = 0
  ) -> _BackState:
    """The state behind the products of a layer."""
    d_flat, pending, d_floats = self.layers[which].back(
      kept, state.layer, self.others, state.d_flat
    )
    d_others = list(map(jnp.add, state.d_others, d_floats))
    return _BackState(
      d_flat, following, pending, state.sent, state.sums, d_others
    )

  def _reduced(self, state: _BackState, i: Any) -> _BackState:
    """Advances waiting gradients while layer i computes."""
    held = _layer_of(state.sums, i + 1)
    sums = state.sums
    if self.transfers.cross is None:
      reduced = self.transfers.reduce(state.pending, held)
      return state._replace(pending=None, sums=self._put(sums, reduced, i + 1))
    if state.sent is not None:
      sums = self._put(sums, state.sent, i + 2)
    sent = self.transfers.reduce(state.pending, held)
    return state._replace(pending=None, sent=sent, sums=sums)

  def _put(self, sums: Any, sent: Any, i: Any) -> list[PyTree]:
    """Sums with the values of layer i's slots."""
    if self.transfers.cross is not None:
      sent = self.transfers.cross(sent, _layer_of(sums, i), i)
    return jax.tree.map(
      lambda a, x: lax.dynamic_update_index_in_dim(a, x.astype(a.dtype), i, 0),
      sums,
      sent,
    )


def _piece_of(pieces: Arrays, i: Any) -> list[jax.Array]:
  """Layer i of the stacks, not gathered."""
  one = [lax.dynamic_index_in_dim(x, i, keepdims=False) for x in pieces]
  # Otherwise XLA gathers the whole stack before it slices the layer.
  return lax.optimization_barrier(one)


def _layer_of(stacks: Any, i: Any) -> Any:
  return jax.tree.map(
    lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), stacks
  )


def _is_float(x: jax.Array) -> bool:
  return jnp.issubdtype(x.dtype, jnp.inexact)


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
