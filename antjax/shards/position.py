# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""States of whole input pipelines: the ledgers' positions wherever they nest.

A pipeline of grain transforms nests the states of its parts. `merge_states`
merges those of all workers; `fitted_state` lets a pipeline with another number
of prefetch processes take the result. Neither jax nor grain is imported here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import json
import os
import pathlib
import re
from typing import Any

from antjax.shards import ledger_state

_Unite = Callable[[Sequence[ledger_state.State]], ledger_state.State]

LEDGER = 'ledger'  # Key of the ledger's state in an iterator's state.
DATA_SET = 'data_set'  # Key of its name, where it has one.
# What grain's transforms have beside their parents' states, and what it is
# where the workers' differ: a counter need not be the same on all.
_COUNTERS = ('index_for_rng', 'index', 'counter')
_PARENT = 'parent'
_STOP = 'stop'  # In mix: whether a part has ended.
# In `mp_prefetch`: the states of its processes.
_PROCESSES = 'iterators_in_use_states'


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Merges the states of the iterators of all processes of a run.

  Args:
    states: `get_state()` of each process' pipeline on a `LeasedDataset`, all at
      the same step, in any order.

  Returns:
    A state for `set_state` on each of any number of processes; see
    `fitted_state` for another number of prefetch processes.

  Raises:
    ValueError: A process' state is missing, or the states are of different
      pipelines.
  """
  if not states:
    raise ValueError('merge_states() needs the state of at least one process.')
  return dict(_merge_values(list(states), 'state'))


def saved_state(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """Merges what `grain.checkpoint.CheckpointSave` wrote on all processes.

  Args:
    folder: Folder of the item in the checkpoint, e.g. 'run/1000/data'.

  Returns:
    See `merge_states`; for any number of processes, where grain's own
    `CheckpointRestore` takes the number that saved only.

  Raises:
    FileNotFoundError: The folder has no such file, or not those of all.
  """
  files = dict[int, pathlib.Path]()
  counts = set[int]()
  for path in pathlib.Path(folder).glob('process_*-of-*.json'):
    index, count = map(int, re.findall(r'\d+', path.name))
    files[index] = path
    counts.add(count)
  if not files or counts != {len(files)}:
    raise FileNotFoundError(
      f'{folder} has the files of {len(files)} processes'
      f' of {", ".join(map(str, sorted(counts))) or "none"}; needed are'
      ' process_<index>-of-<count>.json of all that saved.'
    )
  return merge_states(
    [json.loads(files[index].read_text()) for index in sorted(files)]
  )


def fitted_state(
  state: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns a merged state for an iterator with other prefetch processes.

  Args:
    state: What `merge_states` returned, with or without an `mp_prefetch`.
    own: `get_state()` of the iterator that is to continue from it.
  """
  return dict(_fit(state, own))


def ledger_states(state: Any) -> dict[str, ledger_state.State]:
  """Returns the ledgers' states in a pipeline's merged state, by data set.

  A data set without a name is under the empty one.
  """
  found: dict[str, ledger_state.State] = {}
  if isinstance(state, Mapping):
    if LEDGER in state:
      found[state.get(DATA_SET, '')] = state[LEDGER]
    for key, value in state.items():
      if key != LEDGER:
        found.update(ledger_states(value))
  elif isinstance(state, list | tuple):
    for value in state:
      found.update(ledger_states(value))
  return found


def unmark_state(
  state: Mapping[str, Any], record_keys: Iterable[int]
) -> dict[str, Any]:
  """Returns an iterator's state in which some records are to be read again.

  For a transform that holds records back when its state is saved.

  Args:
    state: `get_state()` of an iterator over a `LeasedDataset`; not changed.
    record_keys: Values of `key_field` in these records.

  Raises:
    ValueError: The state has no ledger, or a record was not consumed.
  """
  if LEDGER in state:
    ledger = ledger_state.unmark(state[LEDGER], record_keys)
    return {**state, LEDGER: ledger}
  if isinstance(state.get(_PARENT), Mapping):  # grain's random_map.
    return {**state, _PARENT: unmark_state(state[_PARENT], record_keys)}
  raise ValueError(
    f'unmark_state(): the state has no {LEDGER!r}: it is not that of an'
    ' iterator over a LeasedDataset, or one above mix or mp_prefetch.'
  )


def _merge_values(
  values: list[Any], path: str, unite: _Unite = ledger_state.merge
) -> Any:
  """Merges what is at `path` in each state."""
  first = values[0]
  if all(isinstance(value, Mapping) for value in values):
    if any(value.keys() != first.keys() for value in values):
      raise ValueError(
        f'merge_states(): {path} has different keys on different processes;'
        ' give states of one pipeline.'
      )
    if _PROCESSES in first:
      return _merge_processes(values, path)
    return {
      key: (
        unite([value[key] for value in values])
        if key == LEDGER
        else _merge_values([v[key] for v in values], f'{path}.{key}', unite)
      )
      for key in first
    }
  if all(isinstance(value, list | tuple) for value in values):
    if len({len(value) for value in values}) == 1:
      return [
        _merge_values(list(parts), f'{path}.{i}', unite)
        for i, parts in enumerate(zip(*values))
      ]
  if path.rpartition('.')[2] in _COUNTERS:
    return max(values)
  if path.endswith(f'.{_STOP}'):
    return all(values)
  if any(value != first for value in values):
    raise ValueError(
      f'merge_states(): {path} differs between processes and is not part of'
      ' a ledger; only the ledger can be united.'
    )
  return first


def _merge_processes(
  values: list[Mapping[str, Any]], path: str
) -> dict[str, Any]:
  """Merges the prefetch processes of all workers; all resume from the result.

  The ledger's share is the worker's, whichever process of it said so; one that
  has yielded nothing since a restore still has the state it was given.
  """

  def unite(states: Sequence[ledger_state.State]) -> ledger_state.State:
    for share in (state['share'] for state in states):
      if share is not None and share[1] != len(values):
        raise ValueError(
          f'merge_states(): {path} is of worker {share[0]} of {share[1]}, and'
          f' the states of {len(values)} workers are given; give those of all.'
        )
    whole = {'share': None, 'dynamic': False}
    return ledger_state.merge([{**state, **whole} for state in states])

  parts = [part for value in values for part in value[_PROCESSES] if part]
  if not parts:
    raise ValueError(f'merge_states(): {path} has no prefetch process.')
  united = _merge_values(parts, path, unite)
  return _processes(united, len(values[0][_PROCESSES]))


def _processes(state: Any, count: int) -> dict[str, Any]:
  """State of an `mp_prefetch` whose processes all begin at `state`."""
  return {
    'next_index_in_cycle': 0,
    'next_index_in_datasets': count,
    'iterators_in_use_indices': list(range(count)),
    _PROCESSES: [state] * count,
    'exhausted': [0] * count,
    'future_states': {},
  }


def _fit(state: Any, own: Any) -> Any:
  if isinstance(state, Mapping) and isinstance(own, Mapping):
    if _PROCESSES in state:  # All of them are alike.
      return _fit(state[_PROCESSES][0], own)
    if _PROCESSES in own:
      ours = own[_PROCESSES]
      return _processes(_fit(state, ours[0]), len(ours))
    return {key: _fit(value, own.get(key)) for key, value in state.items()}
  if isinstance(state, list | tuple) and isinstance(own, list | tuple):
    if len(state) == len(own):
      return [_fit(*pair) for pair in zip(state, own)]
  return state
