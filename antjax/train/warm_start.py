# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Starts a run from the parameters of another one."""

import dataclasses
import os

from absl import logging
import jax
import orbax.checkpoint as ocp

from antjax.train.canonical import Canonical
from antjax.train.checkpoint import Checkpointer, latest_step
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer


def warm_start(
  trainer: Trainer,
  state: TrainState,
  directory: str | os.PathLike[str],
  step: int | None = None,
) -> TrainState:
  """Replaces the parameters of a new state by those of a checkpoint.

  Step, optimizer state and random key stay those of `state`. What the other run
  trained or froze, its optimizer, PaRO code, mesh and dtypes do not matter; the
  names and shapes of the parameters must be the same. Each device reads only
  its own piece.

  Args:
    trainer: The trainer that made `state`.
    state: From `trainer.init`.
    directory: Folder of checkpoints of the other run.
    step: Which one; the newest by default.

  Raises:
    ValueError: No checkpoint, or parameters of other names or shapes.
  """
  directory = os.fspath(directory)
  step = latest_step(directory) if step is None else step
  if step is None:
    raise ValueError(
      f'warm_start: {directory} holds no checkpoint; give the folder'
      " 'checkpoints' of a run that has saved one."
    )
  with Checkpointer(
    directory, trainer.layout, trainer.optimizer, trainer.tables
  ) as reader:
    manager = reader._manager
    meta = manager.restore(
      step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
    )['meta']
    saved = {n: x[0] for n, x in meta['model']['params'].items()}
    layout = trainer.layout
    canonical = Canonical(layout, trainer.optimizer, trainer.tables)
    wanted = {
      n: list(s.shape) for n, s in zip(layout.names, layout.specs, strict=True)
    }
    for name in sorted({*saved, *wanted}):
      if saved.get(name) != wanted.get(name):
        raise ValueError(
          f'warm_start: {name} is {saved.get(name, "absent")} in step {step} of'
          f' {directory} and {wanted.get(name, "absent")} here; needed is the'
          ' same model.'
        )
    target, restore_args = canonical.target()
    restored = manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeRestore(
          item={'params': target['params']},
          restore_args={'params': restore_args['params']},
          partial_restore=True,
        )
      ),
    )['state']
    parts = canonical.of(state) | {'params': restored['params']}
    # The old copies are let go first; the rest of `parts` stays.
    del state
    new = canonical.state(parts)
  logging.info('Parameters are those of step %d of %s.', step, directory)
  return dataclasses.replace(new, step=jax.numpy.zeros_like(new.step))
