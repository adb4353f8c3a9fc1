# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Popularity: every user is shown what training saw most often.

score(u, i) = number of training events of item i.
"""

import dataclasses

import numpy as np

# Shape suffixes: N = items with the padding, B = users, L = history.


@dataclasses.dataclass(frozen=True)
class Popularity:
  """A model of vectors of width 1.

  Attributes:
    counts: int [N], events of each item in training.
  """

  counts: np.ndarray

  def item_vectors(self) -> np.ndarray:
    """float32 [N, 1]."""
    return self.counts[:, None].astype(np.float32)

  def user_vectors(self, history_BL: np.ndarray) -> np.ndarray:
    """float32 [B, 1]."""
    return np.ones((len(history_BL), 1), np.float32)
