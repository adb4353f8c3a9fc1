# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Actions against slow workers (AntDT's actions).

Each gives its reason in one sentence, with figures.
"""

from collections.abc import Mapping
import dataclasses

from antjax.elastic import coordinator_pb2 as pb


@dataclasses.dataclass(frozen=True)
class AdjustBatch:
  """ADJUST_BS: micro-batches of each worker in a step."""

  num_micro_batches: Mapping[str, int]
  reason: str = ''


@dataclasses.dataclass(frozen=True)
class BackupWorkers:
  """BACKUP_WORKERS: no micro-batch is begun later in a step; 0: no deadline."""

  deadline_s: float
  reason: str = ''


@dataclasses.dataclass(frozen=True)
class KillRestart:
  """KILL_RESTART: a new generation without this worker's host."""

  worker: str
  reason: str = ''


@dataclasses.dataclass(frozen=True)
class AdjustLR:
  """ADJUST_LR: factor of the optimizer's updates."""

  lr_scale: float
  reason: str = ''


@dataclasses.dataclass(frozen=True)
class Nothing:
  """NONE, and why."""

  reason: str = ''


Action = AdjustBatch | BackupWorkers | KillRestart | AdjustLR | Nothing


def change_plan(plan: pb.Plan, action: Action) -> None:
  """Makes a plan say what an action asks for, if it asks for a plan at all."""
  if isinstance(action, AdjustBatch):
    plan.num_micro_batches.clear()  # Entries of workers that have left.
    plan.num_micro_batches.update(action.num_micro_batches)
  elif isinstance(action, BackupWorkers):
    plan.deadline_s = action.deadline_s
  elif isinstance(action, AdjustLR):
    plan.lr_scale = action.lr_scale
