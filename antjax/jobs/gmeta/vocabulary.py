# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ids of a prepared data set, and their ids in an earlier run."""

from collections.abc import Iterable, Mapping
import json
import pathlib
from typing import Any

from absl import logging
from etils import epath
import numpy as np
import pyarrow.parquet as pq

from antjax import config as config_lib
from antjax import paths
from antjax.data import output_folder
from antjax.jobs import identity as run_identity
from antjax.serving import delta
from antjax.train import warm_start
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

_CHECKPOINTS = paths.CHECKPOINTS


def read_vocabulary(
  data: pathlib.Path, description: Mapping[str, Any], feature: str
) -> tuple[np.ndarray, np.ndarray]:
  """Values of a feature, str or integers [n], and their ids, int32 [n].

  Raises:
    ValueError: The folder has no such file.
  """
  name = f'ids_{feature}'
  if name not in description['files']:
    raise ValueError(
      f'{data} has no {name}: the values of {feature} are not known. Prepare it'
      ' with launch/prepare_data.py.'
    )
  table = pq.read_table(data / description['files'][name]['path'])
  values = table[feature].to_numpy()
  if values.dtype == object:
    values = values.astype(str)
  return values, table['id'].to_numpy()


def start_from(
  init_from: str,
  name: str,
  data: str,
  features: Iterable[str],
  trainer: Trainer,
  state: TrainState,
) -> TrainState:
  """Starts a model from one that was trained on other data.

  Dense parameters are kept as they are. A value that both data sets have keeps
  its row, at its new id; the rows of new values, the optimizers' state and the
  step are those of `state`, fresh from `trainer`. `name` is the model's, a
  folder of the run; each of its features has a table of its name.

  Raises:
    ValueError: No such run, one of another model, or its data have changed.
  """
  run_dir, step = _find(init_from, name)
  saved = json.loads((run_dir / config_lib.FILE_NAME).read_text())['config']
  old_data, old = output_folder.open_view(saved['data'], 'tasks')
  # Other values may have the run's ids by now.
  run_identity.check(
    run_dir,
    {'data set': run_identity.of_data(old)},
    models=[name],
    is_part=True,
  )
  new_data, new = output_folder.open_view(data, 'tasks')
  sources = {}
  for feature in features:
    if feature not in old['features']:
      raise ValueError(
        f'init_from={init_from}: its data, {old_data}, have no {feature};'
        ' needed are the same features.'
      )
    before = read_vocabulary(old_data, old, feature)
    now = read_vocabulary(new_data, new, feature)
    num_old, num_new = (d['features'][feature]['num_ids'] for d in (old, new))
    sources[feature] = delta.match_rows(before, now, num_old, num_new)
    kept = np.count_nonzero(sources[feature][now[1]] >= 0)
    logging.info(
      '%s: %d values keep their row, %d are new, %d are dropped.',
      feature,
      kept,
      len(now[0]) - kept,
      len(before[0]) - kept,
    )
  folder = run_dir / name / _CHECKPOINTS
  return warm_start.warm_start(trainer, state, folder, step, sources)


def _find(init_from: str, name: str) -> tuple[pathlib.Path, int | None]:
  """The run folder, and the step if `init_from` names a checkpoint of it."""
  paths.check(init_from, 'init_from')
  path = epath.Path(paths.origin(init_from))
  run_dir, step = path, None
  if path.name.isdecimal() and path.parent.name == _CHECKPOINTS:
    run_dir, step = path.parents[1].parent, int(path.name)
  if not (run_dir / config_lib.FILE_NAME).exists():
    raise ValueError(
      f'init_from={init_from} is no run folder of train_gmeta (it has no'
      f' {config_lib.FILE_NAME}) and no checkpoint of one, such as'
      f' RUN/{name}/{_CHECKPOINTS}/400.'
    )
  return paths.fetched(run_dir), step
