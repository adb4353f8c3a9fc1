# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a step takes of a device: what was planned, what is compiled."""

from collections.abc import Callable, Mapping
from typing import Any

from absl import logging
import jax
import numpy as np

from antjax.report import job_report, report
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer


def compiled_bytes(
  trainer: Trainer, state: TrainState, batch: Any
) -> tuple[dict[str, int], int]:
  """What the compiler says of a step.

  Args:
    trainer: Trainer of the run.
    state: Not changed.
    batch: Like those of training.

  Returns:
    ({'arguments', 'temporary': what is live beside them}, bytes of the batch),
    or ({}, 0) on a backend whose compiler says nothing.
  """
  inputs = trainer.step_inputs(batch)
  step: Any = trainer.compiled_step()
  analysis = step.lower(state, inputs).compile().memory_analysis()
  if analysis is None:
    logging.info('The compiler says nothing of memory on this backend.')
    return {}, 0
  size = sum(
    x.nbytes
    if isinstance(x, np.ndarray)
    else x.addressable_shards[0].data.nbytes
    for x in jax.tree.leaves(inputs)
  )
  return {
    'arguments': int(analysis.argument_size_in_bytes),
    'temporary': int(analysis.temp_size_in_bytes),
  }, size


def account(
  trainer: Trainer,
  state: TrainState,
  *,
  activations: int,
  frozen_share: float,
  batch_fn: Callable[[], Any] | None,
  **extra: Any,
) -> dict[str, Any]:
  """Bytes on a device: {'state': parts, 'activations', 'compiled', ...}.

  Args:
    trainer: Trainer of the run.
    state: A state; it is not changed.
    activations: Planned bytes of the activations.
    frozen_share: Share of the parameters that are not trained.
    batch_fn: Makes a batch like those of training; None leaves 'compiled'
      empty, as under agents, where the step is several programs.
    **extra: Further entries, such as the bytes of a 'table'.

  Returns:
    What was planned, and in 'compiled' what the compiler says of the step:
    'temporary' for what is live beside its arguments.
  """
  planned: dict[str, Any] = {
    'state': trainer.bytes_per_device(),
    'activations': activations,
    'frozen_share': frozen_share,
    'compiled': {},
    **extra,
  }
  if batch_fn is not None:
    compiled, size = compiled_bytes(trainer, state, batch_fn())
    if compiled:
      planned['compiled'] = compiled
      planned['batch'] = size - planned.get('table', 0)
  return planned


def print_table(memory: Mapping[str, Any]) -> None:
  """Says what a device needs, before the first step.

  Args:
    memory: Result of `account`.
  """
  sizes = dict(memory['state'])
  if 'table' in memory:
    sizes['table of behaviours'] = memory['table']
  sizes['activations (planned)'] = memory['activations']
  sizes['together'] = sum(sizes.values())
  compiled = memory['compiled']
  sizes |= {f'{name} (compiled)': size for name, size in compiled.items()}
  if compiled:
    sizes['together (compiled)'] = sum(compiled.values())
  rows = [(name, report.format_bytes(size)) for name, size in sizes.items()]
  rows.append(('frozen share of parameters', f'{memory["frozen_share"]:.1%}'))
  if 'num_absent' in memory:
    rows.append(('parameters left out', f'{memory["num_absent"]:,}'))
  job_report.show_table('Memory of a device', ('', ''), rows, show_header=False)
