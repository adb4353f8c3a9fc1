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

from collections.abc import Iterator, Sequence
import os
import pathlib
import statistics
import tempfile
from typing import Any

from absl import app, flags
import numpy as np

from benchmarks import ctr_figures, harness
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
  sides: dict[str, Any] = {}

  def ours(model: str, data: str, run_dir: str, problem: str) -> None:
    from benchmarks import ctr_form

    side = sides['side'] = ctr_form.Form(model, data, run_dir)
    problem_lib.save(side.problem(), problem)
    side.train(5)

  def peer(model: str, loader: str, problem: str) -> None:
    import torch

    torch.set_num_threads(_THREADS.value)
    made = problem_lib.load(problem)
    if loader == 'fuxictr':
      from benchmarks.ctr_fuxictr import Peer
    else:
      from benchmarks.ctr_peers import Peer
    sides['side'] = Peer(model, loader, made)
    sides['side'].train(5)

  def timed(steps: int) -> dict[str, list[float]]:
    # Untimed: a virtual machine takes back memory of idlers.
    first = steps // 8
    sides['side'].train(first)
    seconds = sides['side'].train(steps - first)
    return {'rows_per_s': [(steps - first) * problem_lib.BATCH / seconds]}

  def logits(path: str) -> None:
    np.save(path, sides['side'].logits())

  harness.serve(
    {
      'ours': ours,
      'peer': peer,
      'time': timed,
      'logits': logits,
      'matmul': harness.matmul_flops_per_s,
    }
  )


def _side(name: str, *, is_peer: bool) -> harness.Side:
  return harness.Side(
    'benchmarks.ctr_bench',
    (f'--worker={name}', f'--threads={_THREADS.value}'),
    harness.PEER_ENV if is_peer else harness.ANTJAX_ENV,
    is_peer=is_peer,
  )


def _has(loader: str, model: str) -> bool:
  """Whether a peer has a model, and is installed."""
  if loader != 'fuxictr':
    return True
  return model in problem_lib.FUXICTR_MODELS and harness.peers_have('fuxictr')


def _lines(model: str, folder: pathlib.Path) -> Iterator[dict[str, Any]]:
  """Trains one model on all sides; yields a line for each of the peer's."""
  problem_path = str(folder / 'problem.npz')
  loaders = [x for x in _LOADERS.value if _has(x, model)]
  sides = {'antjax': _side(f'antjax {model}', is_peer=False)} | {
    loader: _side(f'{loader} {model}', is_peer=True) for loader in loaders
  }
  with harness.workers(sides) as workers:
    workers['antjax'].order(
      'ours',
      model=model,
      data=_DATA.value,
      run_dir=str(folder / model),
      problem=problem_path,
    )
    for loader in loaders:
      workers[loader].order(
        'peer', model=model, loader=loader, problem=problem_path
      )
    problem = problem_lib.load(problem_path)
    num_rows = len(problem.train['label'])
    steps = round(_EPOCHS.value * num_rows / problem_lib.BATCH)
    edges = np.linspace(0, steps, _BLOCKS.value + 1).astype(int)
    rates: dict[str, list[float]] = {name: [] for name in workers}
    for size in np.diff(edges).tolist():
      for name, found in harness.take_turns(workers, 1, steps=size).items():
        rates[name] += found['rows_per_s']
    logits = {}
    for name, worker in workers.items():
      path = folder / f'{model}_{name}.npy'
      worker.order('logits', path=str(path))
      logits[name] = np.load(path)
    flops_per_s = workers['antjax'].order('matmul')
  ours = statistics.median(rates['antjax'])
  for loader in loaders:
    theirs = statistics.median(rates[loader])
    yield {
      'model': model,
      'peer': 'FuxiCTR' if loader == 'fuxictr' else 'torch-rechub',
      'loader': loader,
      'rows_per_s': round(ours),
      'peer_rows_per_s': round(theirs),
      'ratio': round(ours / theirs, 2),
      **ctr_figures.compared(logits['antjax'], logits[loader], problem.test),
      'flops_bound_s': round(
        ctr_figures.flops_of_step(model, problem) / flops_per_s, 6
      ),
      'step_s': round(problem_lib.BATCH / ours, 6),
      'steps': steps,
      'spread': {n: [round(min(x)), round(max(x))] for n, x in rates.items()},
    }


def main(argv: Sequence[str]) -> None:
  if _WORKER.value:
    _work()
    return
  models = harness.choose(
    'models', _MODELS.value, {name: name for name in problem_lib.MODELS}
  )
  harness.choose(
    'loaders', _LOADERS.value, {name: name for name in problem_lib.LOADERS}
  )
  facts = harness.start(argv, dtype='float32', torch_threads=_THREADS.value)
  with tempfile.TemporaryDirectory() as folder:
    for model in models:
      for line in _lines(model, pathlib.Path(folder)):
        harness.emit(line | facts)
  harness.finish()


if __name__ == '__main__':
  app.run(main)
