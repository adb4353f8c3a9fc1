# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where a method is behind: the rival of each part, and paired intervals."""

import numpy as np
import pytest

from antjax.jobs.llm_rec import gaps


def test_gaps_are_paired_and_against_the_best_other_one():
  gains = {
    'mine': np.array([0.0, 0.2, 0.4, 0.5]),
    'words': np.array([0.5, 0.7, 0.9, 0.1]),
    'counts': np.array([0.0, 0.0, 0.0, 0.6]),
  }
  parts = {
    'all': np.ones(4, bool),
    'new': np.array([True, True, True, False]),
    'one': np.array([True, False, False, False]),
  }
  both = gaps.gaps(gains, ['mine'], parts)
  assert [(gap.part, gap.rival, gap.verdict) for gap in both] == [
    ('all', 'words', 'level'),
    ('new', 'words', 'behind'),
  ]
  assert both[1].difference == pytest.approx(-0.5)
  assert both[1].width == pytest.approx(0, abs=1e-9)
  less = gains['mine'] - gains['words']
  assert both[0].width == pytest.approx(1.96 * less.std(ddof=1) / 2)
  assert both[1].row()[1:] == (
    '3 mine 0.2000 words 0.7000 -0.5000 0.0000 behind'.split()
  )
  assert not gaps.gaps({'mine': gains['mine']}, ['mine'], parts)
