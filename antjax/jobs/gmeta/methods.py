# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The methods that launch/train_gmeta.py compares."""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

from absl import logging
import jax

from antjax.jobs import job as job_lib
from antjax.jobs import run as run_lib
from antjax.jobs import trainer as trainer_lib
from antjax.jobs.gmeta import vocabulary as gmeta_vocabulary
from antjax.jobs.gmeta.config import Config
from antjax.jobs.gmeta.data import MODELS, TaskBatches
from antjax.meta import algorithms, episodes, evaluate, maml, meta_loss
from antjax.meta.recommender import MetaRecommender
from antjax.metrics.means import LogLoss
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

META = 'meta-learned'
JOINT = 'joint'
FINE_TUNED = 'joint + fine-tuning'
PER_TASK = 'per-task'
# Inner rates that the per-task reference chooses from.
_PER_TASK_RATES = (0.03, 0.1, 0.3, 1.0)
_PER_TASK_STEPS = 50
_LOG_LOSS = functools.partial(LogLoss, from_logits=True)
_STILL = maml.InnerLoop(num_steps=0)


class Method(NamedTuple):
  """A trained model, and how it adapts to a task."""

  trainer: Trainer
  state: TrainState
  inner: maml.InnerLoop


class Stage(NamedTuple):
  """A loss, and the outer step up to which it is trained on."""

  until: int
  loss_fn: Callable[..., Any]


class Methods:
  """Trains the methods of one run."""

  def __init__(
    self,
    config: Config,
    job: job_lib.Job,
    recommender: MetaRecommender,
    tasks: TaskBatches,
  ):
    self._config, self._job = config, job
    self._recommender, self._tasks = recommender, tasks
    self._algorithm = algorithms.ALGORITHMS[config.algorithm]
    self._inner = config.inner.loop(self._algorithm.inner)

  def train(self) -> dict[str, Method]:
    """Returns the methods by name, in the order of the result table."""
    config = self._config
    methods = {}
    if self._algorithm.outer != 'none':
      methods[META] = self._meta()
    if config.joint_steps:
      joint = self._joint()
      methods[JOINT] = joint
      methods[FINE_TUNED] = joint._replace(
        inner=self._tuned(joint, adapt=self._parts())
      )
    num_steps = config.per_task_steps
    if config.algorithm == 'per_task':
      num_steps = num_steps or _PER_TASK_STEPS
    if num_steps:
      methods[PER_TASK] = self._per_task(num_steps)
    return methods

  def _meta(self) -> Method:
    model, num_steps = self._recommender.task_model, self._config.num_steps
    stages = [
      Stage(phase.until, self._algorithm.loss_fn(model, phase.inner))
      for phase in self._algorithm.phases(self._inner, num_steps)
    ]
    trainer, state = self._fit('meta', self._recommender, stages, self._inner)
    return Method(trainer, state, self._inner)

  def _joint(self) -> Method:
    config, recommender = self._config, self._recommender
    if config.joint_steps != config.num_steps or config.model.device_rows:
      # The rate of the rows falls with this model's steps, too.
      recommender = self._with_rows('joint', config.joint_steps)
    loss_fn = meta_loss.joint_loss_fn(recommender.task_model)
    trainer, state = self._fit(
      'joint', recommender, [Stage(config.joint_steps, loss_fn)], _STILL
    )
    return Method(trainer, state, _STILL)

  def _with_rows(self, name: str, num_steps: int) -> MetaRecommender:
    """The model for a training of its own: rate and home of its rows."""
    model, job = self._config.model, self._job
    return self._recommender.at_table_rate(
      self._config.optimizer.schedule(num_steps, model.table_learning_rate),
      model.home_of(job.run_dir, name) if model.device_rows else None,
    )

  def _parts(self) -> tuple[str, ...]:
    """Sets of leaves that fine-tuning tries: not each network has a head."""
    params = jax.eval_shape(self._recommender.init_fn, jax.random.key(0))
    return tuple(
      part
      for part in ('decision', 'head')
      if maml.InnerLoop(adapt=part).adapted_names(params)
    )

  def _per_task(self, num_steps: int) -> Method:
    """No training but that of each task, from the initial parameters."""
    loss_fn = meta_loss.joint_loss_fn(self._recommender.task_model)
    recommender = self._recommender
    if self._config.model.device_rows:
      recommender = self._with_rows('per_task', 1)
    trainer = self._trainer(loss_fn, recommender, 1, _STILL)
    state = trainer.init(
      recommender.init_params(_STILL), seed=self._config.seed
    )
    method = Method(trainer, state, _STILL)
    return method._replace(
      inner=self._tuned(
        method,
        adapt=('all',),
        num_steps=(num_steps,),
        learning_rates=_PER_TASK_RATES,
      )
    )

  def _fit(
    self,
    name: str,
    recommender: MetaRecommender,
    stages: Sequence[Stage],
    inner: maml.InnerLoop,
  ) -> tuple[Trainer, TrainState]:
    """Trains one model, or resumes it, in run_dir/<name>.

    Stages are in order of `until`; each resumes from the previous one. The
    inner loop of the last one says which inner rates are learned.
    """
    config, tasks = self._config, self._tasks
    run = run_lib.Run(
      name,
      config,
      self._job,
      tasks.made_of,
      num_steps=stages[-1].until,
      folder=self._job.run_dir / name,
      models=MODELS,
    )
    batches = tasks.training(name, with_rows=inner.adapt == 'all')
    # A finished run needs its last stage, to restore.
    for stage in [s for s in stages if s.until > run.start] or stages[-1:]:
      trainer = self._trainer(stage.loss_fn, recommender, run.num_steps, inner)
      state = trainer.init(recommender.init_params(inner), seed=config.seed)
      if config.init_from and not run.start and stage is stages[0]:
        state = gmeta_vocabulary.start_from(
          config.init_from, name, config.data, tasks.features, trainer, state
        )
      state = run.fit(
        trainer,
        state,
        batches,
        until=stage.until,
        count_examples=episodes.count_rows,
      )
    return trainer, state

  def _trainer(
    self,
    loss_fn: Callable[..., Any],
    recommender: MetaRecommender,
    num_steps: int,
    inner: maml.InnerLoop,
  ) -> Trainer:
    return trainer_lib.make_trainer(
      self._config,
      self._job,
      loss_fn,
      self._config.optimizer.build(num_steps),
      jax.eval_shape(recommender.init_params(inner), jax.random.key(0)),
      tables=recommender.tables,
      row_staleness=self._config.row_staleness,
      vocabularies=self._config.keys.stores(),
    )

  def _tuned(
    self, method: Method, *, adapt: tuple[str, ...], **choices: Any
  ) -> maml.InnerLoop:
    """Returns the inner loop that does best on held-out training tasks."""
    errors: dict[str, Any] = {'column': 'median'}
    if self._tasks.kind == 'click':
      errors = {'column': 'logit', 'make_metric': _LOG_LOSS}

    def evaluate_fn(predict: Callable[..., Any], metrics: Any) -> Any:
      batches = self._tasks.validation(with_rows='all' in adapt)
      return method.trainer.evaluate(method.state, batches, predict, metrics)

    tuned = evaluate.choose_fine_tuning(
      evaluate_fn,
      self._recommender.task_model,
      adapt=adapt,
      **choices,
      **errors,
    )
    logging.info('Chosen on held-out training tasks: %s.', tuned)
    return tuned
