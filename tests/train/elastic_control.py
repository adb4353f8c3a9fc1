# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""An `ElasticControl` and a job for the tests of `fit(elastic=...)`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from antjax.mesh.mesh import make_mesh
from antjax.train.elastic import Plan
from antjax.train.trainer import Trainer

PARAMS = {'w': np.zeros(4, np.float32)}


class Control:
  """An `ElasticControl` whose plan depends on the step that was timed last."""

  worker = 'me'

  def __init__(self, plans=None):
    self.plans = plans or {}
    self.current = Plan()
    self.times = []
    self.commits = []
    self.stop = False

  def plan(self):
    return self.current

  def on_batch_time(
    self, step, compute_s, wait_s, num_micro_batches, num_samples
  ):
    self.times.append((step, compute_s, wait_s, num_micro_batches, num_samples))
    self.current = self.plans.get(step, self.current)

  def on_commit(self, step, input_state):
    self.commits.append((step, input_state))

  def is_stopping(self):
    return self.stop


def loss_fn(params, batch, rng):
  del rng
  return jnp.square(batch['x'] @ params['w'] - batch['y'])


def micro_batches(num=1000, size=16):
  rng = np.random.default_rng(0)
  for _ in range(num):
    x = rng.normal(size=(size, 4)).astype(np.float32)
    yield {'x': x, 'y': (x @ np.arange(4)).astype(np.float32)}


@functools.cache
def make_trainer(paro='IIG', optimizer=None):
  """One for all tests: its programs are compiled once."""
  return Trainer(
    loss_fn,
    optimizer or optax.sgd(0.1),
    mesh=make_mesh(intra=4),
    paro=paro,
    num_micro_batches=2,
  )


@functools.cache
def _first_state(trainer):
  return trainer.init(PARAMS)


def new_state(trainer):
  return jax.tree.map(jnp.copy, _first_state(trainer))


def fit(trainer, batches, num_steps, control, **kwargs):
  seen = {}
  state = trainer.fit(
    new_state(trainer),
    batches,
    num_steps,
    elastic=control,
    on_step=lambda step, values: seen.setdefault(step, values),
    **kwargs,
  )
  return state, seen
