# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which executions of which steps are in the final model, from workers' notes.

A step may be done several times: by a generation that dies, and by a later one
that went back to an older checkpoint. The final model holds one of them. Each
worker of each generation notes, as it goes, what it puts into which step; where
a generation began says which steps of its forerunners it stands on.
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
  """What one worker noted in one generation.

  Attributes:
    generation: Generation of the job.
    rank: Rank of the worker in it.
    num_workers: Number of workers of the generation.
    steps: Step -> the worker's micro-batches in it, for each step that the
      worker saw the end of.
  """

  generation: int
  rank: int
  num_workers: int
  steps: dict[int, list[Micro]] = dataclasses.field(default_factory=dict)


def read_run(lines: Iterable[str]) -> Run | None:
  """Reads a worker's notes; None where it died before the first one.

  Lines: a head with the fields of `Run`; `keys` of a micro-batch that was
  taken; `ends` where a step has all that this worker puts into it; `step`, when
  the end of the last one that has is seen, with its number.
  """
  run: Run | None = None
  taken: list[Micro] = []
  complete: list[Micro] = []
  for line in lines:
    try:
      note = json.loads(line)
    except ValueError:  # Its writer was killed: the last one.
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


def lineage(
  runs: Sequence[Run], last_generation: int, last_step: int
) -> dict[int, int]:
  """Returns step -> generation whose execution of it is in the final model.

  Args:
    runs: Runs of all workers and generations.
    last_generation: Generation that finished.
    last_step: Where it did.

  Raises:
    ValueError: A generation began at a step that no earlier one had made.
  """
  done: dict[int, set[int]] = {}
  for run in runs:
    if run.steps:
      done.setdefault(run.generation, set()).update(run.steps)
  first = {generation: min(steps) for generation, steps in done.items()}
  owner: dict[int, int] = {}
  generation, upper = last_generation, last_step
  first.setdefault(last_generation, last_step + 1)
  while upper:
    begun_at = first[generation] - 1
    owner.update(dict.fromkeys(range(begun_at + 1, upper + 1), generation))
    upper = begun_at
    # The newest before it that made the step: a later one would have begun at a
    # later checkpoint, or have written this one anew.
    makers = [
      g for g, steps in done.items() if g < generation and upper in steps
    ]
    if upper and not makers:
      raise ValueError(
        f'generation {generation} began at step {upper}, which no earlier one'
        ' has made.'
      )
    generation = max(makers, default=0)
  return owner


def steps_of(
  runs: Sequence[Run], owner: Mapping[int, int]
) -> list[list[list[Micro]]]:
  """Returns, for each step in order, the micro-batches of each rank.

  Raises:
    ValueError: A worker that took part in a step has not noted it.
  """
  by_generation: dict[int, list[Run]] = {}
  for run in runs:
    by_generation.setdefault(run.generation, []).append(run)
  result = []
  for step in sorted(owner):
    members = by_generation[owner[step]]
    noted = {run.rank: run.steps[step] for run in members if step in run.steps}
    if len(noted) != members[0].num_workers:
      raise ValueError(
        f'step {step} of generation {owner[step]} had {members[0].num_workers}'
        f' workers; noted by those of ranks {sorted(noted)}.'
      )
    result.append([noted[rank] for rank in sorted(noted)])
  return result


def used(
  steps: Sequence[Sequence[list[Micro]]], num_keys: int
) -> tuple[np.ndarray, np.ndarray]:
  """How often each record went into a step of a lineage, and the last one.

  Raises:
    ValueError: A key is of no record.
  """
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
  """Compares notes with the final model, which counted for itself.

  Args:
    noted: Name -> numbers: of each record `counts` and `steps` as from `used`,
      of each step, from 1, its generation.
    model: The same names; there may be more numbers.

  Returns:
    What differs, or ''.
  """
  for name, ours in noted.items():
    seen = model[name][: len(ours)]
    places = np.flatnonzero(ours != seen) if len(seen) == len(ours) else [0]
    if len(places):
      i = places[0]
      return (
        f'{name}: {len(places)} differ, the first at {i}: noted'
        f' {ours[i : i + 3].tolist()}, in the model {seen[i : i + 3].tolist()}'
      )
  return ''
