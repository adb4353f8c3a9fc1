# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The scenario column, and the scenario of each click."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from absl import logging
import numpy as np
import pyarrow.parquet as pq

from antjax.jobs.clicks.config import Config

_NONE = 'none'


def place(
  flag: str, wanted: str, kind: str, names: Sequence[str], instead: str = ''
) -> int:
  """Place of what a flag names among what the data have."""
  if wanted not in names:
    raise ValueError(
      f'{flag}={wanted}: the data have the {kind} {", ".join(names) or "none"};'
      f' name one of them{instead}.'
    )
  return list(names).index(wanted)


def find(
  config: Config, folder: pathlib.Path, described: Mapping[str, Any]
) -> tuple[tuple[str, ...], np.ndarray, int | None]:
  """(names, id of the column -> scenario or -1, number of the column)."""
  names = [c['name'] for c in described['ids']]
  wanted, domain = config.scenario, described.get('domain', '')
  if not wanted:
    wanted = next((str(n) for n in ('scene', domain) if n in names), _NONE)
    if domain and wanted == _NONE:
      logging.warning(
        'The domain %s is no scenario here: it is none of ids in the schema.',
        domain,
      )
  if wanted == _NONE:
    return ('all',), np.zeros(1, np.int32), None
  at = place('scenario', wanted, 'id columns', names)
  table = pq.read_table(folder / f'ids_feature_{at}.parquet').to_pydict()
  values = dict(zip(table['id'], table['value'], strict=True))
  groups = [tuple(g.split('+')) for g in config.scenario_groups]
  if not groups:
    groups = [(values[i],) for i in sorted(values)]
  group = {v: g for g, members in enumerate(groups) for v in members}
  if unknown := sorted(set(group) - set(values.values())):
    raise ValueError(
      f'scenario_groups={config.scenario_groups}: {wanted} has no'
      f' {", ".join(unknown)}; it has {", ".join(values[i] for i in values)}.'
    )
  found = np.full(max(values) + 1, -1, np.int32)
  for i, value in values.items():
    found[i] = group.get(value, -1)
  return tuple('+'.join(g) for g in groups), found, at


def of_clicks(
  columns: Mapping[str, np.ndarray],
  groups: np.ndarray,
  at: int | None,
  split: str,
  largest: int,
) -> tuple[np.ndarray, int]:
  """Scenario of each click, int32 [N], and how many are of a new one.

  Clicks whose value training has not seen are taken as of the largest scenario.
  """
  if at is None:
    return np.zeros(len(columns['label']), np.int32), 0
  value = columns['ids'][:, at]
  found = groups[value]
  is_new = (value == 0) & (found < 0) & (largest >= 0)
  found = np.where(is_new, np.int32(largest), found)
  if (found < 0).any():
    raise ValueError(
      f'{(found < 0).sum():,} clicks of {split} are in no scenario:'
      ' --scenario_groups leaves theirs out; name all values.'
    )
  return found, int(is_new.sum())
