# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts in rows: none is split, none lies on another, few slots are empty."""

import numpy as np
import pytest

from antjax.ctr.llm_rec import packing
from antjax.ctr.llm_rec.packing import Lane


def batch(rng, num_users=24, num_titles=200):
  """Lengths like those of users and titles."""
  users = np.minimum(rng.gamma(2.0, 60.0, num_users) + 10, 400)
  titles = np.clip(rng.normal(20, 8, num_titles), 5, 42)
  return np.concatenate([users, titles]).astype(np.int64)


def occupied(lengths, packed, wide, narrow):
  """Texts by slot; fails where two meet or a text leaves its row."""
  widths = [w for w, rows in wide for _ in range(rows)]
  widths += [narrow] * packed.num_narrow
  ends = np.cumsum(widths)
  slots = np.zeros(ends[-1], np.int64)
  for i, (start, length) in enumerate(zip(packed.starts, lengths, strict=True)):
    if start < 0:
      continue
    row = np.searchsorted(ends, start, side='right')
    assert start + length <= ends[row]
    assert not slots[start : start + length].any()
    slots[start : start + length] = i + 1
  return slots


def test_all_texts_fit_where_the_samples_did():
  rng = np.random.default_rng(0)
  samples = [batch(rng) for _ in range(64)]
  shapes = packing.choose(samples, 401, num_shapes=3)
  assert shapes.wide[0].width >= 401 and shapes.narrow == 64
  assert len(shapes.counts) <= 3
  shares = []
  for lengths in samples:
    packed = packing.pack(
      lengths, shapes.wide, shapes.narrow, shapes.counts[-1]
    )
    assert (packed.starts >= 0).all()
    slots = occupied(lengths, packed, shapes.wide, shapes.narrow)
    assert (slots > 0).sum() == lengths.sum()
    shape = next(
      i for i, c in enumerate(shapes.counts) if c >= packed.num_narrow
    )
    shares.append(lengths.sum() / shapes.num_slots(shape))
  assert np.mean(shares) > 0.9


def test_what_does_not_fit_is_left_out_and_told():
  lengths = np.array([30, 9, 8, 0, 8, 20])
  packed = packing.pack(lengths, (Lane(24, 1),), 8, max_narrow=1)
  # 30 is wider than all rows, 9 and the second 8 find no room.
  assert packed.starts.tolist() == [-1, -1, 24, -1, -1, 0]
  assert packed.num_narrow == 1
  occupied(lengths, packed, (Lane(24, 1),), 8)


def test_rows_of_lanes_are_a_multiple_for_chunks():
  rng = np.random.default_rng(1)
  samples = [batch(rng) for _ in range(8)]
  shapes = packing.choose(samples, 401, multiple=4)
  for shape in range(len(shapes.counts)):
    assert all(rows % 4 == 0 for _, rows in shapes.lanes(shape))
  widths = [lane.width for lane in shapes.wide]
  assert widths == sorted(set(widths), reverse=True)
  assert shapes.lanes(0)[-1] == Lane(64, shapes.counts[0])


def test_short_texts_need_no_wide_rows():
  shapes = packing.choose([np.array([3, 9, 12])], 12)
  assert shapes.wide == () and shapes.narrow == 16
  assert shapes.counts == (3,)  # 12 and 3 share a row; a spare one.


@pytest.mark.parametrize('samples', [[], [np.array([13])]])
def test_samples_that_cannot_be_are_refused(samples):
  with pytest.raises(ValueError, match='packing.choose'):
    packing.choose(samples, 12)
