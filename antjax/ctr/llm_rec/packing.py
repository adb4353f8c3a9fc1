# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Puts texts into rows of a few fixed shapes, for `antjax.lm.packed`.

A step's texts are a few long ones (users) and many short ones (titles), other
lengths in each batch; a program has fixed shapes. `choose` looks at sample
batches, the small, the middling and the large ones apart, and makes a shape for
each kind: so many rows of each width as any of them needs. `pack` fills row
after row, each with the longest text that is left and then the longest that
still fits: titles fill what users leave.
"""

import bisect
from collections.abc import Sequence
import itertools
from typing import NamedTuple

import numpy as np

# Shape suffixes: M = texts.

# Rows are so wide, or as wide as the longest text. A token is scored against
# its row: in the narrowest, scores are fewer numbers than an MLP has. Each
# width is an attention of its own to compile.
WIDTHS = (64, 128, 256)
_STEP = 8  # Step of row widths where no text is as long as the narrowest.


class LaneShape(NamedTuple):
  """Rows of one width."""

  width: int
  rows: int


# The widest lane first.
Shape = tuple[LaneShape, ...]


def num_slots(shape: Shape) -> int:
  """Tokens that fit at most."""
  return sum(width * rows for width, rows in shape)


def pack(lengths: np.ndarray, shape: Shape) -> np.ndarray:
  """Places texts; about a microsecond each.

  Args:
    lengths: int [M], tokens of each text; 0 for none.
    shape: The rows.

  Returns:
    int64 [M], slot of each text's first token, counted over all rows of all
    lanes; -1: there was no room, or it is none.
  """
  order = np.argsort(lengths, kind='stable')
  order = order[lengths[order] > 0]
  rest, sizes = order.tolist(), lengths[order].tolist()  # Shortest first.
  starts = np.full(len(lengths), -1, np.int64)
  end = 0
  for width, rows in shape:
    for _ in range(rows):
      start, end = end, end + width
      for place in _fill(sizes, end - start):
        starts[rest.pop(place)] = start
        start += sizes.pop(place)
  return starts


def _fill(sizes: list[int], room: int):
  """Yields places of texts for a row; the caller takes each out of `sizes`.

  Args:
    sizes: Rising.
    room: Tokens of the row.
  """
  while sizes:
    place = bisect.bisect_right(sizes, room) - 1
    if place < 0:
      return
    room -= sizes[place]
    yield place


def choose(
  samples: Sequence[np.ndarray],
  max_length: int,
  *,
  num_shapes: int = 3,
  multiple: int = 1,
) -> tuple[Shape, ...]:
  """Shapes that hold batches like the samples, the smallest first.

  The last one holds all of the samples, and beside them a text of max_length.

  Args:
    samples: Lengths of the texts of each sample batch.
    max_length: Longest text that there can be.
    num_shapes: Shapes to have, at most.
    multiple: Rows of each lane are a multiple of it: chunks, see
      `antjax.lm.packed`.

  Raises:
    ValueError: No sample, or a text longer than max_length.
  """
  longest = max((int(x.max(initial=0)) for x in samples), default=-1)
  if not 0 <= longest <= max_length or num_shapes < 1 or multiple < 1:
    raise ValueError(
      f'packing.choose: {len(samples)} samples, the longest text has {longest}'
      f' tokens, max_length={max_length}, num_shapes={num_shapes}, multiple='
      f'{multiple}; needed is at least one of each, and texts of max_length at'
      ' most.'
    )
  totals = np.array([x.sum() for x in samples])
  found: list[Shape] = []
  for share in np.linspace(0, 1, num_shapes + 1)[1:]:
    most = np.quantile(totals, share, method='higher')
    group = [x for x in samples if x.sum() <= most]
    if share == 1:
      group = [np.append(x, max_length) for x in group]
    shape = _shape_of(group, _widths(max_length), multiple)
    if found and num_slots(shape) <= num_slots(found[-1]):
      found.pop()  # It holds no more than the new one.
    found.append(shape)
  return tuple(found)


def _widths(max_length: int) -> list[int]:
  """Widths that rows may have, the widest first."""
  if max_length <= WIDTHS[0]:
    return [-(-max_length // _STEP) * _STEP]
  widest = -(-max_length // WIDTHS[0]) * WIDTHS[0]
  return [widest, *reversed([w for w in WIDTHS if w < max_length])]


def _shape_of(
  samples: Sequence[np.ndarray], widths: list[int], multiple: int
) -> Shape:
  """The fewest rows that hold each of the samples, the widest first.

  A text may be in any row that is wide enough: rows of a width are what its
  texts need beside the room that wider rows leave.
  """
  shape: Shape = ()
  for width, below in itertools.pairwise([*widths, 0]):
    rows = 0
    for lengths in samples:
      mine = lengths[lengths > below]
      while True:
        is_out = pack(mine, (*shape, LaneShape(width, rows))) < 0
        if not is_out.any():
          break
        rows += max(1, int(mine[is_out].sum()) // width)
        rows = -(-rows // multiple) * multiple
    if rows:
      shape += (LaneShape(width, rows),)
  return shape
