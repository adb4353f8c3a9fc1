# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts in rows: none is split, none lies on another, few slots are empty."""

import numpy as np
import pytest

from antjax.ctr.llm_rec import packing
from antjax.ctr.llm_rec.packing import LaneShape

LONGEST = 401


def batch(rng, num_users=24, num_titles=200):
  """Lengths like those of users and titles."""
  users = np.minimum(rng.gamma(2.0, 60.0, num_users) + 10, 400)
  titles = np.clip(rng.normal(20, 8, num_titles), 5, 42)
  return np.concatenate([users, titles]).astype(np.int64)


def check(lengths, starts, shape):
  """Fails where two texts meet or one leaves its row."""
  ends = np.cumsum([w for w, rows in shape for _ in range(rows)])
  slots = np.zeros(ends[-1], bool)
  for start, length in zip(starts, lengths, strict=True):
    if start < 0:
      continue
    row = np.searchsorted(ends, start, side='right')
    assert start + length <= ends[row]
    assert not slots[start : start + length].any()
    slots[start : start + length] = True


@pytest.mark.parametrize(
  ('num_titles', 'num_shapes', 'least_full'),
  [(200, 3, 0.93), (40, 3, 0.8), (40, 1, 0.6)],
)
def test_samples_fit_and_rows_are_full(num_titles, num_shapes, least_full):
  rng = np.random.default_rng(0)
  samples = [batch(rng, num_titles=num_titles) for _ in range(64)]
  shapes = packing.choose(samples, LONGEST, num_shapes=num_shapes)
  assert 1 <= len(shapes) <= num_shapes
  sizes = [packing.num_slots(shape) for shape in shapes]
  assert sizes == sorted(set(sizes))
  assert shapes[-1][0].width >= LONGEST
  shares = []
  for lengths in samples:
    for shape in shapes:
      starts = packing.pack(lengths, shape)
      if (starts >= 0).all():
        break
    assert (starts >= 0).all()
    check(lengths, starts, shape)
    shares.append(lengths.sum() / packing.num_slots(shape))
  assert np.mean(shares) > least_full
  # Others of the kind fit too.
  others = [batch(rng, num_titles=num_titles) for _ in range(64)]
  num_out = [(packing.pack(x, shapes[-1]) < 0).sum() for x in others]
  assert np.mean(num_out) < 0.5


def test_what_does_not_fit_is_left_out_and_told():
  lengths = np.array([30, 9, 8, 0, 8, 20])
  shape = (LaneShape(24, 1), LaneShape(8, 1))
  starts = packing.pack(lengths, shape)
  # 30 is wider than all rows, 9 finds no room, nor does one of the 8s.
  assert starts.tolist() == [-1, -1, -1, -1, 24, 0]
  check(lengths, starts, shape)


def test_rows_of_lanes_are_a_multiple_for_chunks():
  rng = np.random.default_rng(1)
  samples = [batch(rng) for _ in range(8)]
  for shape in packing.choose(samples, LONGEST, multiple=4):
    assert all(rows % 4 == 0 for _, rows in shape)
    widths = [lane.width for lane in shape]
    assert widths == sorted(set(widths), reverse=True)


@pytest.mark.parametrize(
  ('max_length', 'widths'),
  [
    (12, [16]),
    (64, [64]),
    (65, [128, 64]),
    (256, [256, 128, 64]),
    (300, [320, 256, 128, 64]),
    (401, [448, 256, 128, 64]),
  ],
)
def test_widths(max_length, widths):
  assert packing._widths(max_length) == widths


def test_short_texts_need_no_wide_rows():
  # 12 and 3 share a row; the last shape has room for one more of 12.
  shapes = packing.choose([np.array([3, 9, 12])], 12, num_shapes=2)
  assert shapes == ((LaneShape(16, 2),), (LaneShape(16, 3),))


@pytest.mark.parametrize('samples', [[], [np.array([13])]])
def test_samples_that_cannot_be_are_refused(samples):
  with pytest.raises(ValueError, match='packing.choose'):
    packing.choose(samples, 12)
