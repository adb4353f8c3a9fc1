# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Saves step after step until it is killed; for torn_checkpoint_test.

save_worker.py <folder>; prints the steps that are committed.
"""

import dataclasses
import itertools
import sys

import jax
import numpy as np
import optax

from antjax.mesh.mesh import make_mesh
from antjax.train.checkpoint import Checkpointer
from antjax.train.trainer import Trainer

SIZE = 1 << 20  # Elements: 4 MiB.


def make_trainer():
  return Trainer(
    lambda params, batch, rng: batch['x'] @ params['w'],
    optax.sgd(0.1, momentum=0.9),
    mesh=make_mesh(intra=1, devices=jax.devices()[:1]),
  )


def checkpointer(folder, trainer):
  return Checkpointer(folder, trainer.layout, keep=2)


def params_at(step):
  """What a step's checkpoint holds; random, so that it cannot be packed."""
  rng = np.random.default_rng(step)
  return {'w': rng.normal(size=SIZE).astype(np.float32)}


def main(folder):
  trainer = make_trainer()
  state = trainer.init(params_at(0))
  with checkpointer(folder, trainer) as saver:
    first = saver.newest()
    if first is not None:
      state, _ = saver.restore(first)
    for step in itertools.count((first or 0) + 1):
      params = jax.device_put(params_at(step))
      state = dataclasses.replace(state, params=params)
      saver.save(step, state, input_state={'next': step})
      saver.wait()
      assert saver.is_committed(step)
      print(step, flush=True)


if __name__ == '__main__':
  main(sys.argv[1])
