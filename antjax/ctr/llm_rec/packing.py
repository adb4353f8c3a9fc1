# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Puts texts into rows of a few fixed shapes, for `antjax.lm.packed`.

A step's texts are a few long ones (users) and many short ones (titles), other
lengths in each batch; a program has fixed shapes. `choose` looks at sample
batches: wide rows for the longest texts that a batch has seldom exceeded, and a
few numbers of narrow rows. `pack` puts the longest texts first, each into the
row that it fills best; titles fill what users leave. Then the smallest number
of narrow rows that is enough makes the shape.
"""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Widths are multiples of this. Rows of 64 tokens are the narrowest: scores of
# a row are then fewer numbers a token than its MLP has.
STEP = 64
_MIN_STEP = 8  # Of models whose texts are shorter than that.
_SPARE = 1.02  # Narrow rows above those that the samples needed.


class Lane(NamedTuple):
  """Rows of one width."""

  width: int
  rows: int


class Shapes(NamedTuple):
  """The shapes that batches may have.

  Attributes:
    wide: Lanes that are always there, the widest first; may be empty.
    narrow: Width of the last lane's rows.
    counts: Numbers of rows that the last lane may have, rising.
  """

  wide: tuple[Lane, ...]
  narrow: int
  counts: tuple[int, ...]

  def lanes(self, shape: int) -> tuple[Lane, ...]:
    """All lanes of one of the shapes, by its place in `counts`."""
    return (*self.wide, Lane(self.narrow, self.counts[shape]))

  def num_slots(self, shape: int) -> int:
    """Tokens that fit at most."""
    return sum(width * rows for width, rows in self.lanes(shape))


class Packed(NamedTuple):
  """Where texts are.

  Attributes:
    starts: int64, slot of each text's first token, counted over all rows of
      all lanes; -1: there was no room.
    num_narrow: Narrow rows in use.
  """

  starts: np.ndarray
  num_narrow: int


def pack(
  lengths: np.ndarray,
  wide: Sequence[Lane],
  narrow: int,
  max_narrow: int | None = None,
) -> Packed:
  """Places texts, the longest first, each where the least room is left.

  About 2 microseconds a text.

  Args:
    lengths: int [M], tokens of each text; 0 for none.
    wide: See `Shapes`.
    narrow: See `Shapes`.
    max_narrow: Most narrow rows; None: as many as it takes.
  """
  starts = np.full(len(lengths), -1, np.int64)
  free: list[tuple[int, int]] = []  # (room, slot behind it), least room first.
  end = 0
  for width, rows in wide:
    for _ in range(rows):
      end += width
      free.append((width, end))
  free.sort()
  num_narrow = 0
  order = np.argsort(-lengths, kind='stable')
  for i, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
    if not length:
      break
    place = bisect.bisect_left(free, (length, -1))
    if place < len(free):
      room, row_end = free.pop(place)
    elif length <= narrow and num_narrow != max_narrow:
      num_narrow += 1
      end += narrow
      room, row_end = narrow, end
    else:
      continue
    starts[i] = row_end - room
    if room > length:
      bisect.insort(free, (room - length, row_end))
  return Packed(starts, num_narrow)


def choose(
  samples: Sequence[np.ndarray],
  max_length: int,
  *,
  num_shapes: int = 3,
  multiple: int = 1,
) -> Shapes:
  """Shapes that hold batches like the samples.

  Args:
    samples: Lengths of the texts of each sample batch.
    max_length: Longest text that there can be; one row more than the samples
      need is that wide.
    num_shapes: Numbers of narrow rows to have, at most.
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
  step = STEP if max_length > STEP else _MIN_STEP
  narrow = min(STEP, _rounded(max_length, step))
  wide: tuple[Lane, ...] = ()
  if max_length > narrow:
    wide = _wide(samples, max_length, narrow, multiple)
  needed = np.sort([pack(x, wide, narrow).num_narrow for x in samples])
  shares = np.linspace(0, 1, num_shapes + 1)[1:]
  counts = {
    _rounded(max(1, int(np.ceil(_SPARE * count))), multiple)
    for count in np.quantile(needed, shares, method='higher')
  }
  return Shapes(wide, narrow, tuple(sorted(counts)))


def _wide(
  samples: Sequence[np.ndarray], max_length: int, narrow: int, multiple: int
) -> tuple[Lane, ...]:
  """Row i is as wide as the i-th longest text of any sample, and one spare."""
  long = [np.sort(x[x > narrow])[::-1] for x in samples]
  most = np.zeros(max(len(x) for x in long) + 1, np.int64)
  most[-1] = max_length
  for lengths in long:
    most[: len(lengths)] = np.maximum(most[: len(lengths)], lengths)
  # Few widths: each is an attention of its own to compile.
  widths = -(-most // (2 * STEP)) * (2 * STEP)
  widths = np.sort(np.minimum(widths, _rounded(max_length, STEP)))[::-1]
  # Whole chunks, by rows that are wider than need be.
  widths = np.repeat(widths[::multiple], multiple)
  found, rows = np.unique(widths, return_counts=True)
  pairs = zip(found[::-1].tolist(), rows[::-1].tolist(), strict=True)
  return tuple(Lane(width, count) for width, count in pairs)


def _rounded(number: int, step: int) -> int:
  return -(-number // step) * step
