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
status is 1. Each form runs in a process of its own. The two of a line take
turns in blocks, and only one works at a time; the first step of a block is not
timed. Medians of all calls are compared, and the line is printed before the
next pair begins.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import os
import pathlib
import sys
import tempfile
from typing import Any

from absl import app, flags

from benchmarks import harness, llm_rec_figures
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
  problem = harness.load(order['problem'])
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


def _work(worker: str) -> None:
  """Serves orders until there are no more."""
  made: dict[str, Any] = {}

  def prepare(**order: Any) -> dict[str, Any]:
    made['work'], facts = _prepare(worker, order)
    return facts

  def timed(block_s: float) -> dict[str, list[float]]:
    work = made['work']
    work.step()  # Untimed: a virtual machine takes back memory of idlers.
    return {
      'step': harness.timed_block(work.step, block_s, least=2),
      'users': [harness.timed(lambda: work.users(_NUM_USERS))],
      'items': [harness.timed(lambda: work.items(_NUM_ITEMS))],
    }

  harness.serve({'prepare': prepare, 'time': timed})


def _side(name: str) -> harness.Side:
  is_peer = name.startswith('peer')
  return harness.Side(
    'benchmarks.llm_rec_bench',
    (
      f'--worker={name}',
      f'--quick={_QUICK.value}',
      f'--threads={_THREADS.value}',
    ),
    harness.PEER_ENV if is_peer else harness.ANTJAX_ENV,
    is_peer=is_peer,
  )


def _lines(
  case: problem_lib.Case, names: Sequence[str], folder: pathlib.Path
) -> Iterator[dict[str, Any]]:
  """Runs one case pair by pair; yields the line of each when it is known."""
  config = problem_lib.fields(case.model, _QUICK.value)
  problem = problem_lib.make(case, config['vocab_size'], _QUICK.value)
  harness.save(problem, folder / 'problem.npz')
  options = {
    'case': dataclasses.asdict(case),
    'folder': str(folder / case.model),
    'problem': str(folder / 'problem.npz'),
  }
  blocks, block_s = (
    (1, 0.0) if _QUICK.value else (_BLOCKS.value, _BLOCK_S.value)
  )
  facts: dict[str, Mapping[str, Any]] = {}
  if not (folder / case.model).exists():
    harness.write_model(config, options['folder'])
  with harness.workers({name: _side(name) for name in names}) as workers:
    for pair in llm_rec_figures.pairs_of(names):
      for name in filter(None, pair):
        if name not in facts:
          title = f'{case.name}: {name}'
          facts[name] = harness.prepare(workers[name], title, **options)
      sides = {name: workers[name] for name in pair if name}
      turns = harness.take_turns(sides, blocks, block_s=block_s)
      found = {name: {**facts[name], **turns[name]} for name in sides}
      yield llm_rec_figures.line_of(case, pair, found)


def main(argv: Sequence[str]) -> None:
  if _WORKER.value:
    _work(_WORKER.value)
    return
  by_name = {case.name: case for case in problem_lib.CASES}
  cases = harness.choose('cases', _CASES.value, by_name)
  names = [name for name in _WORKERS if name not in _SKIP.value]
  if not any(name.startswith('antjax') for name in names):
    sys.exit('--skip: leave at least one of antjax_own, antjax_shared.')
  facts = harness.start(
    argv, is_quick=_QUICK.value, torch_threads=_THREADS.value
  )
  with tempfile.TemporaryDirectory() as folder:
    for case in cases:
      if _QUICK.value:
        case = dataclasses.replace(case, num_batches=2)
      for line in _lines(case, names, pathlib.Path(folder)):
        harness.emit(line | facts)
  harness.finish()


if __name__ == '__main__':
  app.run(main)
