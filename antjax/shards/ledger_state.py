# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The state of a `ShardLedger` as plain JSON types: check, merge, unmark.

A state is a dict:
  version, num_records, shard_size, seed, num_epochs (None: without end)
  share: [worker, num_workers] of a ledger that leases only its part of the
    shards, None after `merge`.
  first_epoch: All earlier epochs are done.
  epochs: Runs of epochs that are alike, in order and without gaps, each a dict
    start, stop: start <= epoch < stop.
    done: Set of positions, see below, whose shards are done.
    assigned: Set of the positions that are this worker's; None: all.
    marks: position -> set of consumed records (offsets) of a shard not done.
    doing: position -> worker that holds the shard.
  dynamic (where true): The worker leases from a ledger that all share, so that
    no shard is its own: `done` and `marks` are what it knows to be consumed, by
    itself or before it began.
  is_stream (where true): The data set grows, and its order is not shuffled.
Epochs from the last `stop` on have not begun.

The position of a shard is its place in the epoch's shuffled order. Sets are
text, see `index_set`. Positions, not shard indices, make epochs that are
finished in the same way equal, so that a run of them takes the space of one.

Neither jax nor grain is imported here.
"""

from collections.abc import Iterable, Sequence
import functools
import operator
from typing import Any

import numpy as np

from antjax.shards.index_set import bits as bits
from antjax.shards.index_set import decode as decode
from antjax.shards.index_set import encode as encode
from antjax.shards.index_set import members as members

State = dict[str, Any]

VERSION = 1
_IDENTITY = ('version', 'num_records', 'shard_size', 'seed')
_CACHED = 1 << 20  # Larger orders take too much memory to keep.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def num_shards(num_records: int, shard_size: int) -> int:
  """Returns the number of shards; the last one may be smaller."""
  return -(-num_records // shard_size)


def shard_order(
  shards: int, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the shuffled order of an epoch and its inverse.

  Args:
    shards: Number of shards S.
    seed: Seed of the data set.
    epoch: Epoch; each has its own order.

  Returns:
    Arrays [S]: shard index at each position, and position of each shard index.
  """
  return (_cached_order if shards <= _CACHED else _order)(shards, seed, epoch)


def _order(shards: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
  order = _seeded_order(np.arange(shards), seed, epoch, 0)
  inverse = np.empty_like(order)
  inverse[order] = np.arange(shards)
  return order, inverse


_cached_order = functools.lru_cache(maxsize=8)(_order)


def only_order(shards: int, seed: int, epoch: int) -> np.ndarray:
  """Returns the order of `shard_order` alone, as int32: 4 bytes a shard."""
  return _seeded_order(np.arange(shards), seed, epoch, 0).astype(np.int32)


def record_order(start: int, stop: int, seed: int, epoch: int) -> np.ndarray:
  """Returns the records start <= index < stop in their seeded order."""
  return start + _seeded_order(np.arange(start, stop), seed, epoch, 1)


def joined(runs: Iterable[State]) -> list[State]:
  """Returns runs in order, neighbours that are alike joined into one."""
  result: list[State] = []
  for run in sorted(runs, key=operator.itemgetter('start')):
    last = result[-1] if result else run
    if {**run, 'start': 0} == {**last, 'start': 0, 'stop': run['stop']} and (
      result and last['stop'] == run['start']
    ):
      result[-1] = {**last, 'stop': run['stop']}
    else:
      result.append(run)
  return result


def remaining(run: State) -> int:
  """Returns the set of a worker's positions in a run that are not done."""
  return decode(run['assigned']) & ~decode(run['done'])


def rewritten(run: State) -> State:
  """Returns a run with its sets as `encode` writes them: equal if alike."""
  assigned = run['assigned']
  return {
    **run,
    'done': encode(decode(run['done'])),
    'assigned': None if assigned is None else encode(decode(assigned)),
    'marks': {p: encode(decode(m)) for p, m in run['marks'].items()},
  }


def check(state: Any) -> State:
  """Returns `state` if it has the form of a ledger state.

  Raises:
    ValueError: It does not; says what is wrong.
  """
  try:
    if state['version'] != VERSION:
      raise ValueError(f'version {state["version"]}, needed: {VERSION}')
    shards = num_shards(state['num_records'], state['shard_size'])
    expected = state['first_epoch']
    whole = _is_whole(state['share'])
    for run in state['epochs']:
      if run['start'] != expected or run['stop'] <= run['start']:
        raise ValueError(f'epoch {expected} is missing')
      if run['assigned'] is None and not whole and not is_dynamic(state):
        raise ValueError(f'epoch {expected} does not say what is assigned')
      expected = run['stop']
      for text in (run['done'], run['assigned'] or '0'):
        decode(text, shards)
      named = [int(p) for p in (*run['marks'], *run['doing'])]
      if max(named, default=0) >= shards or min(named, default=0) < 0:
        raise ValueError(f'epoch {run["start"]} has more than {shards} shards')
      for text in run['marks'].values():
        decode(text, state['shard_size'])
    if missing := {'seed', 'num_epochs'} - state.keys():
      raise ValueError(f'no {", ".join(sorted(missing))}')
  except (AttributeError, KeyError, TypeError, ValueError) as e:
    reason = f'no {e}' if isinstance(e, KeyError) else e
    raise ValueError(f'Not a state of a ShardLedger: {reason}.') from e
  checked: State = state
  return checked


def is_dynamic(state: State) -> bool:
  """Whether the state is of a worker that leases from a shared ledger."""
  return bool(state.get('dynamic'))


def is_stream(state: State) -> bool:
  """Whether the data set grows."""
  return bool(state.get('is_stream'))


def check_same_data(states: Sequence[State]) -> None:
  """Raises ValueError unless all states are of one data set."""
  names = [*_IDENTITY, 'is_stream']
  if all(map(is_stream, states)):  # Each saw it at another length.
    names.remove('num_records')
  first = states[0]
  for state in states:
    for name in names:
      one, other = first.get(name, False), state.get(name, False)
      if one != other:
        raise ValueError(
          f'Ledger states of different data sets: {name}={one} and'
          f' {name}={other}; give states of one run.'
        )


def merge(states: Sequence[State]) -> State:
  """Returns the united progress of the workers of one run.

  Args:
    states: One state for each worker, all saved at the same step, in any order.

  Returns:
    A state that any number of workers can continue from. Leases are not kept:
    a shard that a worker held is to do, less the records it has consumed.

  Raises:
    ValueError: A worker's state is missing or given twice, or the states are
      not of one run.
  """
  states = [check(state) for state in states]
  if not states:
    raise ValueError('merge() needs the state of at least one worker.')
  check_same_data(states)
  if len({is_dynamic(state) for state in states}) > 1:
    raise ValueError(
      'merge(): some states are of workers that share one ledger, and some of'
      ' workers with a share of their own; give states of one run.'
    )
  _check_shares([state['share'] for state in states])
  first = max(state['first_epoch'] for state in states)
  edges = {first}
  for state in states:
    for run in state['epochs']:
      edges |= {max(first, run['start']), max(first, run['stop'])}
  ordered = sorted(edges)
  runs = [
    _united_run(states, start, stop)
    for start, stop in zip(ordered, ordered[1:])
  ]
  merged = {
    **{name: states[0][name] for name in (*_IDENTITY, 'num_epochs')},
    'share': None,
    'first_epoch': first,
    'epochs': runs,
  }
  if is_stream(states[0]):
    sizes = [state['num_records'] for state in states]
    return {**merged, 'is_stream': True, 'num_records': max(sizes)}
  return _without_done(merged)


def unmark(state: State, record_keys: Iterable[int]) -> State:
  """Returns a state in which some consumed records are to do again.

  For records that were read, but wait in a queue and so are not used yet.

  Args:
    state: State of a ledger; is not changed.
    record_keys: epoch * num_records + index of each record, without repeats.

  Raises:
    ValueError: A record was not consumed, or is given twice.
  """
  check(state)
  size, shard_size = state['num_records'], state['shard_size']
  shards = num_shards(size, shard_size)
  by_epoch: dict[int, list[int]] = {}
  for key in record_keys:
    by_epoch.setdefault(int(key) // size, []).append(int(key) % size)
  runs = [dict(run, marks=dict(run['marks'])) for run in state['epochs']]
  first = min([state['first_epoch'], *by_epoch])
  if first < state['first_epoch']:
    own_share = not _is_whole(state['share']) and not is_dynamic(state)
    assigned = encode(0) if own_share else None
    full = encode((1 << shards) - 1)
    runs.insert(0, _run(first, state['first_epoch'], full, assigned))
  for epoch, indices in by_epoch.items():
    run = _cut_out(runs, epoch)
    _, position_of = shard_order(shards, state['seed'], epoch)
    for index in indices:
      shard, offset = divmod(index, shard_size)
      length = min(shard_size, size - shard * shard_size)
      place = shard if is_stream(state) else int(position_of[shard])
      if not _unmark_in_run(run, place, offset, length):
        raise ValueError(
          f'unmark(): record {index} of epoch {epoch} was not consumed, or is'
          ' given twice.'
        )
  return {**state, 'first_epoch': first, 'epochs': runs}


def _unmark_in_run(run: State, position: int, offset: int, length: int) -> bool:
  """Unmarks a record of a shard of `length`; False if it was not consumed."""
  bit = 1 << position
  done = decode(run['done'])
  marks = decode(run['marks'].pop(str(position), '0'))
  if done & bit:
    marks = (1 << length) - 1
    run['done'] = encode(done ^ bit)
    if run['assigned'] is not None:  # Also where the epoch was over.
      run['assigned'] = encode(decode(run['assigned']) | bit)
  if not marks >> offset & 1:
    return False
  if marks := marks ^ 1 << offset:
    run['marks'][str(position)] = encode(marks)
  return True


def _seeded_order(
  values: np.ndarray, seed: int, epoch: int, salt: int
) -> np.ndarray:
  """Returns the order of `values` by a hash, the same on every version."""
  key = np.array([salt], np.uint64)
  for part in (seed, epoch):
    key = _mix((key + np.array([part % 2**64], np.uint64)) * _GOLDEN + _GOLDEN)
  hashes = _mix(values.astype(np.uint64) * _GOLDEN + key)
  return np.argsort(hashes)  # All differ: the hash is a bijection.


def _mix(x: np.ndarray) -> np.ndarray:
  """Mixes uint64 values: the finalizer of SplitMix64."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def _run(start: int, stop: int, done: str, assigned: str | None) -> State:
  return {
    'start': start,
    'stop': stop,
    'done': done,
    'assigned': assigned,
    'marks': {},
    'doing': {},
  }


def _is_whole(share: Sequence[int] | None) -> bool:
  return share is None or share[1] == 1


def _check_shares(shares: Sequence[Sequence[int] | None]) -> None:
  """Raises ValueError unless the shares make up the whole."""
  parts = [share for share in shares if share is not None and share[1] > 1]
  if not parts:
    return
  num_workers = parts[0][1]
  needed = [[worker, num_workers] for worker in range(num_workers)]
  if len(parts) < len(shares) or sorted(map(list, parts)) != needed:
    given = ', '.join('all' if s is None else f'{s[0]}/{s[1]}' for s in shares)
    raise ValueError(
      f'merge() needs the states of workers 0 to {num_workers - 1} of'
      f' {num_workers}, once each; got {given}.'
    )


def _united_run(states: Sequence[State], start: int, stop: int) -> State:
  """Unites what the states say about epochs that are alike in each."""
  done, assigned = 0, 0
  marks: dict[str, int] = {}
  for state in states:
    for run in state['epochs']:
      if not run['start'] <= start < run['stop']:
        continue
      done |= decode(run['done'])
      mine = decode(run['assigned'] or '0')
      if mine & assigned:
        raise ValueError(
          f'merge(): two workers own the same shards of epoch {start}: the'
          ' states are not of one run.'
        )
      assigned |= mine
      for position, text in run['marks'].items():
        marks[position] = marks.get(position, 0) | decode(text)
  result = _run(start, stop, '', None)
  result['marks'] = {
    p: encode(m) for p, m in marks.items() if not done >> int(p) & 1
  }
  result['done'] = encode(done)
  return result


def _without_done(state: State) -> State:
  """Moves `first_epoch` past the epochs that are done."""
  shards = num_shards(state['num_records'], state['shard_size'])
  runs = list(state['epochs'])
  first = state['first_epoch']
  while runs and decode(runs[0]['done']) == (1 << shards) - 1:
    first = runs.pop(0)['stop']
  return {**state, 'first_epoch': first, 'epochs': runs}


def _cut_out(runs: list[State], epoch: int) -> State:
  """Cuts the run with `epoch` so that it has a run of its own; returns that."""
  for i, run in enumerate(runs):
    if run['start'] <= epoch < run['stop']:
      pieces = [
        dict(run, start=start, stop=stop, marks=dict(run['marks']))
        for start, stop in (
          (run['start'], epoch),
          (epoch, epoch + 1),
          (epoch + 1, run['stop']),
        )
        if start < stop
      ]
      runs[i : i + 1] = pieces
      return next(piece for piece in pieces if piece['start'] == epoch)
  raise ValueError(f'unmark(): epoch {epoch} has not begun.')
