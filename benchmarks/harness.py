# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Common parts of benchmarks with several sides: processes, turns, lines.

  def main(config: Config) -> None:
    facts = harness.start(config)
    sides = {'antjax': harness.OURS, 'peer': harness.Side(is_peer=True)}
    with harness.workers(sides) as workers:
      workers['peer'].make('benchmarks.x_peers:Peer', case=...)
      ...  # Agreement first, then `harness.take_turns`.
      harness.emit(line | facts)

  if __name__ == '__main__':
    harness.run(main, Config())

Each side is a separate process (`python -m benchmarks.harness`) that builds an
object, calls its methods on request, and works only in its turn: two thread
pools in one process would share the cores. Lines are printed as soon as they
are known. Peers run with the Python of their own environment, see
`benchmarks.machine`.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import importlib
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
import types
from typing import Annotated, Any, TypeVar

import numpy as np

from benchmarks import machine

_T = TypeVar('_T')

# Longer than idle OpenMP threads spin before they sleep, so that the next side
# has all cores.
PAUSE_S = 0.05
# Keep freed memory in the process, in large pages.
_ENV = {
  'MALLOC_MMAP_THRESHOLD_': '4294967296',
  'MALLOC_TRIM_THRESHOLD_': '4294967296',
  'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1',
}
# Settings that users of each library would tune.
ANTJAX_ENV = _ENV | {'JAX_PLATFORMS': 'cpu'}
PEER_ENV = _ENV | {'OMP_PROC_BIND': 'true'}
_failures: list[str] = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags of benchmarks whose sides take turns in blocks."""

  quick: Annotated[bool, 'A tiny problem, one call a side.'] = False
  cases: Annotated[tuple[str, ...], 'Only these; empty: all.'] = ()
  blocks: Annotated[int, 'Blocks of each side.'] = 3
  block_s: Annotated[float, 'Seconds of a block; a call at least.'] = 2.0
  threads: Annotated[int, 'PyTorch threads.'] = os.cpu_count() or 1

  @property
  def turns(self) -> tuple[int, float]:
    """(blocks, seconds of each)."""
    return (1, 0.0) if self.quick else (self.blocks, self.block_s)


# The sides.


@dataclasses.dataclass(frozen=True)
class Side:
  """A process of a benchmark."""

  env: Mapping[str, str] | None = None  # Extra variables; None: usual ones.
  is_peer: bool = False  # Runs in the peers' environment.
  threads: int = 0  # PyTorch threads; 0: no PyTorch.
  python: str = ''  # Interpreter, if its own.
  argv: tuple[str, ...] = ()  # Module and arguments.

  def start(self, **options: Any) -> subprocess.Popen:
    """Starts the process, with options of Popen."""
    python = machine.peers_python() if self.is_peer else sys.executable
    argv = self.argv or ('benchmarks.harness', str(self.threads))
    default = PEER_ENV if self.is_peer else ANTJAX_ENV
    return subprocess.Popen(
      [self.python or python, '-m', *argv],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      cwd=machine.ROOT,
      env=os.environ | (default if self.env is None else self.env),
      **options,
    )


OURS = Side()


class Worker:
  """A process that serves requests, one at a time."""

  def __init__(self, name: str, side: Side, **options: Any):
    """Starts a side, with options of Popen; `name` is for messages."""
    self._name, self._last = name, ''
    self._process = side.start(**options)

  def make(self, what: str, **fields: Any) -> None:
    """Builds the object for later requests; prints when it is done.

    Args:
      what: 'module:Class' or 'module:function'.
      **fields: Arguments, as JSON.
    """
    start = time.perf_counter()
    self.order('make', what=what, **fields)
    seconds = time.perf_counter() - start
    print(f'{self._name} ready after {seconds:.0f} s', file=sys.stderr)

  def order(self, do: str, **fields: Any) -> Any:
    """Calls a method of the object, or a function of `machine`.

    Raises:
      RuntimeError: The process died.
    """
    self.send(do, **fields)
    return self.receive()

  def send(self, do: str, **fields: Any) -> None:
    """Sends a request whose reply is received later."""
    assert self._process.stdin is not None
    self._last = do
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(json.dumps({'do': do} | fields) + '\n')
      self._process.stdin.flush()

  def receive(self) -> Any:
    """The reply to the last request; see `order`."""
    assert self._process.stdout is not None
    reply = self._process.stdout.readline()
    if not reply:
      raise RuntimeError(
        f'the process {self._name} died during {self._last!r}; its output is'
        ' above.'
      )
    return json.loads(reply)

  def close(self) -> None:
    """Ends the process and waits for it."""
    assert self._process.stdin is not None and self._process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()


@contextlib.contextmanager
def workers(
  sides: Mapping[str, Side], title: str = ''
) -> Iterator[dict[str, Worker]]:
  """Starts a process per side, and ends all of them on exit."""
  with contextlib.ExitStack() as stack:
    started = {}
    for name, side in sides.items():
      started[name] = Worker(f'{title} {name}'.strip(), side)
      stack.callback(started[name].close)
    yield started


def take_turns(
  started: Mapping[str, Worker],
  turns: tuple[int, float],
  calls: Mapping[str, int],
  warm_up: str = '',
) -> dict[str, dict[str, list[float]]]:
  """Lets sides take turns in blocks: side -> method -> seconds of its calls.

  Processor seconds of the same calls are 'cpu_' + method.

  Args:
    started: The sides.
    turns: Number of blocks of each side, seconds of a block.
    calls: Method -> minimum number of calls in a block; 0: once, for any length
      of the block.
    warm_up: Method called twice, untimed, at the start of a block. A host may
      have taken back the memory of a process that waited, and getting it again
      takes processor time; steps may alternate between two places in it.
  """
  num_blocks, block_s = turns
  found: dict[str, dict[str, list[float]]] = {
    name: collections.defaultdict(list) for name in started
  }
  for _ in range(num_blocks):
    for name, worker in started.items():
      time.sleep(PAUSE_S)
      reply = worker.order(
        'time', calls=calls, block_s=block_s, warm_up=warm_up
      )
      for call, seconds in reply.items():
        found[name][call] += seconds
  return found


def alternate(
  sides: Mapping[str, Callable[[], _T]], num_turns: int
) -> dict[str, list[_T]]:
  """Lets sides of this process take turns: side -> its results."""
  found: dict[str, list[_T]] = {name: [] for name in sides}
  for turn in range(num_turns):
    for name in list(sides) if turn % 2 else list(sides)[::-1]:
      found[name].append(sides[name]())
  return found


# Inside a side.


def named(what: str) -> Any:
  """The class or function 'module:name'."""
  module, _, name = what.partition(':')
  return getattr(importlib.import_module(module), name)


def _serve(num_threads: int) -> None:
  """Serves requests until there are no more."""
  if num_threads:
    import torch

    torch.set_num_threads(num_threads)
    torch.set_num_interop_threads(1)
  out = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # Output of libraries must not mix with the replies.
  made: Any = None
  for line in sys.stdin:
    order = json.loads(line)
    do, reply = order.pop('do'), None
    if do == 'make':
      made = None  # Its tables may be large.
      made = named(order.pop('what'))(**order)
    elif do == 'time':
      reply = _timed(made, **order)
    else:
      reply = (getattr(made, do, None) or getattr(machine, do))(**order)
    print(json.dumps(reply), file=out, flush=True)


def _timed(
  made: Any, calls: Mapping[str, int], block_s: float, warm_up: str
) -> dict[str, list[float]]:
  for _ in range(2 if warm_up else 0):
    getattr(made, warm_up)()
  found = {}
  for name, least in calls.items():
    found[name], found[f'cpu_{name}'] = timed_block(
      getattr(made, name), block_s if least else 0, least or 1
    )
  return found


def timed(call: Callable[[], Any]) -> float:
  """Seconds of a call."""
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


def timed_block(
  call: Callable[[], Any], block_s: float, least: int = 1
) -> tuple[list[float], list[float]]:
  """(seconds, processor seconds of all threads) of each call of a block.

  A block has at least the given time and number of calls.
  """
  seconds: list[float] = []
  processor_s: list[float] = []
  end = time.perf_counter() + block_s
  while len(seconds) < least or time.perf_counter() < end:
    start = time.process_time()
    seconds.append(timed(call))
    processor_s.append(time.process_time() - start)
  return seconds, processor_s


# Problems and lines.


def save(arrays: Mapping[str, np.ndarray], path: str | pathlib.Path) -> None:
  """Writes arrays, for a side to `load`."""
  np.savez(path, **arrays)  # type: ignore[arg-type]


def load(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Reads what `save` wrote."""
  with np.load(path) as archive:
    return dict(archive)


def rounded(x: Any) -> Any:
  """JSON with numbers rounded to the digits of a measurement."""
  if isinstance(x, float) and math.isfinite(x):
    return float(f'{x:.5g}')
  if isinstance(x, Mapping):
    return {key: rounded(value) for key, value in x.items()}
  if isinstance(x, list | tuple):
    return [rounded(value) for value in x]
  return x


def min_max(values: Sequence[float]) -> list[float]:
  """Minimum and maximum of some figures."""
  return [min(values), max(values)]


def choose(
  flag: str, names: Sequence[str], known: Mapping[str, _T]
) -> list[_T]:
  """Cases named by a flag, or all; exits on an unknown name."""
  for name in names:
    if name not in known:
      sys.exit(f'--{flag}={name}: use some of {", ".join(known)}.')
  return [known[name] for name in names or known]


def run(
  main: Callable[..., Any], config: Any, *, takes_command: bool = False
) -> None:
  """Parses flags and runs a benchmark's `main(config)`; exits.

  The exit status is 1 if a line had an error. SIGTERM and SIGHUP exit all
  `with` statements. With `takes_command` main also gets the words after the
  flags.
  """
  from antjax.jobs import script

  def leave(number: int, frame: types.FrameType | None) -> None:
    del frame
    sys.exit(128 + number)

  @functools.wraps(main)
  def guarded(*args: Any) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
      signal.signal(number, leave)
    return main(*args) or bool(_failures)

  script.run(guarded, config, takes_command=takes_command)


def start(config: Any = None, **facts: Any) -> dict[str, Any]:
  """Warns about load; returns facts for each line.

  Args:
    config: A `Config`, to check whether figures matter.
    **facts: Further facts.
  """
  load_average = os.getloadavg()[0]
  if load_average > 1 and not getattr(config, 'quick', False):
    print(
      f'Load average {load_average:.1f}: other work shares these cores. Do not'
      ' quote these figures.',
      file=sys.stderr,
    )
  if isinstance(config, Config):
    facts['torch_threads'] = config.threads
  return {
    'device': machine.device_name(),
    'versions': machine.versions(),
    'load_average_before': round(load_average, 2),
    **facts,
  }


def emit(line: Mapping[str, Any]) -> None:
  """Prints a JSON line now; one with an 'error' makes the exit status 1."""
  if 'error' in line:
    _failures.append(str(line['error']))
  print(json.dumps(rounded(line)), flush=True)


if __name__ == '__main__':
  _serve(int(sys.argv[1]))
