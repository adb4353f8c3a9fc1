# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Chooses a PaRO code by memory, traffic and time, from shapes only.

The guideline is the paper's ("Rethinking Memory and Communication Costs for
Efficient Data Parallel Training of Large Language Models", section 3.1.3): of
the codes that fit, the fastest. Bytes and seconds are our own: those of the
collectives that the step really runs, leaf by leaf, in two phases, with times
by `antjax.collectives.cost_model` and overlap by `step_time`. The paper's time
model, max(communication, compute), is in tests/plan/guideline_test.py.
"""

import dataclasses
import math
from typing import Any, cast

from jax.sharding import AbstractMesh, Mesh
import numpy as np
import optax

from antjax.collectives.cost_model import Cluster, Links
from antjax.mesh.mesh import INTER, INTRA
from antjax.mesh.paro import Level, PaRO, VALID_CODES
from antjax.plan import step_time
from antjax.plan.moves import moves
from antjax.plan.step_time import Hiding
from antjax.train.state import Layout

# Codes whose predicted times differ by less are considered equally fast.
_TIE = 0.001
_HIDING = Hiding.of('gpu')


@dataclasses.dataclass(frozen=True)
class Row:
  """Costs of one code; bytes are per device."""

  code: str  # PaRO code.
  params_bytes: int  # Parameters between steps.
  grads_bytes: int  # Gradient accumulators, fp32, and residuals of int8 sums.
  opt_state_bytes: int  # Optimizer state and, in mixed precision, masters.
  # Bytes at the peak of a step: gathered parameters, and gradients before
  # reduction.
  transient_bytes: int
  activation_bytes: int  # Bytes of activations, from the arguments of `plan`.
  intra_bytes: float  # Sent inside the group per micro-batch.
  inter_bytes: float  # Sent to other groups per micro-batch.
  intra_bytes_at_end: float  # Sent inside the group once per step.
  inter_bytes_at_end: float  # Sent to other groups once per step.
  comm_s: float  # Total seconds of communication in a step.
  exposed_s: float  # The part that does not overlap with computation.
  compute_s: float  # Seconds of computation in a step.
  step_s: float  # Predicted seconds of a step.
  fits: bool  # Whether the peak fits in the device's memory.
  num_micro_batches: int  # Number of micro-batches per step.

  @property
  def state_bytes(self) -> int:
    """Parameters, gradient accumulators and optimizer state."""
    return self.params_bytes + self.grads_bytes + self.opt_state_bytes

  @property
  def peak_bytes(self) -> int:
    return self.state_bytes + self.transient_bytes + self.activation_bytes

  @property
  def intra_bytes_per_step(self) -> float:
    return self.num_micro_batches * self.intra_bytes + self.intra_bytes_at_end

  @property
  def inter_bytes_per_step(self) -> float:
    return self.num_micro_batches * self.inter_bytes + self.inter_bytes_at_end

  @property
  def is_elastic(self) -> bool:
    return PaRO.from_code(self.code).is_elastic


@dataclasses.dataclass(frozen=True)
class ParoPlan:
  """All codes for one job."""

  # One row per valid code, in the order of `VALID_CODES`.
  rows: tuple[Row, ...]
  best: Row  # The chosen code; if none fits, the one that needs the least.
  reason: str  # Reason, in one sentence.
  cluster: Cluster
  device_bytes: int | None  # Memory of a device; None: no bound.

  def row(self, code: str) -> Row:
    """The row of a code."""
    return self.rows[VALID_CODES.index(code)]

  def frontier(self) -> tuple[Row, ...]:
    """Codes that no other code beats in both peak memory and communication.

    Codes with the least communication, and most memory, come first.
    """
    front: list[Row] = []
    for row in sorted(self.rows, key=lambda r: (r.comm_s, r.peak_bytes)):
      if not front or row.peak_bytes < front[-1].peak_bytes:
        front.append(row)
    return tuple(front)


def plan(
  params: Any,
  optimizer: optax.GradientTransformation,
  *,
  num_groups: int,
  group_size: int,
  links: Links,
  num_micro_batches: int,
  compute_s: float,
  activation_bytes: int = 0,
  device_bytes: int | None = None,
  regather: bool = True,
  hiding: Hiding = _HIDING,
  sums_dtype: str | None = None,
  elastic_only: bool = False,
  **options: Any,
) -> ParoPlan:
  """Compares all codes for a model and a cluster; allocates nothing.

  Args:
    params: Tree of arrays or ShapeDtypeStructs, as for `Trainer.init`.
    optimizer: Optax transform.
    num_groups: Number of groups of the mesh.
    group_size: Number of devices per group.
    links: Speeds of the links.
    num_micro_batches: Number of micro-batches per step.
    compute_s: Compute time of a device per micro-batch, in seconds.
    activation_bytes: Bytes of activations at the peak of a micro-batch.
    device_bytes: Memory of a device; None: every code fits.
    regather: Option of `Trainer`.
    hiding: Communication that the compiler overlaps with computation; that of
      GPUs by default. `Hiding.of('cpu')` adds all times.
    sums_dtype: That of `Collectives`; then only codes that use it are chosen.
    elastic_only: Whether to omit codes whose groups must run in lockstep.
    **options: Options of `Trainer` for `Layout.of`: trainable, scanned,
      compute_dtype, late_params, min_shard_size.

  Raises:
    ValueError: A mesh, count or time is invalid.
  """
  for name, value in (
    ('num_groups', num_groups),
    ('group_size', group_size),
    ('num_micro_batches', num_micro_batches),
  ):
    if value < 1:
      raise ValueError(f'planner.plan({name}={value}) must be at least 1.')
  if not compute_s >= 0:
    raise ValueError(
      f'planner.plan(compute_s={compute_s}): needed are the seconds a device'
      ' computes on a micro-batch, 0 or more.'
    )
  cluster = Cluster(links, num_groups, group_size)
  # A layout only reads the sizes of the axes.
  mesh = cast(Mesh, AbstractMesh((num_groups, group_size), (INTER, INTRA)))
  rows = []
  for code in VALID_CODES:
    paro = PaRO.from_code(code)
    narrow = sums_dtype if paro.grads is Level.INTRA else None
    layout = Layout.of(
      params, mesh, paro, optimizer, sums_dtype=narrow, **options
    )
    parts = layout.bytes_per_device()
    found = moves(layout, regather=regather)
    in_loop = [move for move in found if move.in_loop]
    at_end = [move for move in found if not move.in_loop]
    time = step_time.predict(
      found,
      cluster,
      num_micro_batches=num_micro_batches,
      compute_s=num_micro_batches * compute_s,
      hiding=hiding.under(paro),
    )
    row = Row(
      code=code,
      params_bytes=parts['params'],
      grads_bytes=parts['grads'] + parts.get('residuals', 0),
      opt_state_bytes=parts['opt_state'],
      transient_bytes=transient_bytes(layout, regather),
      activation_bytes=activation_bytes,
      intra_bytes=sum(m.intra_bytes(mesh) for m in in_loop),
      inter_bytes=sum(m.inter_bytes(mesh) for m in in_loop),
      intra_bytes_at_end=sum(m.intra_bytes(mesh) for m in at_end),
      inter_bytes_at_end=sum(m.inter_bytes(mesh) for m in at_end),
      comm_s=time.comm_s,
      exposed_s=time.exposed_s,
      compute_s=time.compute_s,
      step_s=time.step_s,
      fits=True,
      num_micro_batches=num_micro_batches,
    )
    fits = device_bytes is None or row.peak_bytes <= device_bytes
    rows.append(dataclasses.replace(row, fits=fits))
  asked = rows
  if sums_dtype is not None:
    asked = [r for r in rows if PaRO.from_code(r.code).grads is Level.INTRA]
  best, reason = _choose(asked, device_bytes, elastic_only)
  return ParoPlan(tuple(rows), best, reason, cluster, device_bytes)


def transient_bytes(layout: Layout, regather: bool) -> int:
  """Peak bytes on a device beside state, accumulators and activations.

  In a micro-batch: gathered leaves (of a stack one layer, or all if kept),
  their gradients before reduction, and reduced addends of stacks; parameters
  that came late. In the update: the gradient at the optimizer's level.
  """
  paro, mesh = layout.paro, layout.mesh
  gathered = gradient = update = 0
  for leaf, at in zip(layout.leaves, layout.param_levels, strict=True):
    spec = leaf.spec
    if at is not paro.params:
      kept = dataclasses.replace(spec, dtype=leaf.kept_type)
      gathered += kept.bytes_per_device(paro.params, mesh)
    num = math.prod(spec.layer().shape if leaf.is_stack else spec.shape)
    copies = spec.shape[0] if leaf.is_stack and not regather else 1
    if spec.dim is not None and paro.params:
      gathered += num * leaf.kept_type.itemsize * copies
    if not leaf.is_trained:
      continue
    fp32 = dataclasses.replace(spec, dtype=np.dtype(np.float32))
    gradient += num * 4
    if leaf.is_stack:  # The stack of reduced addends, before addition.
      gradient += fp32.bytes_per_device(paro.grads, mesh)
    update += fp32.bytes_per_device(paro.opt_state, mesh)
  return max(gathered + gradient, update)


def _choose(
  rows: list[Row],
  device_bytes: int | None,
  elastic_only: bool,
) -> tuple[Row, str]:
  """The guideline: (row, reason)."""
  asked = [r for r in rows if r.is_elastic or not elastic_only]
  fitting = [r for r in asked if r.fits]
  if not fitting:
    best = min(asked, key=lambda r: r.peak_bytes)
    assert device_bytes is not None
    return best, (
      f'No{" elastic" if elastic_only else ""} code fits into'
      f' {_gb(device_bytes)} a device: {best.code} needs the least,'
      f' {_gb(best.peak_bytes)}; use more devices, smaller micro-batches,'
      ' remat, or freeze parameters.'
    )
  fastest = min(r.step_s for r in fitting)
  ties = [r for r in fitting if r.step_s <= fastest * (1 + _TIE)]
  best = min(ties, key=lambda r: (r.peak_bytes, r.step_s))
  hidden_s = best.comm_s - best.exposed_s
  time = f'communication {_s(best.comm_s)} + compute {_s(best.compute_s)}'
  if hidden_s > _TIE * best.step_s:
    beside = f'max(hidden {_s(hidden_s)}, compute {_s(best.compute_s)})'
    time = f'exposed communication {_s(best.exposed_s)} + {beside}'
  reason = (
    f'{best.code} has the least predicted {time} = {_s(best.step_s)} a step'
  )
  if device_bytes is not None:
    reason += (
      f' of the {len(fitting)} codes that fit into {_gb(device_bytes)} a device'
    )
  if len(ties) > 1:
    reason += f', and of the {len(ties)} codes as fast the least memory'
  reason += f' ({_gb(best.peak_bytes)} at the peak)'
  quicker = [r for r in asked if r.step_s < best.step_s / (1 + _TIE)]
  if quicker:
    other = min(quicker, key=lambda r: r.step_s)
    reason += (
      f'; {other.code} would take {_s(other.step_s)} but needs'
      f' {_gb(other.peak_bytes)}'
    )
  return best, reason + '.'


def _gb(num_bytes: float) -> str:
  for unit, size in (('GB', 1e9), ('MB', 1e6)):
    if num_bytes >= size:
      return f'{num_bytes / size:.3g} {unit}'
  return f'{num_bytes / 1e3:.3g} kB'


def _s(seconds: float) -> str:
  return f'{seconds:.3g} s' if seconds >= 1 else f'{seconds * 1e3:.3g} ms'
