# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How texts of unequal length are put into batches."""

import jax
import numpy as np

from antjax.lm.text_encoder import TextEncoder


def test_a_length_that_fills_no_batch_joins_the_next():
  encoder = TextEncoder(
    lambda params, tokens_BT, lengths_B: tokens_BT,
    {},
    dim=1,
    max_tokens=16,
    tokens_per_batch=48,
    devices=jax.devices()[:1],
  )

  def batches(lengths):
    found = encoder._batches(np.asarray(lengths))
    return [(ids.tolist(), rows, tokens) for ids, rows, tokens in found]

  # Twelve of 4 tokens fill a batch; two more of them, padded to 8, cost less
  # than ten empty rows.
  assert batches([3] * 14 + [8]) == [
    (list(range(12)), 12, 4),
    ([12, 13, 14], 6, 8),
  ]
  # Eleven cost more than one empty row.
  assert batches([8] + [3] * 11) == [(list(range(1, 12)), 12, 4), ([0], 6, 8)]
  assert batches([0, 16, 0]) == [([1], 3, 16)]
  assert batches([0]) == batches([]) == []
