# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Finds unnecessary traffic of a jitted training step over slow links.

  report = lint(step, state, batch, mesh=mesh, slow='data', params=state.params)
  print(report)
  report.check('step_lint.json')

Links between groups of devices (DCN, Ethernet) are ten times slower than links
inside. Traffic over them in the loop over micro-batches is repeated in each
iteration, and XLA puts it there silently: a forgotten sharding constraint
causes no error, only lost time. `lint` reads the compiled program, finds the
parameter of each collective, and compares the bytes with the necessary minimum.

Sharding over the slow axis is the author's choice and has its cost: such a
parameter may be gathered twice per micro-batch, for the forward and the
backward pass, and its gradient reduce-scattered once. Such lines are shown but
are not findings. Neither are activations that the program sends explicitly
(`all_to_all` of an embedding, negatives from other devices). Sums in a loop of
arrays that no parameter fits may be of joined gradients: each is a finding.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

import jax
from jax.sharding import Mesh

from antjax.plan import census
from antjax.plan.census import Collective
from antjax.plan.lint_report import Crossing, LintReport

# Losses, norms and counts are not worth a line.
_SMALL_BYTES = 8192
_FEWEST_TURNS = 2  # Assumed iterations of a loop with a computed count.
# GSPMD pads arrays that it splits.
_PADDING = 1.1
# More than this many times the minimum is a finding.
_SLACK = 1.5
# Last part of the source of a collective that the program names. For inserted
# ones XLA's partitioner leaves the operation, e.g. dot_general.
_ASKED_FOR = (
  *('psum', 'pmean', 'pmax', 'pmin', 'all_gather', 'all_to_all', 'ppermute'),
  *('psum_scatter', 'reduce_scatter', 'ragged_all_to_all', 'pbroadcast'),
  *('psum_invariant', 'all_gather_invariant'),
)


@dataclasses.dataclass(frozen=True)
class _Leaf:
  name: str
  shape: tuple[int, ...]  # Shape of the whole leaf.
  is_split: bool  # Whether it is stored split over the slow axis.
  num_split_dims: int  # Number of dims split over any axis.

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  def fits(
    self,
    dims: Sequence[int],
    layers: int,
    depth: int | None,
    splits: Sequence[int],
    may_turn: bool,
  ) -> bool:
    """Whether an array may be the leaf or part of it; `depth`: of a layer."""
    own = list(self.shape)
    if layers > 1:
      if layers not in own[:depth]:
        return False
      own.remove(layers)
    size, num = math.prod(own), math.prod(dims)
    own, dims = [d for d in own if d > 1], [d for d in dims if d > 1]
    was, now = Counter(own), Counter(dims)
    differ = max((was - now).total(), (now - was).total())
    if len(own) == len(dims) and not may_turn:
      differ = sum(a != b for a, b in zip(own, dims, strict=True))
    if len(dims) > 1 and differ > max(1, self.num_split_dims):
      return False  # One dim: it was flattened.
    return any(size <= num * n <= size * _PADDING for n in splits)


@dataclasses.dataclass(frozen=True)
class _Part:
  """One array of a collective, and the leaves that it may be for."""

  collective: Collective
  leaves: tuple[_Leaf, ...]
  runs: int  # Number of times that the whole leaf is sent.
  sent: float

  @property
  def name(self) -> str:
    names = [leaf.name for leaf in self.leaves]
    if len(names) > 3:
      names = [*names[:2], f'{len(names) - 2} more']
    return ' or '.join(names) or 'arrays not attributed'


def lint(
  step: Callable[..., Any],
  *args: Any,
  mesh: Mesh,
  slow: str | Sequence[str],
  params: Any,
  num_micro_batches: int | None = None,
) -> LintReport:
  """Compiles a step and reports what it sends over the slow axis.

  Args:
    step: A jitted function, e.g. `jax.jit(train_step)`.
    *args: Arguments of the step: arrays or ShapeDtypeStructs with shardings.
    mesh: Mesh of the step.
    slow: Mesh axis, or several, that crosses slow links.
    params: Parameter tree of the step, part of `args`, for names, sizes and
      shardings.
    num_micro_batches: Number of micro-batches per step. Needed if a stack has
      as many layers as a step has micro-batches, to distinguish their loops. It
      also sets the iterations of loops with a computed count, 2 without it.

  Raises:
    ValueError: `slow` is not an axis of the mesh, or `step` is not jitted.
  """
  axes = (slow,) if isinstance(slow, str) else tuple(slow)
  if not axes or not set(axes) <= set(mesh.axis_names):
    raise ValueError(
      f'lint: slow={slow!r} is not an axis of the mesh, which has'
      f' {", ".join(mesh.axis_names)}.'
    )
  if not hasattr(step, 'lower'):
    raise ValueError(f'lint: {step!r} is not jitted; pass jax.jit(step).')
  text = step.lower(*args).compile().as_text()
  return lint_text(
    text,
    mesh.shape,
    axes,
    [
      _leaf(path, leaf, mesh, axes)
      for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ],
    num_micro_batches,
  )


def _leaf(path: Any, leaf: Any, mesh: Mesh, slow: Sequence[str]) -> _Leaf:
  sharding: Any = getattr(leaf, 'sharding', None)
  spec = getattr(sharding, 'spec', ())
  dims = [d if isinstance(d, tuple) else (d,) for d in spec if d is not None]
  if dims and sharding.mesh.devices.shape == mesh.devices.shape:
    # A Trainer renames the axes of its user's mesh.
    names = dict(zip(sharding.mesh.axis_names, mesh.axis_names, strict=True))
    dims = [tuple(names[axis] for axis in dim) for dim in dims]
  return _Leaf(
    jax.tree_util.keystr(path, simple=True, separator='.'),
    tuple(leaf.shape),
    any(axis in dim for dim in dims for axis in slow),
    len(dims),
  )


def lint_text(
  text: str,
  mesh_shape: Mapping[str, int],
  slow: Sequence[str],
  leaves: Sequence[_Leaf],
  num_micro_batches: int | None = None,
) -> LintReport:
  """Like `lint`, from the text of a compiled program."""
  groups = math.prod(mesh_shape[axis] for axis in slow)
  lanes = math.prod(mesh_shape.values()) // groups
  splits = sorted(
    {
      math.prod(part)
      for num in range(len(mesh_shape) + 1)
      for part in itertools.combinations(mesh_shape.values(), num)
    }
  )
  turns = num_micro_batches or _FEWEST_TURNS
  parts = [
    part
    for each in census.collectives(text, mesh_shape, slow)
    if each.inter_bytes
    for c in [
      dataclasses.replace(each, loops=tuple(n or turns for n in each.loops))
    ]
    for part in _parts(c, leaves, splits, num_micro_batches)
    if part.sent > _SMALL_BYTES or part.leaves
  ]
  # Groups parts that may be for the same leaves, of one kind and place.
  alike: dict[tuple[Any, ...], list[_Part]] = {}
  for part in parts:
    where = part.collective.in_loop if part.leaves else part.collective.source
    key = (part.name, part.collective.kind, where)
    alike.setdefault(key, []).append(part)
  lines = [_line(same, groups, lanes) for same in alike.values()]
  lines = [line for line in lines if line.sent > _SMALL_BYTES]
  return LintReport(
    tuple(sorted(lines, key=lambda line: (not line.finding, -line.sent)))
  )


def _parts(
  c: Collective,
  leaves: Sequence[_Leaf],
  splits: Sequence[int],
  num_micro_batches: int | None,
) -> Iterator[_Part]:
  loops, runs = [n or 1 for n in c.loops], c.num_runs()
  # Candidates for loops over the layers of a stacked leaf: none, or some of the
  # innermost ones.
  layers = [math.prod(loops[i:]) for i in range(len(loops) + 1)]
  if num_micro_batches and loops and loops[0] == num_micro_batches:
    layers = layers[1:]
  ways: list[tuple[int, int | None]] = [(n, None) for n in layers]
  if not num_micro_batches:  # A dim may equal it by chance.
    ways = [(layers[0], 1), *ways[1:], ways[0]]
  may_turn = c.kind in (census.ALL_REDUCE, census.REDUCE_SCATTER)  # XLA does.
  total = sum(leaf.size for leaf in leaves)
  is_split = any(leaf.is_split for leaf in leaves)
  together = _Leaf('all parameters, joined', (total,), is_split, 1)
  for dims in c.shapes or ((c.num_elements,),):
    sent = c.inter_bytes * runs * math.prod(dims) / max(c.num_elements, 1)
    for times, depth in ways:
      fitting = tuple(
        leaf
        for leaf in leaves
        if leaf.fits(dims, times, depth, splits, may_turn)
      )
      if fitting:
        yield _Part(c, fitting, runs // times, sent)
        break
    else:
      is_flat = sum(n > 1 for n in dims) == 1
      if is_flat and together.fits(dims, 1, 0, splits, False):
        yield _Part(c, (together,), runs, sent)
      else:
        yield _Part(c, (), runs, sent)


def _line(parts: Sequence[_Part], groups: int, lanes: int) -> Crossing:
  """Line of similar parts, with its finding."""
  c = parts[0].collective
  sent = sum(part.sent for part in parts)
  runs = sum(part.runs for part in parts)
  often = max(part.runs for part in parts)
  if parts[0].leaves:
    # Of leaves that look alike, perhaps only some are sent, and these often.
    num, total = len(parts[0].leaves), runs
    runs = max(often, math.ceil(total / num))
    share = total / (runs * num)
    least, finding = _judge(parts, runs, share, sent, groups, lanes)
  elif c.in_loop and c.source.rsplit('/', 1)[-1] not in _ASKED_FOR:
    least = 0.0
    finding = (
      'XLA inserted it for an operation in the loop: constrain its operands to'
      ' shardings that do not cross the slow axis.'
    )
  elif c.in_loop and c.kind == census.ALL_REDUCE and often > 1:
    runs = often
    least = sent / runs
    finding = (
      f'Not attributed to a parameter, and summed in a loop, {runs} times a'
      ' step: sum joined gradients once after the loop. If these are'
      ' activations, accept them with a golden file.'
    )
  else:
    least, finding = sent, ''
  return Crossing(
    *(parts[0].name, c.kind, runs, round(sent), round(least), finding),
    source=c.source or c.name,
  )


def _judge(
  parts: Sequence[_Part],
  runs: int,
  share: float,
  sent: float,
  groups: int,
  lanes: int,
) -> tuple[float, str]:
  """Minimum bytes and finding for all parts of a kind for some leaves.

  `share`: the part of these leaves that is sent `runs` times.
  """
  c = parts[0].collective
  num = share * sum(leaf.size for leaf in parts[0].leaves)
  width = c.num_bytes / max(c.num_elements, 1)
  # All of it once, each lane sending its own part.
  once = num * width * (groups - 1) / groups / lanes
  is_split = any(leaf.is_split for leaf in parts[0].leaves)
  trips = c.loops[0] or 1 if c.in_loop and runs > 1 else 1
  if c.kind == census.ALL_REDUCE:
    if c.in_loop and runs > 1:
      return min(2 * once, sent / runs), (
        f'Summed over the slow axis {runs} times a step: add the gradients of'
        ' micro-batches on each device and sum once after the loop.'
      )
    return _lanes(2 * once, sent, 'sum', runs)
  if c.kind == census.REDUCE_SCATTER:
    return _lanes(once * runs, sent, 'reduce-scatter', runs)
  if c.kind == census.ALL_GATHER:
    if c.in_loop and runs > 1 and not is_split:
      return 0.0, (
        f'Gathered over the slow axis {runs} times a step, though it is not'
        ' stored split over it: keep what is computed from it whole, or reduce'
        ' once after the loop.'
      )
    allowed = 2 * trips if is_split else 1
    if runs > allowed:
      return once * allowed, (
        f'Gathered {runs} times a step where {allowed} would do.'
      )
    return _lanes(once * runs, sent, 'gather', runs)
  if c.in_loop and runs > 1:
    return once, (f'Crosses the slow axis in a loop, {runs} times a step.')
  return _lanes(2 * once, sent, 'send', runs)


def _lanes(
  least: float, sent: float, verb: str, runs: int
) -> tuple[float, str]:
  """Finding if devices of a group send the same."""
  if sent <= _SLACK * least:
    return sent, ''
  return least, (
    f'{sent / least:.1f} times the least: each device of a group sends what the'
    f' group need {verb} once. Split it inside the group first'
    f'{", and do it once" if runs > 1 else ""}.'
  )
