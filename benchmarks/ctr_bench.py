# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed and AUC of click models beside torch-rechub's and FuxiCTR's.

  python -m benchmarks.ctr_bench --data=data/ml-1m > results.jsonl

prints a JSON line for each model and loader of the peer, torch-rechub: `own`,
its DataLoader over rows as its users run it, and `batched`, where that is
replaced by slices of tensors, so that the models compete. The loader `fuxictr`
is FuxiCTR with its own, for the models that it has too, where it is installed
(the extra `bench_fuxictr`, which brings Ray). Needs the extra `bench`, and the
folder that launch/prepare_data.py writes by default.

Both train the same clicks (see `ctr_problem`) for the same number of epochs in
blocks of steps that take turns; only one works at a time. `rows_per_s` is of
whole steps, from arrays in memory to new parameters, without the first eighth
of each block; medians of the blocks are compared. `auc` is of the test clicks
after all of it, `auc_difference` ours less the peer's with a 95 % interval over
users (paired bootstrap).
`flops_bound_s` is the time of a step's matrix products at the rate that this
machine reaches for a large one.
"""

from collections.abc import Sequence
import contextlib
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

from absl import app, flags
import numpy as np

from benchmarks import ctr_figures, worker_process
from benchmarks import ctr_problem as problem_lib

_DATA = flags.DEFINE_string('data', 'data/ml-1m', 'Prepared clicks.')
_MODELS = flags.DEFINE_list('models', [], 'Only these; empty: all.')
_LOADERS = flags.DEFINE_list(
  'loaders',
  list(problem_lib.LOADERS),
  'Of the peer, fuxictr: another one; it is left out where it is missing.',
)
_EPOCHS = flags.DEFINE_float('epochs', 2.0, 'Passes over the training clicks.')
_BLOCKS = flags.DEFINE_integer('blocks', 6, 'Blocks that the steps go in.', 1)
_THREADS = flags.DEFINE_integer('threads', os.cpu_count(), 'PyTorch threads.')
_WORKER = flags.DEFINE_string('worker', '', 'Internal: the side to be.')


def _work() -> None:
  """Serves orders until there are no more."""
  side: Any = None
  for order, send in worker_process.orders():
    reply: Any = {}
    if order['do'] == 'ours':
      from benchmarks import ctr_form

      side = ctr_form.Form(order['model'], order['data'], order['run_dir'])
      problem_lib.save(side.problem(), pathlib.Path(order['problem']))
      side.train(5)
    elif order['do'] == 'peer':
      import torch

      torch.set_num_threads(_THREADS.value)
      problem = problem_lib.load(order['problem'])
      if order['loader'] == 'fuxictr':
        from benchmarks import ctr_fuxictr

        side = ctr_fuxictr.Peer(order['model'], problem)
      else:
        from benchmarks import ctr_peers

        side = ctr_peers.Peer(order['model'], order['loader'], problem)
      side.train(5)
    elif order['do'] == 'train':
      reply = side.train(order['steps'])
    elif order['do'] == 'logits':
      np.save(order['path'], side.logits())
    elif order['do'] == 'matmul':
      reply = ctr_figures.matmul_flops_per_s()
    send(reply)


def _worker(name: str, side: str) -> worker_process.WorkerProcess:
  args = ['-m', 'benchmarks.ctr_bench', f'--worker={name}']
  args.append(f'--threads={_THREADS.value}')
  return worker_process.WorkerProcess(name, args, worker_process.ENVS[side])


def _has(loader: str, model: str) -> bool:
  """Whether a peer has a model, and is installed."""
  if loader != 'fuxictr':
    return True
  is_there = importlib.util.find_spec('fuxictr') is not None
  return is_there and model in problem_lib.FUXICTR_MODELS


def _run(model: str, folder: pathlib.Path) -> list[dict[str, Any]]:
  """Trains one model on all sides; returns its lines."""
  problem_path = str(folder / 'problem.npz')
  loaders = [x for x in _LOADERS.value if _has(x, model)]
  with contextlib.ExitStack() as stack:
    sides = {'antjax': _worker(f'antjax {model}', 'antjax')}
    for loader in loaders:
      sides[loader] = _worker(f'{loader} {model}', 'peer')
    for side in sides.values():
      stack.callback(side.close)
    sides['antjax'].order(
      'ours',
      model=model,
      data=_DATA.value,
      run_dir=str(folder / model),
      problem=problem_path,
    )
    for loader in loaders:
      sides[loader].order(
        'peer', model=model, loader=loader, problem=problem_path
      )
    problem = problem_lib.load(problem_path)
    num_rows = len(problem.train['label'])
    steps = round(_EPOCHS.value * num_rows / problem_lib.BATCH)
    edges = np.linspace(0, steps, _BLOCKS.value + 1).astype(int)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for size in np.diff(edges).tolist():
      for name, side in sides.items():
        time.sleep(worker_process.PAUSE_S)
        # Untimed: a virtual machine takes back memory of idlers.
        first = size // 8
        side.order('train', steps=first)
        seconds = side.order('train', steps=size - first)
        rates[name].append((size - first) * problem_lib.BATCH / seconds)
    logits = {}
    for name, side in sides.items():
      path = folder / f'{model}_{name}.npy'
      side.order('logits', path=str(path))
      logits[name] = np.load(path)
    flops_per_s = sides['antjax'].order('matmul')
  lines = []
  for loader in loaders:
    lines.append(
      {
        'model': model,
        'peer': 'FuxiCTR' if loader == 'fuxictr' else 'torch-rechub',
        'loader': loader,
        'rows_per_s': round(statistics.median(rates['antjax'])),
        'peer_rows_per_s': round(statistics.median(rates[loader])),
        'ratio': round(
          statistics.median(rates['antjax']) / statistics.median(rates[loader]),
          2,
        ),
        **ctr_figures.compared(logits['antjax'], logits[loader], problem.test),
        'flops_bound_s': round(
          ctr_figures.flops_of_step(model, problem) / flops_per_s, 6
        ),
        'step_s': round(
          problem_lib.BATCH / statistics.median(rates['antjax']), 6
        ),
        'steps': steps,
        'spread': {
          name: [round(min(x)), round(max(x))] for name, x in rates.items()
        },
      }
    )
  return lines


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'got {argv[1:]}; ctr_bench takes flags only.')
  if _WORKER.value:
    _work()
    return
  if unknown := sorted(set(_MODELS.value) - set(problem_lib.MODELS)):
    sys.exit(
      f'--models={unknown}: use some of {", ".join(problem_lib.MODELS)}.'
    )
  if unknown := sorted(set(_LOADERS.value) - set(problem_lib.LOADERS)):
    sys.exit(
      f'--loaders={unknown}: use some of {", ".join(problem_lib.LOADERS)}.'
    )
  if not importlib.util.find_spec('torch_rechub'):
    sys.exit('ctr_bench: the peer is missing: pip install antjax[bench]')
  load = os.getloadavg()[0]
  if load > 1:
    print(
      f'ctr_bench: load average {load:.1f}: other work shares these cores. Do'
      ' not quote these figures.',
      file=sys.stderr,
    )
  facts = {
    'device': worker_process.device_name(),
    'dtype': 'float32',
    'torch_threads': _THREADS.value,
    'versions': worker_process.versions(),
    'load_average_before': round(load, 2),
  }
  with tempfile.TemporaryDirectory() as folder:
    for model in _MODELS.value or problem_lib.MODELS:
      for line in _run(model, pathlib.Path(folder)):
        print(json.dumps(line | facts), flush=True)


if __name__ == '__main__':
  app.run(main)
