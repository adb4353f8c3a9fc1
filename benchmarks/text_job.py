# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training of a small LM on leased sequences of real text; imports no jax.

What the workers of `chaos_bench` and `straggler_bench` do (`text_worker`).
"""

import dataclasses
import os
import pathlib
import subprocess
import sys

from antjax.data import output_folder, records, text
from antjax.shards import record_source

WORKER = 'benchmarks.text_worker'
# Files in the folder of a run: a worker is to raise; the storm is over.
RAISE, OVER = 'raise', 'over'


@dataclasses.dataclass(frozen=True)
class Job:
  """What a worker does.

  Attributes:
    data: Folder of launch/prepare_text.py.
    out: Folder for what workers write.
    num_sequences: Sequences of an epoch.
    num_epochs: Number of epochs.
    replay: File with the steps to repeat; empty: train.
    has_witness: Whether the model counts its records (`chaos_witness`).
    paro: PaRO code, an elastic one.
    seq_len: Tokens of a sequence.
    rows: Sequences of a micro-batch.
    num_micro_batches: Number of micro-batches of each worker in a step.
    dim: Width of the model.
    num_layers: Number of layers.
    shard_size: Sequences of a lease.
    checkpoint_every: Steps between checkpoints.
    step_s: Least seconds of a step, until the storm is over.
  """

  data: str
  out: str
  num_sequences: int
  num_epochs: int = 1
  replay: str = ''
  has_witness: bool = True
  paro: str = 'NNG'
  seq_len: int = 32
  rows: int = 2
  num_micro_batches: int = 2
  dim: int = 32
  num_layers: int = 1
  shard_size: int = 16
  checkpoint_every: int = 5
  step_s: float = 0.03

  @property
  def num_keys(self) -> int:
    return self.num_sequences * self.num_epochs


def all_sequences(job: Job) -> record_source.RecordSource:
  """All sequences that there are."""
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
  """Path of a folder of launch/prepare_text.py; made if absent."""
  if not (pathlib.Path(folder) / 'dataset.json').exists():
    prepare = [sys.executable, '-m', 'launch.prepare_text', f'--out={folder}']
    subprocess.run(prepare, check=True, stdout=sys.stderr)
  return os.path.abspath(folder)
