# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Predicts the time of a step: computation and exposed communication.

A step waits for collectives that do not overlap with a matrix product. Which
ones do not is taken from schedules of XLA's compilers for twelve layers with
eight micro-batches (benchmarks/results/pods_compiled_2026-12.md):

- Inside the loop over micro-batches, a stack's pieces move a layer ahead, so
  one layer of L is exposed in each pass, two between groups, and of the rest a
  share that the compiler does not overlap, although products last as long.
- Leaves outside stacks, and collectives once per step, are exposed.
- With early sums, those sent to other groups at the step's end overlap, but for
  the last two layers. With late parameters, so do the gathers of the update
  from the third layer on.

The step takes

  exposed + max(computation, hidden)

The model assumes that collectives run at full link speed, one after the other,
and do not slow down products.
"""

from collections.abc import Iterable, Mapping
import dataclasses
from typing import Protocol

from antjax.collectives.cost_model import Cluster
from antjax.mesh.mesh import INTER, INTRA
from antjax.mesh.paro import PaRO
from antjax.plan import census
from antjax.plan.moves import Move

# Exposed layers of a stack, at its start or end. What crosses groups waits for
# what moves inside them, or the other way round.
_ALONE, _ALONE_BETWEEN = 1, 2


class Exposes(Protocol):
  """Estimate of the exposed share of a move."""

  def share(self, move: Move) -> float: ...


@dataclasses.dataclass(frozen=True)
class Scheduled:
  """Shares from a compiled schedule, see `plan_check.exposure`."""

  shares: Mapping[str, float]  # Axis -> exposed share of its bytes.

  def share(self, move: Move) -> float:
    """Exposed share of a move's time."""
    if move.axis == 'both':
      return max(self.shares[INTRA], self.shares[INTER])
    return self.shares[move.axis]


@dataclasses.dataclass(frozen=True)
class Hiding:
  """Shares of a stack's collectives that a compiler does not hide.

  They are those of all layers but the first or last ones.

  Attributes:
    gathers: Exposed share of the gathers inside a group, in the loop.
    reductions: Exposed share of the reductions inside a group, in the loop.
    between: Exposed share of collectives between groups, in the loop.
    sums: Exposed share of the sums to other groups at the step's end.
    params: Exposed share of updated parameters on their way back.
  """

  gathers: float = 1.0
  reductions: float = 1.0
  between: float = 1.0
  sums: float = 1.0
  params: float = 1.0

  @classmethod
  def of(
    cls,
    device: str,
    *,
    overlap: bool = True,
    early_sums: bool = False,
    late_params: bool = False,
  ) -> 'Hiding':
    """Values for a kind of device, by its name in `pod_target` or JAX.

    Kinds without compiled schedules get the values of those that hide the
    least: TPUs those of v5e, GPUs those of H100.
    """
    kind = device.lower()
    is_cpu = kind == 'cpu'
    if is_cpu or not overlap:
      return NOTHING
    name = 'gpu'
    if 'tpu' in kind or kind.startswith('v'):
      name = 'v6e' if kind.startswith(('v6', 'tpu v6')) else 'v5e'
    found = _COMPILED[name]
    return dataclasses.replace(
      found,
      sums=found.sums if early_sums else 1.0,
      params=found.params if late_params else 1.0,
    )

  def under(self, paro: PaRO) -> 'Hiding':
    """Values for a code, which may not allow early sums or late parameters."""
    return dataclasses.replace(
      self,
      sums=self.sums if paro.sums_cross_early else 1.0,
      params=self.params if paro.params_come_back else 1.0,
    )

  def share(self, move: Move) -> float:
    """Exposed share of a move's time."""
    if not move.num_layers:
      return 1.0
    is_gather, is_inside = move.kind == census.ALL_GATHER, move.axis == INTRA
    if not move.in_loop:
      sums = 1.0 if is_inside else self.sums
      steady = self.params if is_gather else sums
    elif move.axis == INTER:
      steady = self.between
    else:
      steady = self.gathers if is_gather else self.reductions
    num = _ALONE if move.in_loop and is_inside else _ALONE_BETWEEN
    alone = min(1.0, num / move.num_layers)
    return alone + (1 - alone) * steady


NOTHING = Hiding()  # XLA:CPU, and any step without overlap.
_COMPILED = {
  'gpu': Hiding(gathers=0.0, reductions=0.0, between=0.0, sums=0.1, params=0.0),
  'v6e': Hiding(
    gathers=0.0, reductions=0.0, between=0.14, sums=0.0, params=0.0
  ),
  # Without SparseCores, reductions are single instructions.
  'v5e': Hiding(gathers=0.13, reductions=1.0, between=1.0, sums=1.0),
}


@dataclasses.dataclass(frozen=True)
class StepTime:
  """A predicted step."""

  comm_s: float  # Total seconds of communication.
  exposed_s: float  # The part that does not overlap with products.
  compute_s: float

  @property
  def step_s(self) -> float:
    return self.exposed_s + max(self.compute_s, self.comm_s - self.exposed_s)


def predict(
  moves: Iterable[Move],
  cluster: Cluster,
  *,
  num_micro_batches: int,
  compute_s: float,
  hiding: Exposes,
) -> StepTime:
  """Predicts a step with these moves.

  Args:
    moves: From `moves.moves`.
    cluster: Groups and the speeds of their links.
    num_micro_batches: Number of micro-batches per step.
    compute_s: Compute time of a device per step, in seconds.
    hiding: Communication that the compiler hides.
  """
  total = exposed = 0.0
  for move in moves:
    times = num_micro_batches if move.in_loop else 1
    seconds = times * seconds_of(move, cluster)
    total += seconds
    exposed += seconds * hiding.share(move)
  return StepTime(total, exposed, compute_s)


def seconds_of(move: Move, cluster: Cluster) -> float:
  """Time of a move's collectives, run one after the other."""
  size = move.num_bytes / move.num_messages
  if move.axis == 'both':
    once = cluster.seconds(move.op, 'hierarchical', size)
  else:
    once = cluster.axis_seconds(move.op, move.axis, size)
  return once * move.num_messages
