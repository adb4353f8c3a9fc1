# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What launch/train_gmeta.py compares is trained alike."""

import dataclasses

import jax
import pytest

from antjax import config as config_lib
from antjax.jobs.gmeta import data as gmeta_data
from antjax.jobs.gmeta import methods as gmeta_methods
from antjax.jobs.gmeta.config import Config
from antjax.mesh.mesh import make_mesh
from antjax.meta import recommender as recommender_lib
from tests.serving import serving_case


@pytest.mark.parametrize('joint_steps', [600, 150])
def test_rows_of_the_joint_model_follow_its_own_schedule(
  joint_steps, monkeypatch
):
  config = Config(joint_steps=joint_steps)
  optimizer = config.optimizer
  recommender = recommender_lib.build(
    serving_case.FEATURES,
    config.model,
    make_mesh(intra=1, devices=jax.devices()[:1]),
    optimizer.schedule(config.num_steps, config.model.table_learning_rate),
  )
  asked = []

  def fit(self, name, recommender, stages, inner):
    asked.append((recommender, stages[-1].until))
    return None, None

  monkeypatch.setattr(gmeta_methods.Methods, '_fit', fit)
  gmeta_methods.Methods(config, None, recommender, None)._joint()
  ((joint, num_steps),) = asked
  assert num_steps == joint_steps
  dense = optimizer.schedule(joint_steps, config.model.table_learning_rate)
  for spec in joint.tables.specs.values():
    for step in (0, joint_steps // 2, joint_steps):
      assert spec.optimizer.learning_rate(step) == dense(step)
  assert joint.task_model.tables is joint.tables
  # The rows of one are looked up as those of the other.
  stacks = [sorted(r.tables.bytes_per_device()) for r in (joint, recommender)]
  assert stacks[0] == stacks[1]


@pytest.mark.parametrize(
  'kind, need', [('din', 'history'), ('examples.apg:APG', 'scenario')]
)
def test_a_network_that_tasks_cannot_feed_is_refused_by_its_flag(kind, need):
  with pytest.raises(ValueError, match=f"model.kind={kind}: it needs '{need}'"):
    Config(model=recommender_lib.ModelConfig(kind=kind))


def test_a_tenth_is_held_out_unless_the_run_has_begun(tmp_path):
  config = Config(run_dir=str(tmp_path))
  numbers = [
    gmeta_data.num_validation(config, tmp_path, num)
    for num in (2, 19, 200, 100_000)
  ]
  assert numbers == [1, 1, 20, 256]
  # A run of before, whose default was 256, resumes with the same tasks.
  begun = dataclasses.replace(config, validation_tasks=256)
  config_lib.save(begun, tmp_path)
  assert gmeta_data.num_validation(config, tmp_path, 1000) == 256
  asked = dataclasses.replace(config, validation_tasks=7)
  assert gmeta_data.num_validation(asked, tmp_path, 1000) == 7


class Source:
  """Records of tasks."""

  def __init__(self, tasks):
    self._tasks = tasks

  def read(self, start, stop):
    return [{'task': task} for task in self._tasks[start:stop]]


@pytest.mark.parametrize(
  ('sizes', 'place', 'first'),
  [([1, 1, 1], 2, 2), ([3, 200, 2], 200, 3), ([3, 64, 2], 66, 3), ([9], 8, 0)],
)
def test_a_task_is_held_out_whole(sizes, place, first):
  tasks = [task for task, size in enumerate(sizes) for _ in range(size)]
  assert gmeta_data._before_task_at(Source(tasks), place) == first
