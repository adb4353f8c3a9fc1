# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Click rates of ids on the job's rows, beside the models."""

from collections.abc import Iterator
import itertools

import numpy as np

from antjax.ctr.antm2c import rates
from antjax.jobs.clicks.data import ScenarioData
from antjax.jobs.clicks.report import Scored
from antjax.metrics import by_slice as scores

NAME = 'rates of ids, no network'
_COLUMNS = ('user', 'item', 'ids', 'label', 'labels')
_FIT_CHUNKS = 8  # Of validation, of 64k rows or so: some numbers to fit.


def scored(data: ScenarioData, config: scores.ScoreConfig) -> Scored:
  """Scores of the rates on the test rows."""
  columns = {'prediction': _logits(data), **data.splits['test'].scored}
  return Scored(
    scores.score(columns, config, data.scenarios),
    scores.calibration(columns, config),
  )


def _logits(data: ScenarioData) -> np.ndarray:
  """Logits of the test rows, in their order, float32 [N]."""
  id_names = [f'id {name}' for name in data.maker.id_names]
  names = [*(n for n in ('user', 'item') if data.schema[n]), *id_names]

  def chunks(split: str) -> Iterator[rates.Columns]:
    for found in data.rows_of[split].chunks(_COLUMNS):
      found |= dict(zip(id_names, found['ids'].T, strict=True))
      yield found | {'label': data.maker.labels(found)[:, 0]}

  counted = rates.count(chunks('train'), names)
  if 'validation' in data.rows_of:
    parts = [*itertools.islice(chunks('validation'), _FIT_CHUNKS)]
    if parts:
      counted = counted.fitted(
        {n: np.concatenate([p[n] for p in parts]) for n in (*names, 'label')}
      )
  return np.concatenate([counted.logits(part) for part in chunks('test')])
