# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What every benchmark of two or more sides does: processes, turns, lines.

A benchmark is one module that is started again for each side:

  def _work(side: str) -> None:
    harness.serve({'prepare': prepare, 'time': time_block})

  def main(argv) -> None:
    facts = harness.start(argv, is_quick=_QUICK.value)
    with harness.workers({name: ...}) as workers:
      ...  # Agreement first, then `harness.take_turns`.
      harness.emit(line | facts)
    harness.finish()

Each side is a process of its own that works only when it is its turn: two
thread pools in one process would share the cores. A line is printed as soon as
it is known. Peers run with the Python of their own environment, see
`peers_python`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import ctypes
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any, TypeVar

from absl import app
import numpy as np

_T = TypeVar('_T')
_ROOT = pathlib.Path(__file__).resolve().parents[1]

# Longer than an idle OpenMP thread spins before it sleeps: whoever works next
# has the cores for itself.
PAUSE_S = 0.05
# Freed memory stays in the process, and in large pages.
_ENV = {
  'MALLOC_MMAP_THRESHOLD_': '4294967296',
  'MALLOC_TRIM_THRESHOLD_': '4294967296',
  'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1',
}
# What users of each would tune.
ANTJAX_ENV = _ENV | {'JAX_PLATFORMS': 'cpu'}
PEER_ENV = _ENV | {'OMP_PROC_BIND': 'true'}
_failures: list[str] = []


# The sides.


def _made_python() -> str:
  """The Python of the peers' environment; '' where there is none."""
  made = _ROOT / '.venv-peers' / 'bin' / 'python'
  named = os.environ.get('PEERS_PYTHON')
  return named or (str(made) if made.exists() else '')


def peers_have(package: str) -> bool:
  """Whether the peers' environment has a package, by its import name."""
  if made := _made_python():
    code = f'import importlib.util as u; assert u.find_spec({package!r})'
    done = subprocess.run([made, '-c', code], capture_output=True, check=False)
    return not done.returncode
  return importlib.util.find_spec(package) is not None


def peers_python() -> str:
  """The Python of the peers' environment; exits where none has PyTorch.

  It is that of the variable PEERS_PYTHON, else of `.venv-peers`, which `make
  peers` makes, else this one.
  """
  if not (made := _made_python()) and not peers_have('torch'):
    sys.exit(
      'The peers need torch: run `make peers`, or set PEERS_PYTHON to a Python'
      ' that has it, or pip install antjax[bench].'
    )
  return made or sys.executable


@dataclasses.dataclass(frozen=True)
class Side:
  """A process of a benchmark.

  Attributes:
    module: Module of the benchmark, such as 'benchmarks.meta_bench'.
    flags: Flags that make it this side.
    env: Variables added to the environment.
    is_peer: Whether it runs in the peers' environment.
    python: Python of an environment of its own; empty: one of those two.
  """

  module: str
  flags: tuple[str, ...]
  env: Mapping[str, str]
  is_peer: bool = False
  python: str = ''


class Worker:
  """A process that serves orders, one at a time."""

  def __init__(self, name: str, side: Side, **options: Any):
    """Starts it.

    Args:
      name: Name for messages.
      side: What to start.
      **options: Those of subprocess.Popen, such as stderr.
    """
    self._name, self._last = name, ''
    python = peers_python() if side.is_peer else sys.executable
    self._process = subprocess.Popen(
      [side.python or python, '-m', side.module, *side.flags],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      cwd=_ROOT,
      env=os.environ | side.env,
      **options,
    )

  def order(self, do: str, **fields: Any) -> Any:
    """Sends an order; returns the reply.

    Raises:
      RuntimeError: The process died.
    """
    self.send(do, **fields)
    return self.receive()

  def send(self, do: str, **fields: Any) -> None:
    """Sends an order whose reply is to be received later."""
    assert self._process.stdin is not None
    self._last = do
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(json.dumps({'do': do} | fields) + '\n')
      self._process.stdin.flush()

  def receive(self) -> Any:
    """The reply to the last order; see `order`."""
    assert self._process.stdout is not None
    reply = self._process.stdout.readline()
    if not reply:
      raise RuntimeError(
        f'the process {self._name} died during {self._last!r}; its output is'
        ' above.'
      )
    return json.loads(reply)

  def close(self) -> None:
    """Ends it, and waits for that."""
    assert self._process.stdin is not None and self._process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()


@contextlib.contextmanager
def workers(sides: Mapping[str, Side]) -> Iterator[dict[str, Worker]]:
  """Starts a process for each side, and ends them all."""
  with contextlib.ExitStack() as stack:
    started = {}
    for name, side in sides.items():
      started[name] = Worker(f'{side.module} ({name})', side)
      stack.callback(started[name].close)
    yield started


def orders() -> Iterator[tuple[dict[str, Any], Callable[[Any], None]]]:
  """Yields (order, function that sends its reply) until stdin ends."""
  out = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # What libraries print must not get between the replies.

  def reply(content: Any) -> None:
    print(json.dumps(content), file=out, flush=True)

  for line in sys.stdin:
    yield json.loads(line), reply


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
  """Serves orders until there are no more.

  Args:
    handlers: Order -> function of its fields; what it returns is the reply.
  """
  for order, reply in orders():
    reply(handlers[order.pop('do')](**order))


def prepare(worker: Worker, title: str, **fields: Any) -> Any:
  """Orders 'prepare', which may take long; says when it is done.

  Args:
    worker: A side.
    title: Case and side, for the message.
    **fields: Fields of the order.

  Returns:
    The reply.
  """
  start = time.perf_counter()
  reply = worker.order('prepare', **fields)
  seconds = time.perf_counter() - start
  print(f'{title} ready after {seconds:.0f} s', file=sys.stderr, flush=True)
  return reply


def take_turns(
  started: Mapping[str, Worker], num_blocks: int, **fields: Any
) -> dict[str, dict[str, list[float]]]:
  """Sides take turns in blocks: side -> what was timed -> its seconds.

  Args:
    started: The sides; the reply to 'time' is what was timed -> seconds.
    num_blocks: Blocks of each side.
    **fields: Fields of the order.
  """
  found: dict[str, dict[str, list[float]]] = {name: {} for name in started}
  for _ in range(num_blocks):
    for name, worker in started.items():
      time.sleep(PAUSE_S)
      for key, seconds in worker.order('time', **fields).items():
        found[name].setdefault(key, []).extend(seconds)
  return found


def alternate(
  sides: Mapping[str, Callable[[], _T]], num_turns: int
) -> dict[str, list[_T]]:
  """Sides of one process take turns, back and forth: side -> its results.

  Args:
    sides: Side -> a turn of it.
    num_turns: Turns of each side.
  """
  found: dict[str, list[_T]] = {name: [] for name in sides}
  for turn in range(num_turns):
    for name in list(sides) if turn % 2 else list(sides)[::-1]:
      found[name].append(sides[name]())
  return found


# Inside a side.


def timed(call: Callable[[], Any]) -> float:
  """Seconds of a call."""
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


def timed_block(
  call: Callable[[], Any], block_s: float, least: int = 1
) -> list[float]:
  """Seconds of each call, for a block's time and a least number of calls."""
  seconds: list[float] = []
  end = time.perf_counter() + block_s
  while len(seconds) < least or time.perf_counter() < end:
    seconds.append(timed(call))
  return seconds


def forget_peak_memory() -> None:
  """Begins the count of `peak_bytes` anew, without what was freed."""
  ctypes.CDLL(None).malloc_trim(0)
  pathlib.Path('/proc/self/clear_refs').write_text('5')


def peak_bytes() -> int:
  """Resident memory of this process at its highest."""
  status = pathlib.Path('/proc/self/status').read_text()
  line = next(x for x in status.splitlines() if x.startswith('VmHWM'))
  return int(line.split()[1]) * 1024


def matmul_flops_per_s(dtype: str = 'float32', size: int = 2048) -> float:
  """The fastest of some products of two large matrices in JAX."""
  import jax
  import jax.numpy as jnp

  x = jnp.ones((size, size), dtype)
  product = jax.jit(jnp.matmul)
  product(x, x).block_until_ready()
  seconds = [timed(lambda: product(x, x).block_until_ready()) for _ in range(5)]
  return 2.0 * size**3 / min(seconds)


def set_torch_threads(num_threads: int) -> None:
  """Sets the threads of PyTorch's operators; one operator at a time."""
  import torch

  torch.set_num_threads(num_threads)
  torch.set_num_interop_threads(1)


# Problems and lines.


def save(arrays: Mapping[str, np.ndarray], path: str | pathlib.Path) -> None:
  """Writes arrays, for a side to `load`."""
  np.savez(path, **arrays)  # type: ignore[arg-type]


def load(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Reads what `save` wrote."""
  with np.load(path) as archive:
    return dict(archive)


def write_model(fields: Mapping[str, Any], folder: str | pathlib.Path) -> None:
  """Writes a language model with random weights as a Hugging Face folder.

  Args:
    fields: Content of its config.json.
    folder: Folder to write.
  """
  import jax

  from antjax.lm import config_json, pretrained, transformer

  jax.config.update('jax_platforms', 'cpu')  # No accelerator is to be taken.
  config = config_json.read_config(fields)
  params = jax.jit(lambda key: transformer.init(config, key))(jax.random.key(0))
  pretrained.save_pretrained(folder, config, params)


def rounded(x: float, digits: int = 3) -> float:
  """A number with so many digits that count."""
  return float(f'{x:.{digits}g}')


def choose(
  flag: str, names: Sequence[str], known: Mapping[str, _T]
) -> list[_T]:
  """Cases that a flag names, or all; exits at a name that is none.

  Args:
    flag: Name of the flag.
    names: Its value; empty: all.
    known: Name -> case.
  """
  for name in names:
    if name not in known:
      sys.exit(f'--{flag}={name}: use some of {", ".join(known)}.')
  return [known[name] for name in names or known]


def start(
  argv: Sequence[str], *, is_quick: bool = False, **facts: Any
) -> dict[str, Any]:
  """Refuses words that are no flags, warns of load; returns facts of each line.

  Args:
    argv: Arguments of main.
    is_quick: Whether the figures are of no interest.
    **facts: Further facts.
  """
  if len(argv) > 1:
    raise app.UsageError(f'got {argv[1:]}; this benchmark takes flags only.')
  load_average = os.getloadavg()[0]
  if load_average > 1 and not is_quick:
    print(
      f'Load average {load_average:.1f}: other work shares these cores. Do not'
      ' quote these figures.',
      file=sys.stderr,
    )
  return {
    'device': device_name(),
    'versions': versions(),
    'load_average_before': round(load_average, 2),
    **facts,
  }


def emit(line: Mapping[str, Any]) -> None:
  """Prints a JSON line now; one with an 'error' makes the exit status 1."""
  if 'error' in line:
    _failures.append(str(line['error']))
  print(json.dumps(line), flush=True)


def finish() -> None:
  """Exits with status 1 if a line had an error."""
  if _failures:
    sys.exit(1)


def device_name() -> str:
  """The processor, as results files name it."""
  model = 'unknown CPU'
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        model = line.split(':')[1].strip()
        break
  return f'cpu: {model}, {os.cpu_count()} cores'


def versions() -> dict[str, str]:
  """Versions of the packages that figures depend on, the peers' included."""
  names = ('jax', 'jaxlib', 'flax', 'numpy', 'torch', 'transformers')
  code = (
    'import importlib.metadata as m, json\n'
    f'have = {{d.metadata["Name"]: d.version for d in m.distributions()}}\n'
    f'print(json.dumps({{n: have[n] for n in {names!r} if n in have}}))'
  )
  found = {}
  for python in filter(None, (_made_python(), sys.executable)):
    said = subprocess.run(
      [python, '-c', code], capture_output=True, text=True, check=False
    ).stdout
    found |= json.loads(said or '{}')
  return found
