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
from typing import Any, NoReturn

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from antjax.collectives import layer_loop, transition
from antjax.collectives.choose import Collectives
from antjax.collectives.varying import to_varying
from antjax.mesh.paro import Level
from antjax.mesh.sharding import LeafSpec

PyTree = Any
_GATHERED = 'antjax_gathered_layer'


class OneUse:
  """Checks that a loss runs a stack once; created where the loss is called.

  Sums that are sent during the backward pass include those of earlier
  micro-batches, and residuals of rounded addends are added to the gradient:
  both must count once. Parameters that come late must arrive.
  """

  def __init__(self, slot: jax.Array):
    """Records how a slot is traced where the loss is called."""
    self._kind = type(slot)
    self._is_over = False

  def take(self, slots: jax.Array | tuple[jax.Array, ...]) -> None:
    """Raises ValueError for a second use, or one in a loop."""
    slot = jax.tree.leaves(slots)[0]
    if self._is_over:
      raise _not_once('it runs twice')
    # Arrays have another tracer in a loop's body or another transform.
    if {type(slot), type(-slot)} != {self._kind}:
      raise _not_once('it runs inside a loop or another transform')
    self._is_over = True


def _not_once(how: str) -> ValueError:
  return ValueError(
    'Trainer(early_sums=True or late_params=True), or collectives of sums_dtype'
    ' int8: a loss must run each of its stacks by one call of scan_layers, with'
    f' remat unless for int8, outside of loops; {how}. Leave it out.'
  )


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('piece', 'slot', 'carried', 'home'),
  meta_fields=(
    'spec',
    'params_level',
    'grads_level',
    'how',
    'is_kept',
    *('is_ahead', 'sums_level', 'use', 'home_level'),
  ),
)
@dataclasses.dataclass(frozen=True)
class LayerPiece:
  """This device's piece of a stacked leaf, or of one layer of it.

  Attributes:
    piece: [L, ...] at the parameters' level; one layer of it inside the scan.
    slot: Zeros in the shape of the gradient's accumulator, or None for a frozen
      leaf. The gradient with respect to it is the reduced gradient of the leaf,
      which need not have the shape of `piece`. If addends are sent in int8, a
      tuple of it and of residuals, see `narrow`: of sums inside the group, and
      with `carried` also between groups. Their gradients are new residuals.
    spec: How one layer is split.
    params_level: Level of `piece`.
    grads_level: Level of `slot`.
    how: Algorithm of transfers over both mesh axes at once.
    is_kept: Whether the whole layer is kept from the forward to the backward
      pass, instead of being gathered again.
    is_ahead: Whether a layer is gathered while the one before it computes, and
      its gradient is reduced while the next one's is computed.
    carried: Sums of a step's earlier micro-batches, [L, ...] at level intra. In
      the last micro-batch the gradient is that of the whole step, at
      `sums_level`, and is sent to the other groups layer by layer. None: not
      sent.
    sums_level: Level of `slot` if there are `carried` sums.
    use: Check of its single use if there are `carried` sums or residuals, or a
      `home`.
    home: Zeros [L, ...] at `home_level`, whose gradient is the stack at that
      level. The forward pass then brings each layer there, once. None: it stays
      at `params_level`.
    home_level: See `home`.
  """

  piece: Any
  slot: Any
  spec: LeafSpec
  params_level: Level
  grads_level: Level
  how: Collectives
  is_kept: bool
  is_ahead: bool = False
  carried: Any = None
  sums_level: Level | None = None
  use: 'OneUse | None' = None
  home: Any = None
  home_level: Level | None = None

  @property
  def step_level(self) -> Level:
    """Level of the pieces that a step gathers."""
    at = self.params_level, self.home_level
    return at[0] if at[1] is None else at[1]

  @property
  def argument(self) -> Any:
    """What a loss is differentiated by."""
    return self.slot if self.home is None else (self.slot, self.home)

  def given(self, argument: Any, use: 'OneUse | None') -> 'LayerPiece':
    """With the traced `argument` of a loss."""
    slot, home = (argument, None) if self.home is None else argument
    return dataclasses.replace(self, slot=slot, home=home, use=use)

  @property
  def is_once(self) -> bool:
    """Whether a loss must run the stack exactly once."""
    held = self.carried, self.home
    return isinstance(self.slot, tuple) or any(x is not None for x in held)

  def brought(self, x: jax.Array, is_landing: bool) -> jax.Array:
    """A layer's piece, first from other groups, then at `home_level`."""
    if self.home_level is None:
      return x
    between = self.params_level, Level.INTRA
    levels = (Level.INTRA, self.home_level) if is_landing else between
    x = transition.coarsen(x, self.spec, *levels)
    return self.spec.constrain(to_varying(x))

  def gather(self) -> jax.Array:
    """Gathers the whole layer; call it on one layer, in `shard_map`."""
    if self.carried is not None or self.home is not None:
      raise _not_once('it runs without overlap')
    if self.slot is None:
      whole = transition.gather(
        self.piece, self.spec, self.params_level, self.how
      )
    else:
      static = dataclasses.replace(self, piece=None, slot=None)
      whole = _gather(self.piece, self.slot, static)
    return checkpoint_name(whole, _GATHERED) if self.is_kept else whole

  def crossed(self, before: jax.Array, addend: Any, slot: Any) -> Any:
    """A layer's value for the slot, of sums over all groups."""
    assert self.sums_level is not None
    args = self.spec, self.sums_level, self.how
    if not isinstance(slot, tuple):
      pair = None, None
      return transition.narrowly_sync(before + addend, *args, pair)[0]
    addend, inside, between = addend
    total, (between, _) = transition.narrowly_sync(
      before + addend, *args, (between, None)
    )
    return total, inside, between

  def __jax_array__(self) -> NoReturn:
    raise TypeError(
      f'A leaf of layers {self.spec.shape} is kept in pieces'
      ' (Trainer(scanned=...)) and cannot be used as an array: run the layers'
      ' by antjax.scan_layers(body, carry, params[...]).'
    )


# `static` is a LayerPiece without arrays.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gather(piece: jax.Array, slot: Any, static: LayerPiece) -> jax.Array:
  del slot
  return transition.gather(piece, static.spec, static.params_level, static.how)


def _gather_fwd(
  piece: jax.Array, slot: Any, static: LayerPiece
) -> tuple[jax.Array, Any]:
  kept = slot if isinstance(slot, tuple) else jnp.empty(0, slot.dtype)
  return _gather(piece, slot, static), kept


def _gather_bwd(
  static: LayerPiece, kept: Any, grad: jax.Array
) -> tuple[None, Any]:
  return None, _reduced(static, kept, grad)


def _reduced(static: LayerPiece, slot: Any, grad: jax.Array) -> Any:
  """A layer's gradient as values of its slot, of which sums are not read."""
  if not isinstance(slot, tuple):
    grad = grad.astype(slot.dtype)
    return transition.reduce_addend(
      grad, static.spec, static.grads_level, static.how
    )
  _, residual, *rest = slot
  addend, residual = transition.narrowly_reduce_addend(
    grad.astype(residual.dtype), static.spec, static.how, residual
  )
  return (addend, residual, *rest)


_gather.defvjp(_gather_fwd, _gather_bwd)


def scan_layers(
  body: Callable[[PyTree, PyTree], PyTree],
  carry: PyTree,
  layers: PyTree,
  *,
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
      multiple of `layers_per_step`.
  """
  sizes = {x.shape[0] for x in jax.tree.leaves(layers)}
  if len(sizes) != 1 or min(sizes) % layers_per_step:
    raise ValueError(
      f'scan_layers: the stacks have {sorted(sizes)} layers; needed is one'
      f' number, a multiple of layers_per_step={layers_per_step}.'
    )
  leaves = jax.tree.leaves(layers, is_leaf=_is_piece)
  pieces = [x for x in leaves if isinstance(x, LayerPiece)]

  def step(carry: PyTree, stack: PyTree) -> PyTree:
    if pieces:
      stack, carry = _pin(stack, carry)
    elif is_pinned:
      stack, carry = lax.optimization_barrier((stack, carry))
    if layers_per_step == 1:
      return body(carry, _whole(stack))
    chunk = [
      _whole(layer) for layer in layer_loop.apart(stack, layers_per_step)
    ]
    for layer in chunk:
      carry = body(carry, layer)
    return carry

  for use, slot in {x.use: x.slot for x in pieces if x.use}.items():
    use.take(slot)
  num_steps = min(sizes) // layers_per_step
  if remat and layers_per_step == 1 < num_steps and _is_ahead(layers, carry):
    return _run_ahead(body, carry, layers, policy)
  if remat:
    if any(x.is_kept for x in pieces):
      keep = jax.checkpoint_policies.save_only_these_names(_GATHERED)
      both = jax.checkpoint_policies.save_from_both_policies
      policy = keep if policy is None else both(policy, keep)
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
  """Whether all leaves ask for it and the carry has gradients."""
  return all(
    _is_piece(x) and x.is_ahead and not x.is_kept
    for x in jax.tree.leaves(layers, is_leaf=_is_piece)
  ) and all(
    jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    for x in jax.tree.leaves(carry)
  )


def _run_ahead(
  body: Callable[[PyTree, PyTree], PyTree],
  carry: PyTree,
  layers: PyTree,
  policy: Callable[..., bool] | None,
) -> PyTree:
  leaves, treedef = jax.tree.flatten(layers, is_leaf=_is_piece)
  trained = [x for x in leaves if x.slot is not None]

  def gather(pieces: list[jax.Array]) -> list[jax.Array]:
    return [
      transition.gather(piece, x.spec, x.step_level, x.how)
      for piece, x in zip(pieces, leaves, strict=True)
    ]

  def bring(pieces: list[jax.Array], *, is_landing: bool) -> list[jax.Array]:
    pairs = zip(pieces, leaves, strict=True)
    return [x.brought(piece, is_landing) for piece, x in pairs]

  def reduce(grads: list[jax.Array], slots: list[PyTree]) -> list[PyTree]:
    return [
      _reduced(x, slot, grad)
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

  return layer_loop.run(
    lambda carry, layer: body(carry, jax.tree.unflatten(treedef, layer)),
    carry,
    [x.piece for x in leaves],
    [x.slot for x in leaves],
    layer_loop.LayerTransfers(
      gather,
      reduce,
      cross if any(x.carried is not None for x in trained) else None,
      functools.partial(bring, is_landing=False),
      functools.partial(bring, is_landing=True),
    ),
    policy,
    [x.home for x in leaves],
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
  held = [x.piece if _is_piece(x) else None for x in leaves]
  held, carry = lax.optimization_barrier((held, carry))
  leaves = [
    dataclasses.replace(x, piece=piece) if _is_piece(x) else x
    for x, piece in zip(leaves, held, strict=True)
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
