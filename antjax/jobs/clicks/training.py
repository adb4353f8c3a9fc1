# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One training of a click model, and the scores of its best step."""

from collections.abc import Mapping
import dataclasses
import json
import math
import pathlib
from typing import Any

import jax
from jax import lax
import numpy as np

from antjax import config as config_lib
from antjax.ctr.antm2c.model import ScenarioModel
from antjax.embedding.home import HomeConfig
from antjax.jobs import job as job_lib
from antjax.jobs import run as run_lib
from antjax.jobs import trainer as trainer_lib
from antjax.jobs.clicks import export
from antjax.jobs.clicks import report as antm2c_report
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.data import ScenarioData
from antjax.metrics import by_slice as scores
from antjax.networks import moments
from antjax.report import job_report
from antjax.serving import functions as serving
from antjax.train.state import TrainState

# Name of a validation metric -> its name in a table of scores.
METRICS = {'auc': 'AUC', 'gauc': 'GAUC', 'log_loss': 'log-loss', 'ece': 'ECE'}
_LOWER = ('log_loss', 'ece')
# Settings of a job that trains several times, or of where it does.
_NOT_OF_ONE_TRAINING = (
  *('run_dir', 'intra', 'seed', 'num_seeds', 'search', 'table'),
  *('models', 'inputs', 'rates', 'deltas'),
  *('follow', 'follow_config', 'follow_poll_s'),
)
_MOMENT_CLICKS = 1 << 20  # Training clicks that statistics use.


@dataclasses.dataclass(frozen=True)
class SeedResult:
  """What a training reached."""

  seed: int
  validation: Mapping[str, float]  # By the names in `METRICS`.
  test: Mapping[str, scores.Part]  # By part, see `metrics.by_slice`.
  folder: str  # With 'predictions.npz': the logit of each test click.


class ClickJob:
  """A model, its trainer and its run folder."""

  is_started = False  # Whether the trainer knows its layout.

  def __init__(
    self,
    config: Config,
    job: job_lib.Job,
    data: ScenarioData,
    *,
    seed: int,
    name: str = '',
    dataset: str = '',
    is_exported: bool = False,
  ):
    """Describes the training, with the config of the job or of a trial.

    Its folder inside the job's is `name`, or goes by the seed; its data set is
    `dataset`, no other training's, or has the name of the folder. The model is
    written to `export.FOLDER` there if it is exported.
    """
    self._is_exported = is_exported
    self._config, self._data, self._seed = config, data, seed
    self.schema = data.schema  # Of the events.
    self._name = name or f'seed_{seed}'
    self._dataset = dataset or self._name
    folder = job.run_dir / self._name
    folder.mkdir(parents=True, exist_ok=True)
    self._job = dataclasses.replace(job, run_dir=folder, config=config)
    self.model = model = ScenarioModel(
      config.model, config.fields, config.network, data.sizes
    )
    num_examples = len(data.splits['train'])
    self._num_steps = config.steps_for(num_examples)
    fields, home = config.fields, None
    rate = config.optimizer.schedule(self._num_steps, fields.learning_rate)
    if fields.device_rows:
      of_run = pathlib.Path(fields.home or job.run_dir) / self._name / 'rows'
      home = HomeConfig(folder=str(of_run), device_rows=fields.device_rows)
    self.tables = tables = model.tables(job.mesh, rate, num_examples, home)

    def loss(params: Any, rows: Any, batch: Any, rng: Any) -> Any:
      vectors = tables.lookup(rows, batch['ids'])
      return model.loss(params, vectors, batch, rng)

    def predict(params: Any, rows: Any, batch: Any, rng: Any) -> Any:
      del rng
      vectors = tables.lookup(rows, batch['ids'])
      # An exported model gets them ready: the same programs give the same bits.
      params, vectors = lax.optimization_barrier((params, vectors))
      kept = {name: batch[name] for name in ('index', 'weight')}
      return {**model.logits(params, vectors, batch), **kept}

    def sum_moments(params: Any, rows: Any, batch: Any, rng: Any) -> Any:
      del rng
      vectors = tables.lookup(rows, batch['ids'])
      found = model.moment_sums(params, vectors, batch)
      return {n: x.reshape(1, -1) for n, x in found._asdict().items()}

    # Made once: they are compiled once.
    self._predict, self._sum_moments = predict, sum_moments
    rows = config.batch_size // jax.device_count()
    self.trainer = trainer_lib.make_trainer(
      config,
      job,
      loss,
      config.optimizer.build(self._num_steps),
      jax.eval_shape(model.init_params, jax.random.key(0)),
      compute_dtype=config.compute_dtype,
      # A row's fields, and about as much again for each layer.
      activation_bytes=16 * rows * model.sizes.flat_width,
      tables=tables,
      mutable=model.mutable.__contains__ if model.mutable else None,
    )

  def start(self) -> TrainState:
    """A fresh state; then the trainer knows its layout."""
    self.is_started = True
    return self.trainer.init(self.model.init_params, seed=self._seed)

  def checked(self) -> run_lib.Run:
    """The run in the folder, if it is of these data and settings."""
    metric = self._config.best_metric.removeprefix('validation_')
    return run_lib.Run(
      self._name,
      self._config,
      self._job,
      self._data.made_of | {'model': self._config.model},
      num_steps=self._num_steps,
      best_mode='min' if metric in _LOWER else 'max',
      free=_NOT_OF_ONE_TRAINING,
    )

  def run(self) -> SeedResult:
    """Trains or resumes, and scores; does nothing if that is done."""
    config, data, folder = self._config, self._data, self._job.run_dir
    path = folder / 'scores.json'
    made_of = self._settings()
    if path.exists():
      done = json.loads(path.read_text(encoding='utf-8'))
      if done['made_of'] == made_of:
        test = scores.from_json(done['test'])
        return SeedResult(self._seed, done['validation'], test, str(folder))
    run = self.checked()
    batches = data.training(self.model, self._seed, self._dataset)
    state = run.fit(
      self.trainer,
      self.start(),
      batches,
      lambda state: {
        f'validation_{name}': x for name, x in self._summary(state).items()
      },
    )
    validation = self._summary(state)
    if self._is_exported:
      self._export(state, folder)
    found = self.logits(state, 'test')
    logits = found.pop('prediction')
    test = {}
    if len(logits):
      columns = self._columns('test', logits)
      test = scores.score(columns, config.score, data.scenarios)
      labels = data.splits['test'].every_label(data.sizes.labels)
      test |= scores.tasks(columns, labels, found, config.score)
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

  def _export(self, state: TrainState, folder: pathlib.Path) -> None:
    """Writes the model; a collective call."""
    trained = export.Trained(
      self.model,
      self.tables,
      self.trainer.params(state),
      serving.table_rows(self.tables, state.tables),
      self._moments(state),
      int(state.step),
    )
    if self._job.is_main:
      mesh = self._job.mesh
      export.write(folder, self._config, self._data, trained, mesh)

  def _settings(self) -> dict[str, Any]:
    """What decides the scores, JSON-able."""
    config = config_lib.to_dict(self._config)
    for name in _NOT_OF_ONE_TRAINING:
      config.pop(name, None)
    told = {'config': config, 'seed': self._seed, **self._data.made_of}
    return json.loads(json.dumps(told))

  def scored(self, result: SeedResult) -> antm2c_report.Scored:
    """What a report says of a result of this training."""
    with np.load(self._job.run_dir / 'predictions.npz') as archive:
      columns = self._columns('test', archive['logit'])
    bins = scores.calibration(columns, self._config.score)
    return antm2c_report.Scored(result.test, bins)

  def speed(self) -> dict[str, float]:
    """Clicks a second that this training reached."""
    lines = job_report.read_lines(self._job.run_dir)
    return job_report.medians(lines, {'examples/s': 'examples_per_s'})

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
      split, self.model, moments=self._moments(state)
    )
    found = self.trainer.predict(state, batches, self._predict)
    index = found.pop('index')
    logits = {}
    for name, values in found.items():
      logits[name] = np.full(len(self._data.splits[split]), np.nan, np.float32)
      logits[name][index] = values
    return logits

  def _moments(self, state: TrainState) -> Any:
    """Moments of the training clicks, if the model needs them; else None."""
    if not self.model.is_normalising:
      return None
    batches = self._data.evaluation('train', self.model, limit=_MOMENT_CLICKS)
    found = self.trainer.predict(state, batches, self._sum_moments)
    S = self.model.sizes.num_scenarios
    sums = {  # Over devices and batches.
      n: x.astype(np.float64).sum(axis=0).reshape(S, -1)
      for n, x in found.items()
    }
    sums['count_S'] = sums['count_S'][:, 0]
    return moments.finish(moments.MomentSums(**sums))
