# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the planner is told that a tower's activations take."""

import dataclasses
import types

import pytest

from antjax.ctr.bahe import towers
from antjax.jobs.bahe import model as bahe_model
from antjax.plan import lm_cost
from tests.ctr.bahe import small_clicks

CONFIG = types.SimpleNamespace(compute_dtype='float32', effective_tuning='full')
CLICKS = types.SimpleNamespace(rows_per_device=4, lengths=small_clicks.LENGTHS)


def bytes_of(tower):
  model = small_clicks.click_model(tower)
  return bahe_model.activation_bytes(CONFIG, model, CLICKS)


@pytest.mark.parametrize('num_low', [0, 1, 2])
def test_dedup_takes_its_low_half_more_than_a_store(num_low):
  encoder = small_clicks.encoder(num_low=num_low)
  stored = bytes_of(towers.StoreTower(encoder.high, 2, None))
  assert stored > 0
  dedup = small_clicks.dedup_tower(None, 30, num_low=num_low)
  found = bytes_of(dedup) - stored
  # The tokens' vectors at least; a layer trained on them would take more.
  assert found >= 30 * 5 * encoder.dim * 4
  whole = dataclasses.replace(encoder.high.config, vocab_size=0)
  assert found < lm_cost.activation_bytes(whole, 30, 5)
  dedup = small_clicks.dedup_tower(None, 60, num_low=num_low)
  assert bytes_of(dedup) - stored == 2 * found
