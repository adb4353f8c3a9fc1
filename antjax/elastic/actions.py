# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What can be done about slow workers (AntDT's actions).

Each says in one sentence, with the figures, why.
"""

from collections.abc import Mapping
import dataclasses


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
