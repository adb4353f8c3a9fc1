# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Compares the collectives of a compiled step with those of its PaRO code."""

from collections.abc import Sequence
import dataclasses
import math

from antjax.mesh.mesh import INTER, INTRA
from antjax.mesh.paro import Level
from antjax.plan import census
from antjax.plan.census import Collective
from antjax.plan.moves import moves
from antjax.train.state import Layout, Leaf

# Losses, weights and norms, once per step and padded to tiles.
_SMALL = 8192
_WHOLE = 'losses, norms, leaves kept whole'
# Scalars by which devices agree on the rounds of a row exchange.
_ROUNDS = 16
_TILE = 8 * 128  # Elements.
# TPU pads arrays scattered between slices to whole tiles.
_PADDING = 1.4
_LANES = 128  # Elements of a tile along the dim that is stored together.
# Edges that TPU exchanges if a reduce-scatter's pieces are not whole tiles.
_EDGES = 0.05


@dataclasses.dataclass(frozen=True)
class Line:
  """All collectives of one kind, axis and place."""

  kind: str  # HLO opcode.
  axis: str  # 'intra', 'inter' or 'both'.
  # Per micro-batch, or once at the step's end; with a single micro-batch there
  # is no loop and all are at the end.
  in_loop: bool
  planned: int  # Elements of the larger side on a device, each time.
  found: int  # The same, in the compiled text.
  # Bytes that a device sends each time, in the compiled text.
  found_bytes: float
  num_found: int  # Number of collectives in the text.
  is_dcn: bool  # Whether they are between TPU slices.
  is_equal: bool  # Whether `found` is as planned.
  note: str = ''  # Remark.


@dataclasses.dataclass(frozen=True)
class Exposure:
  """Traffic of a device along one axis in a step."""

  sent_bytes: float  # All bytes that it sends.
  # Bytes for which the device waits without a concurrent product.
  exposed_bytes: float

  @property
  def share(self) -> float:
    """Exposed share of the sent bytes, 0 to 1."""
    return self.exposed_bytes / self.sent_bytes if self.sent_bytes else 0.0


def exposure(found: Sequence[Collective]) -> dict[str, Exposure]:
  """Axis -> traffic, and the part not hidden behind products.

  A collective over both axes counts on each with its part.

  Args:
    found: Collectives from `census.collectives`, of a scheduled program.
  """
  result = {}
  for axis in (INTRA, INTER):
    sent = [
      (
        c.num_runs() * (c.intra_bytes if axis == INTRA else c.inter_bytes),
        c.is_hidden,
      )
      for c in found
    ]
    result[axis] = Exposure(
      sum(size for size, _ in sent),
      sum(size for size, is_hidden in sent if not is_hidden),
    )
  return result


def compare(
  layout: Layout,
  found: Sequence[Collective],
  *,
  num_micro_batches: int,
  regather: bool = True,
  has_exchange: bool = False,
) -> list[Line]:
  """Lines for all planned or found collectives; those in the loop first.

  Scalars and whole leaves cross both axes once at the end. However the compiler
  splits that, it counts as equal.

  Args:
    layout: Layout of the step's state.
    found: Collectives from `census.collectives`.
    num_micro_batches: Number of micro-batches of the step.
    regather: Option of `Trainer`.
    has_exchange: Whether the loss requests rows itself; a step with tables
      always has an exchange.
  """
  has_loop = num_micro_batches > 1
  has_exchange |= layout.tables is not None
  planned: dict[tuple[str, str, bool], int] = {}
  in_lanes: dict[tuple[str, str, bool], float] = {}
  growth = {leaf.name: _in_lanes(layout, leaf) for leaf in layout.leaves}
  for move in moves(layout, regather=regather):
    if move.axis != 'both':
      key = (move.kind, move.axis, move.in_loop and has_loop)
      num = move.num_elements
      planned[key] = planned.get(key, 0) + num
      in_lanes[key] = in_lanes.get(key, 0) + num * growth[move.name]
  whole = sum(
    math.prod(spec.shape) for spec in layout.trained_specs if spec.dim is None
  ) + _whole_tables(layout)
  peeled = {c.peeled for c in found if c.peeled}  # Outside of the loop.
  num_looped = num_micro_batches - len(peeled)
  seen: dict[tuple[str, str, bool], list[Collective]] = {}
  for c in found:
    in_loop = has_loop and c.in_loop and not _is_of_rounds(c)
    in_loop = in_loop and not c.peeled
    seen.setdefault((c.kind, c.axis, in_loop), []).append(c)
  lines = []
  for key in sorted({*planned, *seen}, key=lambda k: (not k[2], k)):
    kind, axis, in_loop = key
    group = seen.get(key, [])
    each = num_micro_batches if in_loop else 1
    num, sent = _amounts(group, each if not peeled else 1)
    if peeled and in_loop:
      num, sent = num // num_looped, sent / num_looped * each
    elif peeled and num_looped:
      repeated, bytes_ = _amounts(seen.get((kind, axis, True), []), 1)
      share = len(peeled) / num_looped
      num, sent = num - round(repeated * share), sent - bytes_ * share
      if num <= 0 and key not in planned:
        continue
    else:
      num //= each
    want = planned.get(key, 0)
    slack = 0 if in_loop else 2 * whole + _SMALL
    # Between slices each leaf's transfer is padded to whole tiles.
    slack += _TILE * sum(c.is_dcn for c in group)
    most = want * _PADDING
    if any(c.is_dcn for c in group):
      most = max(most, in_lanes.get(key, 0))
    is_equal = want * 0.99 <= num <= most + slack
    note = ''
    is_rows = kind == census.ALL_TO_ALL or (in_loop and num <= _ROUNDS)
    if not want and has_exchange and is_rows:
      is_equal, note = True, 'rows asked for, and how many rounds that takes'
    elif not want and is_equal:
      note = _WHOLE
    elif not want:
      note = 'not planned'
    elif not is_equal:
      note = 'planned, but not found' if not num else 'another amount'
    elif num > want and any(c.is_dcn for c in group):
      note = 'padded to tiles'
    elif num > want and not in_loop:
      note = _WHOLE
    lines.append(
      Line(
        *(kind, axis, in_loop, want, num, sent / each, len(group)),
        is_dcn=any(c.is_dcn for c in group),
        is_equal=is_equal,
        note=note,
      )
    )
  return _pair_scatters(lines)


def _in_lanes(layout: Layout, leaf: Leaf) -> float:
  """Growth of a device's piece by padding one of its dims, the best, to lanes.

  A piece of 18 x 144 is stored as 18 x 256.
  """
  spec = leaf.spec.layer() if leaf.is_stack else leaf.spec
  if spec.dim is None:
    return 1.0
  piece = spec.piece_shape(Level.GLOBAL, layout.mesh)
  sizes = [size for size in piece if size >= _LANES]
  return min((-(-x // _LANES) * _LANES / x for x in sizes), default=1.0)


def _amounts(group: Sequence[Collective], unknown: int) -> tuple[int, float]:
  """(elements, bytes sent per device) in a step."""
  runs = [(c, c.num_runs(unknown)) for c in group]
  return (
    sum(c.num_elements * n for c, n in runs),
    sum((c.intra_bytes + c.inter_bytes) * n for c, n in runs),
  )


def _is_of_rounds(c: Collective) -> bool:
  """Whether it belongs to the row exchange, in its loop over rounds."""
  return c.kind == census.ALL_TO_ALL and c.loops[0] is None


def _whole_tables(layout: Layout) -> int:
  """Elements of replicated tables, plus their number of rows."""
  if layout.tables is None:
    return 0
  specs, num = layout.tables.partition_specs(), 0
  for name, stack in layout.tables.shapes.items():
    if not any(specs[name]['table']):
      num += math.prod(stack['table'].shape) + stack['table'].shape[0]
  return num


def _pair_scatters(lines: list[Line]) -> list[Line]:
  """Accepts an all-reduce inside a group in place of a reduce-scatter.

  On slices whose chips form a plane, libtpu prefers for some shapes an
  all-reduce of which each chip keeps its piece. If pieces are not whole tiles,
  neighbors in the group exchange their edges. Place, level and traffic between
  groups stay as planned.
  """
  result = list(lines)
  for in_loop in (True, False):
    at = {
      line.kind: i
      for i, line in enumerate(result)
      if line.axis == INTRA and line.in_loop == in_loop
    }
    scatter = at.get(census.REDUCE_SCATTER)
    reduce = at.get(census.ALL_REDUCE)
    if scatter is None or reduce is None or result[reduce].planned:
      continue
    want, got = result[scatter].planned, result[scatter].found
    total = got + result[reduce].found
    if got < want <= total <= want * _PADDING + _SMALL:
      note = 'the compiler takes an all-reduce and keeps a piece'
      for i in (scatter, reduce):
        result[i] = dataclasses.replace(result[i], is_equal=True, note=note)
      edges = at.get(census.PERMUTE)
      if edges is not None and result[edges].found <= _EDGES * want:
        note = 'edges of pieces that are no whole tiles'
        result[edges] = dataclasses.replace(
          result[edges], is_equal=True, note=note
        )
  return result


def crosses_groups_in_loop(lines: Sequence[Line]) -> bool:
  """Whether anything in the micro-batch loop crosses groups."""
  return any(
    line.in_loop and line.num_found and line.axis != INTRA for line in lines
  )
