# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What launch/train_gmeta.py compares: the meta-learner and its references."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple, TYPE_CHECKING

from absl import logging
import jax

from antjax.jobs import auto_paro
from antjax.jobs.gmeta.tasks import Stage, Tasks
from antjax.mesh.paro import PaRO
from antjax.meta import algorithms, evaluate, maml, meta_loss
from antjax.meta.recommender import Recommender
from antjax.metrics.streaming import LogLoss
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

if TYPE_CHECKING:
  from antjax.jobs.gmeta.train import Config

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


class Methods:
  """Trains the methods of one run."""

  def __init__(self, config: 'Config', recommender: Recommender, tasks: Tasks):
    """Chooses the PaRO code; nothing is trained yet."""
    self._config = config
    self._recommender = recommender
    self._tasks = tasks
    self._algorithm = algorithms.ALGORITHMS[config.algorithm]
    self._inner = config.inner.loop(self._algorithm.inner)
    self._paro: PaRO = auto_paro.choose_paro(
      config.paro,
      jax.eval_shape(recommender.init_params(self._inner), jax.random.key(0)),
      config.optimizer.build(config.num_steps),
      recommender.tables.mesh,
      links_file=config.links,
      num_micro_batches=config.num_micro_batches,
      min_shard_size=config.min_shard_size,
      elastic_only=tasks.is_elastic,
    )

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
        inner=self._tuned(joint, adapt=('decision', 'head'))
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
    trainer, state = self._tasks.fit(
      'meta', self._recommender, stages, self._inner, self._paro
    )
    return Method(trainer, state, self._inner)

  def _joint(self) -> Method:
    config, recommender = self._config, self._recommender
    if config.joint_steps != config.num_steps:
      # The rate of the rows falls with this model's steps, too.
      recommender = recommender.at_table_rate(
        config.optimizer.schedule(
          config.model.table_learning_rate, config.joint_steps
        )
      )
    loss_fn = meta_loss.joint_loss_fn(recommender.task_model)
    trainer, state = self._tasks.fit(
      'joint',
      recommender,
      [Stage(config.joint_steps, loss_fn)],
      _STILL,
      self._paro,
    )
    return Method(trainer, state, _STILL)

  def _per_task(self, num_steps: int) -> Method:
    """No training but that of each task, from the initial parameters."""
    trainer = self._recommender.trainer(
      meta_loss.joint_loss_fn(self._recommender.task_model),
      self._config.optimizer.build(1),
      paro=self._paro,
      min_shard_size=self._config.min_shard_size,
    )
    state = trainer.init(
      self._recommender.init_params(_STILL), seed=self._config.seed
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
