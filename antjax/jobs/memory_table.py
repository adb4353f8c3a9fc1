# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a step takes of a device: what was planned, what is compiled."""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
import jax
import numpy as np
import rich
import rich.table

from antjax.report import report
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer


def compiled_bytes(
  trainer: Trainer, state: TrainState, batch: Any
) -> tuple[dict[str, int], int]:
  """What the compiler says of a step.

  Args:
    trainer: Of the run.
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


def print_table(
  planned: Sequence[tuple[str, int]],
  compiled: Mapping[str, int],
  facts: Mapping[str, str],
) -> None:
  """Says what a device needs, before the first step.

  Args:
    planned: (name, bytes) of each part.
    compiled: From `compiled_bytes`; may be empty.
    facts: What else there is to say.
  """
  table = rich.table.Table(title='Memory of a device', show_header=False)
  table.add_column(no_wrap=True)
  table.add_column(justify='right')
  for name, size in planned:
    table.add_row(name, report.format_bytes(size))
  together = sum(size for _, size in planned)
  table.add_row('together', report.format_bytes(together))
  if compiled:
    for name, size in compiled.items():
      table.add_row(f'{name} (compiled)', report.format_bytes(size))
    table.add_row(
      'together (compiled)', report.format_bytes(sum(compiled.values()))
    )
  for name, fact in facts.items():
    table.add_row(name, fact)
  rich.print(table)
