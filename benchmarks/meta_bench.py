# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meta-learning steps a second, beside the same step in PyTorch.

  python -m benchmarks.meta_bench > results.jsonl

prints one JSON line a case and peer (see `benchmarks.meta_peers` and
`benchmarks.dlrm_peers`). Needs the extra `bench`.

What the clock sees in a meta-learning case, on both sides: a call with all
inputs in place, that gathers the embedding rows of the batch from its row
buffer, adapts to each task, and returns the mean query loss and its gradients
with respect to the dense parameters and to the row buffer, all of them ready.
Outside of it, on both sides: making the batch, distinct ids and routing, the
optimizer. An example is one support or query row. float32 throughout.

In the case with a table (`mlp-2-1-1e7`) and in a DLRM case
(`benchmarks.dlrm_problem`) it sees a whole training step, the optimizers
included. A DLRM step begins with the ids in memory, and finding the distinct
ones, which only antjax needs, is counted.

First both sides must agree, from the same weights, on the loss and on every
gradient, or on the new weights; otherwise an error line is printed and the exit
status is 1. Then after a warm-up at full size they alternate in blocks, and
medians over all calls are compared.

Each side runs in a process of its own, started with the memory settings that
suit it, and only one works at a time: the other one waits for its next order in
a read, and a block starts after a pause in which the OpenMP threads of PyTorch,
if it was at work before, stop spinning. In one process the two thread pools
would share the cores. PyTorch has `--threads` threads in each operator;
antjax splits the tasks over `--devices` virtual devices of one thread each,
bound to a core, and sums the gradients in one message.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
import tempfile
import time
from typing import Any

from absl import app, flags
import numpy as np

from benchmarks import dlrm_problem, harness, meta_problem

_META_PEERS = ('loop', 'functional', 'compiled')
_DLRM_PEERS = ('tbe', 'torchrec')
_SMOKE = flags.DEFINE_bool('smoke', False, 'A tiny problem, a few calls.')
_PEERS = flags.DEFINE_multi_enum(
  'peer',
  [*_META_PEERS, *_DLRM_PEERS],
  [*_META_PEERS, *_DLRM_PEERS],
  'Peers to run against; the last two in the DLRM cases, the others in the'
  ' meta-learning ones.',
)
_CASES = flags.DEFINE_list(
  'cases',
  [],
  'Only these: adapted-order-steps, for example mlp-2-1, or dlrm-<rows>; empty:'
  ' all.',
)
_BLOCKS = flags.DEFINE_integer('blocks', 15, 'Blocks of each side.', 1)
_BLOCK_S = flags.DEFINE_float('block_s', 0.3, 'Seconds of a block.', 0.0)
_THREADS = flags.DEFINE_integer('threads', os.cpu_count(), 'PyTorch threads.')
_DEVICES = flags.DEFINE_integer(
  'devices', os.cpu_count(), 'CPU devices of antjax; they share the tasks.'
)
_SIDE = flags.DEFINE_enum(
  'side', None, ['antjax', 'torch'], 'Internal: the side to be.'
)

_WARM_UP_CALLS = 5
# float32 sums of some thousand terms in another order, through two gradients.
_LOSS_RTOL = 1e-5
_GRAD_TOLERANCE = 2e-4  # Of the largest entry of a gradient.


def _antjax_env(num_devices: int) -> dict[str, str]:
  """Devices that share the cores have one thread each."""
  flags_ = f'--xla_force_host_platform_device_count={num_devices}'
  if num_devices > 1:
    flags_ += ' --xla_cpu_multi_thread_eigen=false'
  return {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags_}


def _bind_threads() -> None:
  """Binds XLA's worker threads to a core each, as OMP_PROC_BIND does."""
  cores = sorted(os.sched_getaffinity(0))
  tasks = pathlib.Path('/proc/self/task')
  workers = [
    int(task.name)
    for task in sorted(tasks.iterdir())
    if (task / 'comm').read_text().strip() == 'tf_XLAEigen'
  ]
  for i, worker in enumerate(workers):
    os.sched_setaffinity(worker, {cores[i % len(cores)]})


def _make_step(
  side: str, order: dict[str, Any]
) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
  """Returns a step, and what reads loss and gradients or weights after it."""
  problem = harness.load(order['problem'])
  peer = order['peer']
  if peer in _DLRM_PEERS:
    dlrm_case = dlrm_problem.DLRMCase(**order['case'])
    if side == 'torch':
      from benchmarks import dlrm_peers

      return dlrm_peers.make_step(peer, dlrm_case, problem)
    from benchmarks import dlrm_step

    return dlrm_step.make_step(dlrm_case, problem)
  args = meta_problem.Case(**order['case']), order['num_support'], problem
  if side == 'torch':
    import torch

    from benchmarks import meta_peers

    torch.compiler.reset()
    if args[0].num_rows:
      return meta_peers.make_table_step(peer, *args)
    run = meta_peers.make_step(peer, *args)
  else:
    from benchmarks import meta_step

    if args[0].num_rows:
      return meta_step.make_table_step(*args)
    run = meta_step.make_step(*args)

  def answer() -> dict[str, np.ndarray]:
    value, grads = run()
    arrays = {name: np.asarray(grad) for name, grad in grads.items()}
    return {'loss': np.asarray(value)} | arrays

  return run, answer


def _work(side: str) -> None:
  """Serves orders until there are no more."""
  step: dict[str, Callable[[], Any]] = {}

  def prepare(**order: Any) -> dict[str, float]:
    step.clear()  # The tables of the last case may be large.
    run, answer = _make_step(side, order)
    start = time.perf_counter()
    run()
    first_s = time.perf_counter() - start
    harness.save(answer(), order['answer'])
    for _ in range(_WARM_UP_CALLS):
      run()
    if side == 'antjax' and _DEVICES.value > 1:
      _bind_threads()
    step['run'] = run
    return {'first_call_s': first_s}

  def timed(block_s: float) -> dict[str, list[float]]:
    return {'step': harness.timed_block(step['run'], block_s)}

  if side == 'torch':  # Only the worker of a side imports its framework.
    harness.set_torch_threads(_THREADS.value)
  harness.serve({'prepare': prepare, 'time': timed})


def _side(side: str, env: dict[str, str]) -> harness.Side:
  flags_ = (f'--side={side}', f'--threads={_THREADS.value}')
  return harness.Side(
    'benchmarks.meta_bench',
    (*flags_, f'--devices={_DEVICES.value}'),
    env,
    is_peer=side == 'torch',
  )


def disagreement(
  ours: dict[str, np.ndarray], peer: dict[str, np.ndarray]
) -> str | None:
  """Says where loss and gradients differ by more than rounding, or None."""
  if not np.allclose(ours['loss'], peer['loss'], rtol=_LOSS_RTOL, atol=0):
    return f'loss {ours["loss"]} and {peer["loss"]}'
  if ours.keys() != peer.keys():
    return f'gradients of {sorted(ours)} and of {sorted(peer)}'
  for name, grad in peer.items():
    difference = float(np.max(np.abs(ours[name] - grad)))
    if not difference <= _GRAD_TOLERANCE * float(np.max(np.abs(grad))):
      return f'gradient of {name} differs by {difference}'
  return None


def _rates(num_examples: int, seconds: Sequence[float]) -> tuple[float, list]:
  """Returns median and [10th, 90th percentile] of examples/s over calls."""
  rates = num_examples / np.asarray(seconds)
  low, median, high = np.percentile(rates, [10, 50, 90])
  return round(median), [round(low), round(high)]


def _compare(sides, case, peer, sizes, folder) -> dict[str, Any]:
  """Runs one case against one peer; returns its line."""
  common = {'case': dataclasses.asdict(case), 'peer': peer}
  if isinstance(case, dlrm_problem.DLRMCase):
    num_examples = case.batch_size
    common['problem'] = str(folder / f'{case.name}.npz')
    harness.save(dlrm_problem.make(case), common['problem'])
  else:
    num_examples = sizes.num_examples
    common['num_support'] = sizes.num_support
    common['problem'] = str(folder / 'problem.npz')
  line: dict[str, Any] = {'case': common['case'], 'peer': peer}
  answers, first_s = [], []
  for name, side in sides.items():
    answer = str(folder / f'{name}.npz')
    reply = side.order('prepare', **common, answer=answer)
    first_s.append(round(reply['first_call_s'], 2))
    answers.append(harness.load(answer))
  wrong = disagreement(*answers)
  if wrong:
    return line | {'error': f'antjax and {peer} disagree: {wrong}.'}
  rounds, block_s = (
    (1, 0.0) if _SMOKE.value else (_BLOCKS.value, _BLOCK_S.value)
  )
  found = harness.take_turns(sides, rounds, block_s=block_s)
  seconds = {name: timed['step'] for name, timed in found.items()}
  ours, our_spread = _rates(num_examples, seconds['antjax'])
  theirs, their_spread = _rates(num_examples, seconds['torch'])
  return line | {
    'examples_per_s': ours,
    'peer_examples_per_s': theirs,
    'ratio': round(ours / theirs, 3),
    'p10_p90_examples_per_s': our_spread,
    'peer_p10_p90_examples_per_s': their_spread,
    'num_calls': [len(s) for s in seconds.values()],
    'first_call_s': first_s,
  }


def _selected_cases() -> list[meta_problem.Case | dlrm_problem.DLRMCase]:
  """Returns the cases that --cases names; exits at a name that is none."""
  others: tuple[meta_problem.Case | dlrm_problem.DLRMCase, ...]
  others = (meta_problem.TABLE_CASE, *dlrm_problem.CASES)
  if _SMOKE.value:
    others = (meta_problem.SMOKE_TABLE_CASE, *dlrm_problem.SMOKE_CASES)
  by_name = {case.name: case for case in (*meta_problem.CASES, *others)}
  return harness.choose('cases', _CASES.value, by_name)


def _peers_of(case: meta_problem.Case | dlrm_problem.DLRMCase) -> list[str]:
  is_dlrm = isinstance(case, dlrm_problem.DLRMCase)
  fitting = _DLRM_PEERS if is_dlrm else _META_PEERS
  return [peer for peer in _PEERS.value if peer in fitting]


def main(argv: Sequence[str]) -> None:
  if _SIDE.value:
    _work(_SIDE.value)
    return
  cases = _selected_cases()
  sizes = meta_problem.SMOKE if _SMOKE.value else meta_problem.Sizes()
  facts = harness.start(
    argv,
    is_quick=_SMOKE.value,
    antjax_devices=_DEVICES.value,
    torch_threads=_THREADS.value,
    dtype='float32',
    sizes=dataclasses.asdict(sizes),
  )
  sides = {
    'antjax': _side('antjax', _antjax_env(_DEVICES.value)),
    'torch': _side('torch', harness.PEER_ENV),
  }
  with tempfile.TemporaryDirectory() as name, harness.workers(sides) as workers:
    folder = pathlib.Path(name)
    harness.save(meta_problem.make(sizes), folder / 'problem.npz')
    for case in cases:
      for peer in _peers_of(case):
        harness.emit(_compare(workers, case, peer, sizes, folder) | facts)
  harness.finish()


if __name__ == '__main__':
  app.run(main)
