# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A device's piece of a stack of layers, and how a layer is made of it."""

import dataclasses
import functools
from typing import Any, NoReturn

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from antjax.collectives import transition
from antjax.collectives.choose import Collectives
from antjax.collectives.varying import to_varying
from antjax.mesh.paro import Level
from antjax.mesh.sharding import LeafSpec

GATHERED = 'antjax_gathered_layer'  # Name of a gathered layer, for policies.


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
    'early_sums, late_params and sums_dtype=int8 need a loss that runs each of'
    ' its stacks by one call of scan_layers, outside of loops, the first two'
    f' with remat; {how}. Leave out those that are set (of a job: --early_sums,'
    ' --late_params, --sums_dtype=int8).'
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
    return checkpoint_name(whole, GATHERED) if self.is_kept else whole

  def reduced(self, slot: Any, grad: jax.Array) -> Any:
    """A layer's gradient as values of its slot, of which sums are not read."""
    if not isinstance(slot, tuple):
      grad = grad.astype(slot.dtype)
      return transition.reduce_addend(
        grad, self.spec, self.grads_level, self.how
      )
    _, residual, *rest = slot
    addend, residual = transition.narrowly_reduce_addend(
      grad.astype(residual.dtype), self.spec, self.how, residual
    )
    return (addend, residual, *rest)

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
  return None, static.reduced(kept, grad)


_gather.defvjp(_gather_fwd, _gather_bwd)
