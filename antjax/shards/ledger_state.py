# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The state of a ledger as plain JSON types: read, merge, unmark.

A state is what a checkpoint says of a data set: a dict
  version, num_records, shard_size, seed, num_epochs (None: without end)
  share: [worker, num_workers] that it is of; None after `merge`.
  first_epoch: All earlier epochs are done.
  epochs: Runs of epochs that are alike, in order and without gaps, each a dict
    start, stop: start <= epoch < stop.
    done: Set of positions, see below, whose shards are consumed.
    assigned: Set of the positions that are this worker's; None: all.
    marks: position -> set of consumed records (offsets) of a shard not done.
    doing: Not used any more.
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

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import dataclasses
import functools
from typing import Any

from antjax.shards import data_shard, index_set

State = dict[str, Any]

VERSION = 1
_MAX_WHOLE = 1 << 53
# Of a whole state: runs, and bytes of their bit sets. What is beyond was not
# written by a ledger, see `LedgerSpec.has_room`.
_MAX_RUNS = 1 << 16
_MAX_SET_BYTES = 1 << 27
_IDENTITY = ('version', 'num_records', 'shard_size', 'seed')


@dataclasses.dataclass
class EpochRun:
  """Epochs start <= epoch < stop of a state, that are alike."""

  start: int
  stop: int
  done: int = 0  # Bit set of the positions whose shards are consumed.
  assigned: int | None = None  # Those that are one worker's; None: all.
  # Position -> bit set of the consumed records of a shard that is not done.
  marks: dict[int, int] = dataclasses.field(default_factory=dict)

  @property
  def length(self) -> int:
    return self.stop - self.start

  def remaining(self, shards: int) -> int:
    """Returns the bit set of the positions that are to do."""
    every = (1 << shards) - 1 if self.assigned is None else self.assigned
    return every & ~self.done

  @property
  def own(self) -> int:
    """The same bit set as `assigned`; empty where that is None."""
    return self.assigned or 0

  def cut(self, *edges: int) -> list['EpochRun']:
    """Returns these epochs as runs that end at the edges."""
    inner = {edge for edge in edges if self.start < edge < self.stop}
    ends = sorted({self.start, self.stop, *inner})
    return [
      dataclasses.replace(self, start=a, stop=b, marks=dict(self.marks))
      for a, b in zip(ends, ends[1:])
    ]

  def to_json(self) -> State:
    encode = index_set.encode
    return {
      'start': self.start,
      'stop': self.stop,
      'done': encode(self.done),
      'assigned': None if self.assigned is None else encode(self.assigned),
      'marks': {str(p): encode(bits) for p, bits in self.marks.items()},
      'doing': {},
    }


def read(
  state: Any, check: Callable[[State], None] = lambda state: None
) -> list[EpochRun]:
  """Returns the runs of a state.

  `check` sees the fields that name the data set before the runs, which may be
  large, are read; it raises where the state is of another one.

  Raises:
    ValueError: It is no state of a ledger; says what is wrong.
  """
  with _malformed():
    _check_head(state)
  check(state)
  with _malformed():
    return _read_runs(state)


@contextlib.contextmanager
def _malformed() -> Iterator[None]:
  try:
    yield
  except (AttributeError, KeyError, TypeError, ValueError) as e:
    reason = f'no {e}' if isinstance(e, KeyError) else e
    raise ValueError(f'Not a state of a ledger: {reason}.') from e


def _check_head(state: Any) -> None:
  if state['version'] != VERSION:
    raise ValueError(f'version {state["version"]}, needed: {VERSION}')
  if missing := {'seed', 'num_epochs'} - state.keys():
    raise ValueError(f'no {", ".join(sorted(missing))}')
  for name, low in (
    ('num_records', 0),
    ('shard_size', 1),
    ('first_epoch', 0),
  ):
    _check_whole(name, state[name], low)
  if state['share'] is not None:
    worker, num_workers = state['share']
    _check_whole('share', worker)
    _check_whole('share', num_workers, 1)


def _read_runs(state: State) -> list[EpochRun]:
  expected, runs = state['first_epoch'], list[EpochRun]()
  _check_bounds(state)
  room = _MAX_SET_BYTES
  for fields in state['epochs']:
    run = _read_run(fields, state)
    room -= sum(bits.bit_length() // 8 for bits in run.marks.values())
    if room < 0:
      raise ValueError(f'its marks have more than {_MAX_SET_BYTES} bytes')
    if run.start != expected or run.stop <= run.start:
      raise ValueError(f'epoch {expected} is missing')
    if not _is_own_share(state):
      run.assigned = None
    elif run.assigned is None:
      raise ValueError(f'epoch {expected} does not say what is assigned')
    expected = run.stop
    runs.append(run)
  return runs


def _read_run(fields: State, state: State) -> EpochRun:
  """Reads a run; a shard of which all records are marked is done."""
  size, shard_size = state['num_records'], state['shard_size']
  shards = data_shard.num_shards(size, shard_size)
  for name in ('start', 'stop'):
    _check_whole(name, fields[name])
  named = [int(p) for p in (*fields['marks'], *fields['doing'])]
  if max(named, default=0) >= shards or min(named, default=0) < 0:
    raise ValueError(f'epoch {fields["start"]} has more than {shards} shards')
  run = EpochRun(fields['start'], fields['stop'])
  run.done = index_set.decode(fields['done'], shards)
  if fields['assigned'] is not None:
    run.assigned = index_set.decode(fields['assigned'], shards)

  @functools.cache
  def last() -> int:  # Position of the last shard, which may be smaller.
    if state.get('is_stream'):
      return shards - 1
    return data_shard.shard_position(
      shards - 1, shards, state['seed'], run.start
    )

  done = []
  for position, text in zip(named, fields['marks'].values(), strict=False):
    bits = index_set.decode(text, shard_size)
    count = bits.bit_count()
    is_short = count == size % shard_size and run.length == 1
    if count == shard_size or (is_short and position == last()):
      done.append(position)
    else:
      run.marks[position] = bits
  run.done |= index_set.bits(done)
  return run


def _check_bounds(state: State) -> None:
  """Raises ValueError where to read the runs would take long or much memory.

  A few bytes of compressed text may stand for a large set.
  """
  runs = state['epochs']
  shards = data_shard.num_shards(state['num_records'], state['shard_size'])
  if (
    len(runs) > _MAX_RUNS
    or shards > 8 * _MAX_SET_BYTES
    or (len(runs) > 2 and len(runs) * shards > 4 * _MAX_SET_BYTES)
  ):
    raise ValueError(
      f'{len(runs)} runs of {shards} shards are more than a ledger writes'
    )
  size = (min(state['shard_size'], state['num_records']) + 7) // 8
  packed = sum(
    isinstance(text, str) and text.startswith('z')
    for fields in runs
    for text in fields.get('marks', {}).values()
  )
  if packed * size > _MAX_SET_BYTES:
    raise ValueError(
      f'{packed} marks of shards of {state["shard_size"]} records are too many'
    )


def _check_whole(name: str, value: Any, low: int = 0) -> None:
  if type(value) is not int or not low <= value <= _MAX_WHOLE:
    text = f'{value!r:.40}'
    raise ValueError(
      f'{name} {text} is no whole number from {low} to {_MAX_WHOLE}'
    )


def check_same_data(states: Sequence[State]) -> None:
  """Raises ValueError unless all states are of one data set."""
  names = [*_IDENTITY, 'is_stream']
  if all(state.get('is_stream') for state in states):
    # Each saw it at another length.
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
  """Returns the merged progress of the workers of one run.

  Args:
    states: One state for each worker, all saved at the same step, in any order.

  Returns:
    A state that any number of workers can continue from: a shard that a worker
    held is to do, less the records it has consumed.

  Raises:
    ValueError: A worker's state is missing or given twice, or the states are
      not of one run.
  """
  if not states:
    raise ValueError('merge() needs the state of at least one worker.')
  parts = [read(state) for state in states]
  check_same_data(states)
  if len({bool(state.get('dynamic')) for state in states}) > 1:
    raise ValueError(
      'merge(): some states are of workers that share one ledger, and some of'
      ' workers with a share of their own; give states of one run.'
    )
  _check_shares([state['share'] for state in states])
  first = max(state['first_epoch'] for state in states)
  edges = {first}
  for run in (run for part in parts for run in part):
    edges |= {max(first, run.start), max(first, run.stop)}
  ordered = sorted(edges)
  runs = [
    _united([run for part in parts for run in part], start, stop)
    for start, stop in zip(ordered, ordered[1:])
  ]
  merged = {
    **{name: states[0][name] for name in (*_IDENTITY, 'num_epochs')},
    'share': None,
  }
  if states[0].get('is_stream'):
    sizes = [state['num_records'] for state in states]
    merged |= {'is_stream': True, 'num_records': max(sizes)}
  else:  # An epoch of a stream may still grow.
    shards = data_shard.num_shards(merged['num_records'], merged['shard_size'])
    while runs and not runs[0].remaining(shards):
      first = runs.pop(0).stop
  return _with_runs(merged, first, runs)


def unmark(state: State, record_keys: Iterable[int]) -> State:
  """Returns a state in which some consumed records are to do again.

  For records that were read, but wait in a queue and so are not used yet.

  Args:
    state: State of a ledger; is not changed.
    record_keys: epoch * num_records + index of each record, without repeats.

  Raises:
    ValueError: A record was not consumed, or is given twice.
  """
  runs = read(state)
  size, shard_size = state['num_records'], state['shard_size']
  shards = data_shard.num_shards(size, shard_size)
  by_epoch: dict[int, list[int]] = {}
  for key in record_keys:
    by_epoch.setdefault(int(key) // size, []).append(int(key) % size)
  first = min([state['first_epoch'], *by_epoch])
  if first < state['first_epoch']:
    run = EpochRun(first, state['first_epoch'], (1 << shards) - 1)
    run.assigned = 0 if _is_own_share(state) else None
    runs.insert(0, run)
  for epoch, indices in by_epoch.items():
    runs = [piece for run in runs for piece in run.cut(epoch, epoch + 1)]
    found = [run for run in runs if run.start == epoch]
    if not found:
      raise ValueError(f'unmark(): epoch {epoch} has not begun.')
    places = None
    if not state.get('is_stream'):
      places = data_shard.shard_positions(shards, state['seed'], epoch)
    for index in indices:
      shard, offset = divmod(index, shard_size)
      length = min(shard_size, size - shard * shard_size)
      place = shard if places is None else int(places[shard])
      if not _unmark_in_run(found[0], place, offset, length):
        raise ValueError(
          f'unmark(): record {index} of epoch {epoch} was not consumed, or is'
          ' given twice.'
        )
  return _with_runs(state, first, runs)


def _with_runs(state: State, first: int, runs: Sequence[EpochRun]) -> State:
  epochs = [run.to_json() for run in runs]
  return {**state, 'first_epoch': first, 'epochs': epochs}


def _unmark_in_run(
  run: EpochRun, position: int, offset: int, length: int
) -> bool:
  """Unmarks a record of a shard of `length`; False if it was not consumed."""
  bit = 1 << position
  marks = run.marks.pop(position, 0)
  if run.done & bit:
    marks = (1 << length) - 1
    run.done ^= bit
    if run.assigned is not None:  # Also where the epoch was over.
      run.assigned |= bit
  if not marks >> offset & 1:
    return False
  if marks := marks ^ 1 << offset:
    run.marks[position] = marks
  return True


def _is_own_share(state: State) -> bool:
  """Whether the state is of a worker whose shards are its own."""
  share = state['share']
  return share is not None and share[1] > 1 and not state.get('dynamic')


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


def _united(runs: Iterable[EpochRun], start: int, stop: int) -> EpochRun:
  """Merges what runs of all workers say about epochs that are alike in each."""
  result, assigned = EpochRun(start, stop), 0
  for run in runs:
    if not run.start <= start < run.stop:
      continue
    result.done |= run.done
    if run.own & assigned:
      raise ValueError(
        f'merge(): two workers own the same shards of epoch {start}: the'
        ' states are not of one run.'
      )
    assigned |= run.own
    for position, bits in run.marks.items():
      result.marks[position] = result.marks.get(position, 0) | bits
  for position in [p for p in result.marks if result.done >> p & 1]:
    del result.marks[position]
  return result
