# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which executions of which steps are in the final model, from workers' notes.

A step may be done several times: by a generation that dies, and by a later one
that went back to an older checkpoint. The final model holds one of them. Each
worker of each generation notes, as it goes, what it puts into which step; where
a generation began says which steps of its forerunners it stands on.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
from typing import Any

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
  first: dict[int, int] = {}
  last: dict[int, int] = {}
  for run in runs:
    for step in run.steps:
      first[run.generation] = min(step, first.get(run.generation, step))
      last[run.generation] = max(step, last.get(run.generation, step))
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
      g for g in first if g < generation and first[g] <= upper <= last[g]
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


def count(
  steps: Iterable[Sequence[list[Micro]]], num_keys: int
) -> tuple[int, int]:
  """Returns (records lost, repeats of records) in a lineage."""
  used = Counter(
    key
    for step in steps
    for micros in step
    for micro in micros
    for key in micro
  )
  if strange := [key for key in used if not 0 <= key < num_keys]:
    raise ValueError(f'{len(strange)} keys of no record: {strange[:5]}.')
  return num_keys - len(used), sum(used.values()) - len(used)


def disagreement(
  steps: Sequence[Sequence[list[Micro]]],
  owner: Mapping[int, int],
  model: Mapping[str, Any],
) -> str:
  """Compares notes with the final model, which counted for itself.

  Args:
    steps: From `steps_of`.
    owner: From `lineage`.
    model: Lists `counts`, `steps` (of each record: how often it went into a
      step, and the last one) and `generations` (of each step, from 1).

  Returns:
    What differs, or ''.
  """
  counts, last = [0] * len(model['counts']), [0] * len(model['counts'])
  for number, step in enumerate(steps, start=1):
    for micros in step:
      for micro in micros:
        for key in micro:
          counts[key] += 1
          last[key] = number
  generations = [owner[step] for step in sorted(owner)]
  for name, noted in (
    ('counts', counts),
    ('steps', last),
    ('generations', generations),
  ):
    seen = list(model[name])[: len(noted)]
    if noted != seen:
      places = [i for i, (a, b) in enumerate(zip(noted, seen)) if a != b]
      i = places[0] if places else len(seen)
      return (
        f'{name}: {len(places)} differ, the first at {i}: noted'
        f' {noted[i : i + 3]}, in the model {seen[i : i + 3]}'
      )
  return ''
