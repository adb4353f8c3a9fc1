# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reconstructs the input of each step of the final model from notes.

A step may be done several times: by a generation that dies, and by a later one
that restored an older checkpoint. The final model contains one of these, and
records which generation made each step (`chaos_witness`). Each worker of each
generation notes its input of each step.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import pathlib

import numpy as np

# Keys of the records of one micro-batch, in order.
Micro = list[int]


@dataclasses.dataclass
class Run:
  """Notes of one worker in one generation."""

  generation: int
  rank: int
  num_workers: int
  steps: dict[int, list[Micro]] = dataclasses.field(default_factory=dict)


def read_run(lines: Iterable[str]) -> Run | None:
  """Reads a worker's notes; None if it died before the first one.

  Lines: a head with the fields of `Run`; `keys` of a micro-batch; `ends` when
  the worker's input of a step is complete; `step`, with its number, when the
  end of the last complete step is seen.
  """
  run: Run | None = None
  taken: list[Micro] = []
  complete: list[Micro] = []
  for line in lines:
    try:
      note = json.loads(line)
    except ValueError:  # Last line of a killed writer.
      break
    if 'generation' in note:
      run = Run(note['generation'], note['rank'], note['num_workers'])
    elif 'keys' in note:
      taken.append(note['keys'])
    elif 'ends' in note:
      complete, taken = taken, []
    elif run is not None:
      run.steps[note['step']] = complete
  return run


def read_runs(folder: pathlib.Path) -> list[Run]:
  """The notes of all workers and generations in a folder."""
  texts = [path.read_text() for path in sorted(folder.iterdir())]
  found = [read_run(text.splitlines()) for text in texts]
  return [run for run in found if run is not None]


def steps_of(
  runs: Sequence[Run], generations: Sequence[int]
) -> list[list[list[Micro]]]:
  """The micro-batches of each rank in each step.

  Args:
    runs: Runs of all workers and generations.
    generations: Generation that made each step of the model, from 1.

  Raises:
    ValueError: Generations decrease, or notes of a participating worker are
      missing.
  """
  if list(generations) != sorted(generations):
    raise ValueError(f'steps are of generations {list(generations)}.')
  result = []
  for step, generation in enumerate(generations, start=1):
    members = [run for run in runs if run.generation == generation]
    noted = {run.rank: run.steps[step] for run in members if step in run.steps}
    wanted = members[0].num_workers if members else 1
    if len(noted) != wanted:
      raise ValueError(
        f'step {step} of generation {generation} had {wanted} workers; noted by'
        f' those of ranks {sorted(noted)}.'
      )
    result.append([noted[rank] for rank in sorted(noted)])
  return result


def used(
  steps: Sequence[Sequence[list[Micro]]], num_keys: int
) -> tuple[np.ndarray, np.ndarray]:
  """Number of uses of each record in a lineage, and the last step of use."""
  counts, last = np.zeros(num_keys, int), np.zeros(num_keys, int)
  for number, step in enumerate(steps, start=1):
    keys = [key for micros in step for micro in micros for key in micro]
    if strange := [key for key in keys if not 0 <= key < num_keys]:
      raise ValueError(f'{len(strange)} keys of no record: {strange[:5]}.')
    np.add.at(counts, keys, 1)
    last[keys] = number
  return counts, last


def disagreement(
  noted: Mapping[str, np.ndarray], model: Mapping[str, np.ndarray]
) -> str:
  """Differences between notes and the final model, by name of numbers."""
  for name, ours in noted.items():
    places = np.flatnonzero(ours != model[name])
    if len(places):
      part = slice(places[0], places[0] + 3)
      return (
        f'{name}: {len(places)} differ, the first at {places[0]}: noted'
        f' {ours[part].tolist()}, in the model {model[name][part].tolist()}'
      )
  return ''
