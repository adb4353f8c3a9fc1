# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Items that targets are ranked against, drawn once for all models.

LLM-Rec (Tang et al. 2025, https://arxiv.org/abs/2310.14304, section 5.1) ranks
a target against 1,000 items of its domain. The official code draws them without
looking at the user, so that a negative may be the target itself or an item that
the user has; here they are left out, unless asked for.
"""

from absl import logging
import numpy as np

# Shape suffixes: U = examples, L = places of a history.


def draw(
  domains: np.ndarray,
  users: np.ndarray,
  targets: np.ndarray,
  seen: np.ndarray,
  *,
  num: int = 1000,
  seed: int = 0,
  exclude_seen: bool = True,
) -> np.ndarray:
  """Draws items of each target's domain, uniformly, none twice.

  What an example gets depends on the seed and its user only, not on the other
  examples or their order.

  Args:
    domains: int [items], -1 for the padding.
    users: int [U].
    targets: int [U].
    seen: int [U, L], the history; 0 for none.
    num: Items to draw for each; where the domain has fewer, all of them.
    seed: Of the draws.
    exclude_seen: Whether target and history are left out.

  Returns:
    int32 [U, num], filled up with 0; how many are filled up is logged.
  """
  pools = {
    int(d): np.flatnonzero(domains == d).astype(np.int32)
    for d in np.unique(domains[targets])
  }
  found = np.zeros((len(targets), num), np.int32)
  num_short = 0
  for i, (user, target) in enumerate(zip(users, targets, strict=True)):
    pool = pools[int(domains[target])]
    barred = np.zeros(0, np.int32)
    if exclude_seen:
      barred = np.append(seen[i][domains[seen[i]] == domains[target]], target)
      barred = np.unique(barred)
    rng = np.random.default_rng([seed, int(user)])
    size = min(num + len(barred), len(pool))
    drawn = pool[rng.choice(len(pool), size, replace=False)]
    drawn = drawn[~np.isin(drawn, barred)][:num]
    found[i, : len(drawn)] = drawn
    num_short += len(drawn) < num
  if num_short:
    logging.warning(
      'Negatives: %d of %d examples have fewer than %d; their domain has no'
      ' more.',
      num_short,
      len(targets),
      num,
    )
  return found
