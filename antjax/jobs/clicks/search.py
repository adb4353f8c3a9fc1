# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Optuna search for learning rates and widths on validation clicks only."""

import dataclasses
from typing import Any, TYPE_CHECKING
import weakref

from absl import logging

from antjax.jobs import job as job_lib
from antjax.jobs.clicks.config import Config, SearchConfig
from antjax.jobs.clicks.data import ScenarioData
from antjax.jobs.clicks.training import ClickJob
from antjax.mesh.gather import gather_json

if TYPE_CHECKING:
  import optuna

_DATABASE = 'search.db'


def best_config(config: Config, job: job_lib.Job, data: ScenarioData) -> Config:
  """Runs what is lacking of the trials; the config with the best settings.

  Its `search.num_trials` are all that it was chosen among.

  Trials and their values are in search.db (SQLite) in the run folder; a search
  that was stopped resumes there. All processes train each trial together.

  Raises:
    RuntimeError: Optuna is missing.
    ValueError: There are no validation clicks, or an agent is about.
  """
  if 'validation' not in data.splits:
    raise ValueError('search: the data have no validation clicks to choose by.')
  if job.agent is not None:
    raise ValueError('search: not under agents; search first, train then.')
  study = _study(config, job) if job.is_main else None
  num_done = _from_main(study and len(_trials(study, 'COMPLETE')))
  for _ in range(num_done, config.search.num_trials):
    trial = study.ask() if study else None
    values = _from_main(trial and _suggest(trial, config.search))
    number = _from_main(trial and trial.number)
    tried = with_values(config, values)
    result = ClickJob(
      tried, job, data, seed=config.seed, name=f'trials/{number}'
    ).run()
    value = result.validation[config.best_metric.removeprefix('validation_')]
    if study is not None and trial is not None:
      study.tell(trial, value)
      logging.info('Trial %d: %s = %.5f', number, config.best_metric, value)
  best = _from_main(study and study.best_params)
  num_trials = max(num_done, config.search.num_trials)
  logging.info('Search: chosen among %d trials: %s', num_trials, best)
  search = dataclasses.replace(config.search, num_trials=num_trials)
  return dataclasses.replace(with_values(config, best), search=search)


def with_values(config: Config, values: dict[str, Any]) -> Config:
  """The config with what a trial suggests."""
  widths: Any = tuple(int(part) for part in values['widths'].split('+'))
  return dataclasses.replace(
    config,
    optimizer=dataclasses.replace(
      config.optimizer,
      learning_rate=values['learning_rate'],
      weight_decay=values['weight_decay'],
    ),
    fields=dataclasses.replace(
      config.fields, learning_rate=values['row_learning_rate']
    ),
    network=dataclasses.replace(config.network, **{'widths': widths}),
  )


def _suggest(trial: 'optuna.Trial', search: SearchConfig) -> dict[str, Any]:
  found: dict[str, Any] = {
    name: trial.suggest_float(name, *getattr(search, name), log=True)
    for name in ('learning_rate', 'row_learning_rate', 'weight_decay')
  }
  found['widths'] = trial.suggest_categorical('widths', search.widths)
  return found


def _study(config: Config, job: job_lib.Job) -> 'optuna.Study':
  try:
    import optuna
  except ImportError as e:
    raise RuntimeError(
      "search.num_trials needs Optuna: pip install 'antjax[search]'."
    ) from e
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  lower = config.best_metric.endswith(('log_loss', 'ece'))
  path = (job.run_dir / _DATABASE).absolute()
  storage = optuna.storages.RDBStorage(f'sqlite:///{path}')
  study = optuna.create_study(
    study_name=config.model,
    storage=storage,
    sampler=optuna.samplers.TPESampler(seed=config.seed),
    direction='minimize' if lower else 'maximize',
    load_if_exists=True,
  )
  weakref.finalize(study, storage.engine.dispose)  # Closes its connections.
  # A trial that was cut short is told so, and another one takes its place.
  for trial in _trials(study, 'RUNNING'):
    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
  return study


def _trials(study: 'optuna.Study', state: str) -> list[Any]:
  found = study.get_trials(deepcopy=False)
  return [trial for trial in found if trial.state.name == state]


def _from_main(value: Any) -> Any:
  """Process 0's value, JSON-able, on every process."""
  return gather_json(value)[0]
