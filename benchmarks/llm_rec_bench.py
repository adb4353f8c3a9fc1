# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed of LLM-Rec's training and evaluation, beside its recipe in PyTorch.

  python -m benchmarks.llm_rec_bench > results.jsonl

prints a JSON line for each dtype and peer (see `benchmarks.llm_rec_problem`).
Needs the extra `bench`. The peers, in PyTorch and transformers, are three forms
of one recipe (`llm_rec_peers`): `published`, 11 encodings an example, padded to
42; `deduplicated`, distinct items once, sorted by length; `shared`, negatives
shared by a batch. antjax trains as users do, by `Trainer` on packed texts, with
the same negatives as the peer: its `own` form stands beside the first two, its
`shared` form beside the third.

`examples_per_s` is of whole steps, from token ids in memory to new parameters;
`eval_users_per_s` of histories to the 20 best of all items, whose vectors are
there; `items_per_s` of titles to vectors. `ratio` is antjax over peer.

In float32 all forms of the same negatives must agree on the loss of the first
batch from the same weights; otherwise an error line is printed and the exit
status is 1. Each form runs in a process of its own; they take turns in blocks,
and only one works at a time; the first step of a block is not timed. Medians of
all calls are compared.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

from absl import app, flags

from benchmarks import llm_rec_figures, worker_process
from benchmarks import llm_rec_problem as problem_lib

_PEERS, _OURS = llm_rec_figures.PEERS, llm_rec_figures.OURS
_WORKERS = (
  *(f'antjax_{form}' for form in _OURS),
  *(f'peer_{form}' for form in _PEERS),
)
_QUICK = flags.DEFINE_bool('quick', False, 'A tiny model, one call a form.')
_CASES = flags.DEFINE_list('cases', [], 'Only these: model-dtype; empty: all.')
_SKIP = flags.DEFINE_multi_enum('skip', [], _WORKERS, 'Forms to leave out.')
_BLOCKS = flags.DEFINE_integer('blocks', 4, 'Blocks of each form.', 1)
_BLOCK_S = flags.DEFINE_float(
  'block_s', 4.0, 'Seconds of a block of steps; it has at least two.', 0.0
)
_THREADS = flags.DEFINE_integer('threads', os.cpu_count(), 'PyTorch threads.')
_WORKER = flags.DEFINE_enum(
  'worker', None, _WORKERS, 'Internal: the form to be.'
)

_NUM_USERS, _NUM_ITEMS = llm_rec_figures.NUM_USERS, llm_rec_figures.NUM_ITEMS


def _prepare(worker: str, order: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
  """Builds a form and runs it once; returns it and what is known of it."""
  case = problem_lib.Case(**order['case'])
  problem = problem_lib.load(order['problem'])
  side, form = worker.split('_')
  if side == 'peer':
    import torch

    from benchmarks import llm_rec_peers

    torch.set_num_threads(_THREADS.value)
    work: Any = llm_rec_peers.Peer(form, case, order['folder'], problem)
  else:
    from benchmarks import llm_rec_forms

    work = llm_rec_forms.Form(form, case, order['folder'], problem)
  loss = work.warm_up(_NUM_USERS, _NUM_ITEMS)
  return work, {'loss': loss, 'facts': work.facts()}


def _timed(call) -> float:
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


def _work(worker: str) -> None:
  """Serves orders until there are no more."""
  work: Any = None
  for order, send in worker_process.orders():
    reply: Any = {}
    if order['do'] == 'write_model':
      fields = problem_lib.fields(order['model'], _QUICK.value)
      worker_process.write_model(fields, order['folder'])
    elif order['do'] == 'prepare':
      work, reply = _prepare(worker, order)
    elif order['do'] == 'time':
      reply = {'step': [], 'users': [], 'items': []}
      work.step()  # Untimed: a virtual machine takes back memory of idlers.
      end = time.perf_counter() + order['block_s']
      while len(reply['step']) < 2 or time.perf_counter() < end:
        reply['step'].append(_timed(work.step))
      reply['users'].append(_timed(lambda: work.users(_NUM_USERS)))
      reply['items'].append(_timed(lambda: work.items(_NUM_ITEMS)))
    send(reply)


def _worker(name: str) -> worker_process.WorkerProcess:
  return worker_process.WorkerProcess(
    f'llm_rec_bench --worker={name}',
    [
      '-m',
      'benchmarks.llm_rec_bench',
      f'--worker={name}',
      f'--quick={_QUICK.value}',
      f'--threads={_THREADS.value}',
    ],
    worker_process.ENVS[name.split('_')[0]],
  )


def _run(
  case: problem_lib.Case, names: Sequence[str], folder: pathlib.Path
) -> dict[str, dict[str, Any]]:
  """Runs one case in all forms; returns what each measured."""
  config = problem_lib.fields(case.model, _QUICK.value)
  problem = problem_lib.make(case, config['vocab_size'], _QUICK.value)
  problem_lib.save(problem, folder / 'problem.npz')
  options = {
    'case': dataclasses.asdict(case),
    'folder': str(folder / case.model),
    'problem': str(folder / 'problem.npz'),
  }
  found: dict[str, dict[str, Any]] = {}
  with contextlib.ExitStack() as stack:
    workers = {name: _worker(name) for name in names}
    for worker in workers.values():
      stack.callback(worker.close)
    if not (folder / case.model).exists():
      first = next(name for name in names if name.startswith('antjax'))
      workers[first].order(
        'write_model', model=case.model, folder=options['folder']
      )
    for name, worker in workers.items():
      start = time.perf_counter()
      found[name] = worker.order('prepare', **options)
      found[name] |= {'step': [], 'users': [], 'items': []}
      print(
        f'{case.name}: {name} ready after {time.perf_counter() - start:.0f} s',
        file=sys.stderr,
        flush=True,
      )
    for _ in range(1 if _QUICK.value else _BLOCKS.value):
      for name, worker in workers.items():
        time.sleep(worker_process.PAUSE_S)
        block_s = 0.0 if _QUICK.value else _BLOCK_S.value
        for key, seconds in worker.order('time', block_s=block_s).items():
          found[name][key] += seconds
  return found


def _machine() -> dict[str, Any]:
  """What a reader needs to judge the figures."""
  return {
    'device': worker_process.device_name(),
    'torch_threads': _THREADS.value,
    'versions': worker_process.versions(),
  }


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'got {argv[1:]}; llm_rec_bench takes flags only.')
  if _WORKER.value:
    _work(_WORKER.value)
    return
  by_name = {case.name: case for case in problem_lib.CASES}
  for name in _CASES.value:
    if name not in by_name:
      sys.exit(f'--cases={name}: use some of {", ".join(by_name)}.')
  names = [name for name in _WORKERS if name not in _SKIP.value]
  if any(n.startswith('peer') for n in names) and not importlib.util.find_spec(
    'torch'
  ):
    sys.exit('llm_rec_bench: the peers need PyTorch: pip install antjax[bench]')
  if not any(name.startswith('antjax') for name in names):
    sys.exit('--skip: leave at least one of antjax_own, antjax_shared.')
  load = os.getloadavg()[0]
  if load > 1 and not _QUICK.value:
    print(
      f'llm_rec_bench: load average {load:.1f}: other work shares these cores.'
      ' Do not quote these figures.',
      file=sys.stderr,
    )
  facts = _machine() | {'load_average_before': round(load, 2)}
  failed = False
  with tempfile.TemporaryDirectory() as folder:
    for name in _CASES.value or by_name:
      case = by_name[name]
      if _QUICK.value:
        case = dataclasses.replace(case, num_batches=2)
      for line in llm_rec_figures.lines_of(
        case, _run(case, names, pathlib.Path(folder))
      ):
        failed |= 'error' in line
        print(json.dumps(line | facts), flush=True)
  if failed:
    sys.exit(1)


if __name__ == '__main__':
  app.run(main)
