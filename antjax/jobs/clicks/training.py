# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One training of a click model, and the scores of its best step."""

from collections.abc import Mapping
import dataclasses
import functools
import json
import math
from typing import Any

import jax
import numpy as np

from antjax import config as config_lib
from antjax.ctr.antm2c.model import ScenarioModel
from antjax.jobs import job as job_lib
from antjax.jobs import run as run_lib
from antjax.jobs.clicks import report as antm2c_report
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.data import ScenarioData
from antjax.metrics import by_slice as scores
from antjax.networks import moments
from antjax.report import job_report
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

# Name of a validation metric -> its name in a table of scores.
METRICS = {'auc': 'AUC', 'gauc': 'GAUC', 'log_loss': 'log-loss', 'ece': 'ECE'}
_LOWER = ('log_loss', 'ece')
# Settings of a job that trains several times, or of where it does.
_NOT_OF_ONE_TRAINING = (
  *('run_dir', 'intra', 'seed', 'num_seeds', 'search', 'table'),
  *('models', 'inputs'),
)
_MOMENT_CLICKS = 1 << 20  # Training clicks that statistics use.


@dataclasses.dataclass(frozen=True)
class SeedResult:
  """What a training reached.

  Attributes:
    seed: Its seed.
    validation: Scores of the validation clicks, by the names in `METRICS`.
    test: Part of the test clicks -> scores; see `antjax.metrics.by_slice`.
    folder: With its metrics and 'predictions.npz': logit of each test click.
  """

  seed: int
  validation: Mapping[str, float]
  test: Mapping[str, scores.Part]
  folder: str


class ClickJob:
  """A model, its trainer and its run folder."""

  def __init__(
    self,
    config: Config,
    job: job_lib.Job,
    data: ScenarioData,
    *,
    seed: int,
    name: str = '',
    dataset: str = '',
  ):
    """Describes the training.

    Args:
      config: The job's, or that of a trial.
      job: The job.
      data: The clicks.
      seed: Seed of parameters and shuffles.
      name: Name of its folder inside the job's; '': by the seed.
      dataset: Name of its data set, no other training's; '': that of the
        folder.
    """
    self._config, self._data, self._seed = config, data, seed
    self._name = name or f'seed_{seed}'
    self._dataset = dataset or self._name
    self._is_initialized = False
    folder = job.run_dir / self._name
    folder.mkdir(parents=True, exist_ok=True)
    self._job = dataclasses.replace(job, run_dir=folder, config=config)
    self._model = ScenarioModel(
      config.model, config.fields, config.network, data.sizes
    )
    self.num_steps = config.steps_for(len(data.splits['train']))
    self._tables = self._model.tables(job.mesh)
    rows = config.batch_size // jax.device_count()
    self.trainer = run_lib.make_trainer(
      config,
      job,
      self._loss,
      config.optimizer.build(self.num_steps),
      jax.eval_shape(self._model.init_params, jax.random.key(0)),
      compute_dtype=config.compute_dtype,
      # A row's fields, and about as much again for each layer.
      activation_bytes=16 * rows * self._model.sizes.flat_width,
      tables=self._tables,
    )

  def _loss(
    self, params: Any, rows: Any, batch: Any, rng: Any
  ) -> tuple[jax.Array, jax.Array]:
    del rng
    vectors = self._tables.lookup(rows, batch['ids'])
    return self._model.loss(params, vectors, batch)

  @functools.cached_property
  def _predict(self) -> Any:
    def predict(params: Any, rows: Any, batch: Any, rng: Any) -> Any:
      del rng
      vectors = self._tables.lookup(rows, batch['ids'])
      return {
        **self._model.logits(params, vectors, batch),
        'index': batch['index'],
        'weight': batch['weight'],
      }

    return predict

  @functools.cached_property
  def _sum_moments(self) -> Any:
    def sums(params: Any, rows: Any, batch: Any, rng: Any) -> Any:
      del rng
      vectors = self._tables.lookup(rows, batch['ids'])
      found = self._model.moment_sums(params, vectors, batch)
      return {n: x.reshape(1, -1) for n, x in found._asdict().items()}

    return sums

  def _moments(self, state: TrainState) -> Any:
    """Moments of the training clicks, if the model needs them; else None."""
    if not self._model.is_normalising:
      return None
    batches = self._data.evaluation('train', self._model, limit=_MOMENT_CLICKS)
    found = self.trainer.predict(state, batches, self._sum_moments)
    S = self._model.sizes.num_scenarios
    sums = {  # Over devices and batches.
      n: x.astype(np.float64).sum(axis=0).reshape(S, -1)
      for n, x in found.items()
    }
    sums['count_S'] = sums['count_S'][:, 0]
    return moments.finish(moments.MomentSums(**sums))

  def run(self) -> SeedResult:
    """Trains or resumes, and scores; does nothing if that is done."""
    folder = self._job.run_dir
    path = folder / 'scores.json'
    made_of = self._settings()
    if path.exists():
      done = json.loads(path.read_text(encoding='utf-8'))
      if done['made_of'] == made_of:
        test = scores.from_json(done['test'])
        return SeedResult(self._seed, done['validation'], test, str(folder))
    state = self.fit()
    validation = self._summary(state)
    found = self.logits(state, 'test')
    logits = found.pop('prediction')
    test = {}
    if len(logits):
      test = scores.score(
        self._columns('test', logits), self._config.score, self._data.scenarios
      )
    conversion = self._data.splits['test'].conversion if found else None
    if conversion is not None:
      columns = self._columns('test', logits)
      test |= scores.conversions(columns, conversion, found, self._config.score)
    if self._job.is_main:
      arrays: dict[str, Any] = {'logit': logits, **found}
      np.savez(folder / 'predictions.npz', **arrays)
      done = {
        'made_of': made_of,
        'validation': validation,
        'test': scores.as_json(test),
      }
      job_report.write_json(path, done)
    return SeedResult(self._seed, validation, test, str(folder))

  def _settings(self) -> dict[str, Any]:
    """What decides the scores, JSON-able."""
    config = config_lib.to_dict(self._config)
    for name in _NOT_OF_ONE_TRAINING:
      config.pop(name, None)
    told = {'config': config, 'seed': self._seed, **self._data.made_of}
    if self._config.conversion:
      told['scored'] = scores.OF_TWO_LABELS
    return json.loads(json.dumps(told))

  def scored(self, result: SeedResult) -> antm2c_report.Scored:
    """What a report says of a result of this training."""
    with np.load(self._job.run_dir / 'predictions.npz') as archive:
      columns = self._columns('test', archive['logit'])
    bins = scores.calibration(columns, self._config.score)
    return antm2c_report.Scored(result.test, bins)

  def initialized_trainer(self) -> Trainer:
    """The trainer, which knows its layout even where all was done before."""
    if not self._is_initialized:
      self.trainer.init(self._model.init_params, seed=self._seed)
    return self.trainer

  def speed(self) -> dict[str, float]:
    """Clicks a second that this training reached."""
    lines = job_report.read_lines(self._job.run_dir)
    return job_report.medians(lines, {'examples/s': 'examples_per_s'})

  def fit(self) -> TrainState:
    """Trains or resumes; the state is the best one."""
    config, data = self._config, self._data
    metric = config.best_metric.removeprefix('validation_')
    run = run_lib.Run(
      self._name,
      config,
      self._job,
      data.made_of | {'model': config.model},
      num_steps=self.num_steps,
      best_mode='min' if metric in _LOWER else 'max',
    )
    state = self.trainer.init(self._model.init_params, seed=self._seed)
    self._is_initialized = True
    batches = data.training(self._model, self._seed, self._dataset)
    return run.fit(self.trainer, state, batches, self.validate)

  def validate(self, state: TrainState) -> dict[str, float]:
    """Scores of the validation clicks, named 'validation_auc' and so on."""
    found = self._summary(state)
    return {f'validation_{name}': x for name, x in found.items()}

  def _summary(self, state: TrainState) -> dict[str, float]:
    """Metrics over all validation clicks together; those with a value."""
    logits = self.logits(state, 'validation')['prediction']
    if not len(logits):
      return {}
    config = dataclasses.replace(self._config.score, num_resamples=0)
    table = scores.score(self._columns('validation', logits), config)
    found = table[scores.ALL].metrics
    values = {name: found[known].value for name, known in METRICS.items()}
    return {name: x for name, x in values.items() if math.isfinite(x)}

  def _columns(self, split: str, logits: np.ndarray) -> dict[str, np.ndarray]:
    """What `scores` reads."""
    return {'prediction': logits, **self._data.splits[split].scored}

  def logits(self, state: TrainState, split: str) -> dict[str, np.ndarray]:
    """`ScenarioModel.logits` of a split's rows, in order; on every process."""
    if split not in self._data.splits:
      return {'prediction': np.zeros(0, np.float32)}
    batches = self._data.evaluation(
      split, self._model, moments=self._moments(state)
    )
    found = self.trainer.predict(state, batches, self._predict)
    index = found.pop('index')
    logits = {}
    for name, values in found.items():
      logits[name] = np.full(len(self._data.splits[split]), np.nan, np.float32)
      logits[name][index] = values
    return logits
