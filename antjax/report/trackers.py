# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trackers of a run's metrics, in addition to `metrics.jsonl`.

TensorBoard, Weights & Biases and MLflow; the latter two are imported on demand.
They read their own variables for projects, servers and keys: WANDB_PROJECT,
WANDB_MODE, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME.
"""

from collections.abc import Iterable, Iterator, Mapping
import importlib.util
import itertools
import json
import pathlib
import re
from typing import Any, Protocol

import tensorboardX

# Tracker -> its package.
PACKAGES = {
  'tensorboard': 'tensorboardX',
  'wandb': 'wandb',
  'mlflow': 'mlflow',
}
_IDS_FILE = 'trackers.json'  # Tracker -> its id of the run, for a resume.
_MLFLOW_BATCH = 100  # Maximum number of settings per request,
_MLFLOW_LENGTH = 500  # and of characters per setting.
_NOT_MLFLOW = re.compile(r'[^\w\-. :/]')


class Tracker(Protocol):
  """Receiver of the metrics of a run."""

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Records the metrics of a step, counted from 0."""

  def close(self) -> None:
    """Flushes and ends."""


def check(names: Iterable[str]) -> None:
  """Rejects unknown or missing trackers.

  Raises:
    ValueError: One is unknown or not installed.
  """
  names = list(names)
  if unknown := sorted(set(names) - set(PACKAGES)):
    raise ValueError(
      f'trackers={",".join(names)}: {", ".join(unknown)} unknown; use some of'
      f' {", ".join(PACKAGES)}.'
    )
  missing = [
    PACKAGES[name]
    for name in names
    if importlib.util.find_spec(PACKAGES[name]) is None
  ]
  if missing:
    raise ValueError(
      f'trackers={",".join(names)}: not installed; run'
      f' `pip install {" ".join(missing)}`.'
    )


def opened(
  names: Iterable[str],
  folder: pathlib.Path,
  *,
  resume_step: int,
  config: Mapping[str, Any],
) -> dict[str, Tracker]:
  """Opens or resumes the trackers of the run in a folder, by name.

  Raises:
    RuntimeError: A tracker cannot start, e.g. without a login.
  """
  path, known = folder / _IDS_FILE, dict[str, str]()
  if resume_step and path.exists():
    known = json.loads(path.read_text(encoding='utf-8'))
  title = '/'.join(folder.absolute().parts[-2:])
  found, ids = dict[str, Tracker](), dict[str, str]()
  for name in names:
    if name == 'tensorboard':
      found[name] = _TensorBoard(folder / 'tensorboard', resume_step)
      continue
    make: Any = {'wandb': _WandB, 'mlflow': _MLflow}[name]
    try:
      found[name] = tracker = make(folder, title, config, known.get(name))
    except Exception as error:
      raise RuntimeError(
        f'trackers={name}: it cannot start a run ({error}). Log in to it, set'
        ' its variables, or leave it out.'
      ) from error
    ids[name] = tracker.id
  if ids:
    path.write_text(json.dumps(known | ids), encoding='utf-8')
  return found


class _TensorBoard:
  """TensorBoard events, without those of lost steps."""

  def __init__(self, folder: pathlib.Path, resume_step: int):
    self._events = tensorboardX.SummaryWriter(
      str(folder), purge_step=resume_step, flush_secs=10
    )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
      self._events.add_scalar(name, value, step)

  def close(self) -> None:
    self._events.close()


class _WandB:
  """A run of Weights & Biases, which keeps the first value of a step."""

  def __init__(
    self,
    folder: pathlib.Path,
    title: str,
    config: Mapping[str, Any],
    known: str | None,
  ):
    import wandb

    self._run: Any = wandb.init(
      dir=str(folder),
      name=title,
      config=dict(config),
      id=known,
      resume='allow',
      reinit='create_new',  # A job may train several models.
    )
    self.id: str = self._run.id

  def write(self, step: int, values: Mapping[str, float]) -> None:
    self._run.log(dict(values), step=step)

  def close(self) -> None:
    self._run.finish()


class _MLflow:
  """A run of MLflow; metrics are sent in the background."""

  def __init__(
    self,
    folder: pathlib.Path,
    title: str,
    config: Mapping[str, Any],
    known: str | None,
  ):
    del folder
    import mlflow

    self._mlflow: Any = mlflow
    run = mlflow.start_run(run_id=known, run_name=title, nested=True)
    self.id: str = run.info.run_id
    if known is None:
      settings = _flat(config)
      while batch := dict(itertools.islice(settings, _MLFLOW_BATCH)):
        mlflow.log_params(batch)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    named = {_NOT_MLFLOW.sub('_', name): x for name, x in values.items()}
    self._mlflow.log_metrics(
      named, step=step, run_id=self.id, synchronous=False
    )

  def close(self) -> None:
    self._mlflow.flush_async_logging()
    self._mlflow.end_run()


def _flat(
  config: Mapping[str, Any], prefix: str = ''
) -> Iterator[tuple[str, str]]:
  """Settings as texts, by dotted name."""
  for name, value in config.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f'{prefix}{name}.')
    else:
      yield prefix + name, str(value)[:_MLFLOW_LENGTH]
