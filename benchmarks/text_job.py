# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Job of training a small LM on leased sequences of text; imports no jax.

For the workers of `chaos_bench` and `straggler_bench` (`text_worker`).
"""

import dataclasses
import os
import pathlib
import subprocess
import sys

from antjax.data import output_folder, records, text
from antjax.shards import record_source

WORKER = 'benchmarks.text_worker'
DATA = 'data/shakespeare'
# Files in a run's folder: a worker must raise; the faults are over.
RAISE, OVER = 'raise', 'over'


@dataclasses.dataclass(frozen=True)
class Job:
  """Settings of a worker."""

  data: str  # Folder of launch/prepare_text.py.
  out: str  # Output folder of workers.
  num_sequences: int  # Number of sequences per epoch.
  num_epochs: int = 1
  replay: str = ''  # File with the steps to repeat; empty: train.
  has_witness: bool = True  # See `chaos_witness`.
  paro: str = 'NNG'  # An elastic code.
  seq_len: int = 32  # Tokens per sequence.
  rows: int = 2  # Sequences per micro-batch.
  num_micro_batches: int = 2  # Micro-batches per worker and step.
  dim: int = 32  # Width of the model.
  num_layers: int = 1
  shard_size: int = 16  # Sequences per lease.
  checkpoint_every: int = 5  # Steps between checkpoints.
  checkpoint_every_s: float = 0.0  # Also by time; 0: as usual under agents.
  step_s: float = 0.03  # Minimum time of a step during the faults.

  @property
  def num_keys(self) -> int:
    return self.num_sequences * self.num_epochs


def all_sequences(job: Job) -> record_source.RecordSource:
  """All sequences."""
  folder = pathlib.Path(job.data)
  description = output_folder.load_description(folder)
  path = folder / description['files']['train']['path']
  return text.PackedSource(
    records.open_source(path, text.SCHEMA),
    job.seq_len,
    lengths=records.open_source(path, text.LENGTHS_SCHEMA),
  )


def open_source(job: Job) -> record_source.RecordSource:
  """The sequences of an epoch."""
  return record_source.SourceRange(all_sequences(job), 0, job.num_sequences)


def prepared(folder: str) -> str:
  """Path of a folder of launch/prepare_text.py, created if missing."""
  if not (pathlib.Path(folder) / 'dataset.json').exists():
    prepare = [sys.executable, '-m', 'launch.prepare_text', f'--out={folder}']
    subprocess.run(prepare, check=True, stdout=sys.stderr)
  return os.path.abspath(folder)
