# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Cost of a training example on long textual behaviour, in four forms.

  python -m benchmarks.bahe_bench > results.jsonl

prints one JSON line a case (see `benchmarks.bahe_problem`). Needs the extra
`bench`. The forms: `full_text`, all tokens through the whole language model in
antjax, and `peer`, the same in PyTorch and transformers (`bahe_peers`);
`dedup`, the distinct behaviours of a micro-batch through the frozen low half,
and their vectors through the high half; `bahe`, vectors of a store through the
high half.

Seconds of an example are those of a micro-batch's gradient, from tokens or ids
in memory to the sum of gradients, over its examples, and those of the optimizer
over the 32 examples of a step, all forms alike. `time_ratio` is the faster of
full_text and peer over bahe; `end_to_end_ratio` adds to bahe its share of
encoding MovieLens-1M's behaviours once for one pass over its examples.

Bytes of an example, `memory_ratio`, are beyond the state at rest: for antjax
what the compiler plans for twice the examples less what it plans for one
micro-batch; for the peer the tensors that autograd keeps for the backward pass,
which is less than it needs. `peak_ratio` is of the resident memory of whole
processes at their highest during the timed calls, weights, moments and
gradients included. Both have the smaller of full_text and peer over bahe.

In float32 both full texts must agree on the loss from the same weights;
otherwise an error line is printed and the exit status is 1. Each form runs in
a process of its own; they take turns in blocks, and only one works at a time.
Medians of all calls are compared.
"""

from collections.abc import Sequence
import dataclasses
import gc
import os
import pathlib
import tempfile
from typing import Any

from absl import app, flags

from benchmarks import bahe_figures, bahe_problem, harness

_FORMS = ('full_text', 'dedup', 'bahe', 'peer')
_QUICK = flags.DEFINE_bool('quick', False, 'Tiny models, one call a form.')
_CASES = flags.DEFINE_list(
  'cases', [], 'Only these: model-length-dtype; empty: all.'
)
_SKIP = flags.DEFINE_multi_enum('skip', [], _FORMS, 'Forms to leave out.')
_BLOCKS = flags.DEFINE_integer('blocks', 3, 'Blocks of each form.', 1)
_BLOCK_S = flags.DEFINE_float(
  'block_s', 2.0, 'Seconds of a block; it has at least one call.', 0.0
)
_REMAT = flags.DEFINE_enum(
  'remat',
  'layer',
  ['none', 'layer', 'dots'],
  "What antjax's backward pass of a full text computes again.",
)
_HIGH_REMAT = flags.DEFINE_enum(
  'high_remat',
  'layer',
  ['none', 'layer', 'dots'],
  'The same of the high half alone, for dedup and bahe.',
)
_THREADS = flags.DEFINE_integer('threads', os.cpu_count(), 'PyTorch threads.')
_FORM = flags.DEFINE_enum('form', None, _FORMS, 'Internal: the form to be.')

# Examples that forms without long texts work off at a time.
_SHORT_MICRO_BATCH = 16
_NUM_ENCODED = 2048  # Behaviours, to measure how fast the low half is.


def _prepare(form: str, order: dict[str, Any]):
  """Builds a form and runs it once; returns it and what is known of it."""
  case = bahe_problem.Case(**order['case'])
  problem = harness.load(order['problem'])
  if form == 'peer':
    import torch

    from benchmarks import bahe_peers

    torch.set_num_threads(_THREADS.value)
    work: Any = bahe_peers.FullText(case, order['folder'], problem)
    facts: dict[str, Any] = {}
  else:
    from benchmarks import bahe_forms

    remat = _REMAT.value if form == 'full_text' else _HIGH_REMAT.value
    work = bahe_forms.Form(form, case, order['folder'], problem, remat)
    facts = {
      'peak_flops': harness.matmul_flops_per_s(
        case.dtype, 128 if _QUICK.value else 2048
      ),
      'flops': work.flops_per_example(),
    }
    if form == 'bahe':
      facts['behaviors_per_s'] = bahe_forms.behaviors_per_s(
        order['folder'],
        problem['tokens'][: 64 if _QUICK.value else _NUM_ENCODED],
        case.dtype,
      )
  facts['bytes'] = work.bytes_per_example()
  facts['loss'] = work.gradient()
  work.update()
  return work, facts | {'num_examples': work.num_examples}


def _work(form: str) -> None:
  """Serves orders until there are no more."""
  made: dict[str, Any] = {}

  def prepare(**order: Any) -> dict[str, Any]:
    made['work'], facts = _prepare(form, order)
    gc.collect()  # Compilation and warm-up are not part of the peak.
    harness.forget_peak_memory()
    return facts

  def timed(block_s: float) -> dict[str, list[float]]:
    work = made['work']
    return {
      'gradient': harness.timed_block(work.gradient, block_s),
      'update': [harness.timed(work.update)],
    }

  def peak() -> dict[str, int]:
    return {'peak_bytes': harness.peak_bytes()}

  harness.serve({'prepare': prepare, 'time': timed, 'peak': peak})


def _side(form: str) -> harness.Side:
  return harness.Side(
    'benchmarks.bahe_bench',
    (
      f'--form={form}',
      f'--quick={_QUICK.value}',
      f'--remat={_REMAT.value}',
      f'--high_remat={_HIGH_REMAT.value}',
      f'--threads={_THREADS.value}',
    ),
    harness.PEER_ENV if form == 'peer' else harness.ANTJAX_ENV,
    is_peer=form == 'peer',
  )


def _run(case: bahe_problem.Case, folder: pathlib.Path) -> dict[str, Any]:
  """Runs one case in all forms; returns what each measured."""
  forms = [form for form in _FORMS if form not in _SKIP.value]
  config = bahe_problem.fields(case.model, _QUICK.value)
  common = {
    'case': dataclasses.asdict(case),
    'folder': str(folder / case.model),
  }
  found: dict[str, Any] = {}
  if not (folder / case.model).exists():
    harness.write_model(config, common['folder'])
  with harness.workers({form: _side(form) for form in forms}) as workers:
    for form, worker in workers.items():
      is_long = form in ('full_text', 'peer')
      size = case.micro_batch if is_long else _SHORT_MICRO_BATCH
      path = str(folder / f'{form}.npz')
      harness.save(bahe_problem.make(case, config, size), path)
      title = f'{case.name}: {form}'
      found[form] = harness.prepare(worker, title, **common, problem=path)
    blocks, block_s = (
      (1, 0.0) if _QUICK.value else (_BLOCKS.value, _BLOCK_S.value)
    )
    turns = harness.take_turns(workers, blocks, block_s=block_s)
    for form, worker in workers.items():
      found[form] |= turns[form] | worker.order('peak')
  return found


def main(argv: Sequence[str]) -> None:
  if _FORM.value:
    _work(_FORM.value)
    return
  by_name = {case.name: case for case in bahe_problem.CASES}
  cases = harness.choose('cases', _CASES.value, by_name)
  facts = harness.start(
    argv,
    is_quick=_QUICK.value,
    torch_threads=_THREADS.value,
    remat=_REMAT.value,
    high_remat=_HIGH_REMAT.value,
  )
  with tempfile.TemporaryDirectory() as folder:
    for case in cases:
      found = _run(case, pathlib.Path(folder))
      harness.emit(bahe_figures.line_of(case, found) | facts)
  harness.finish()


if __name__ == '__main__':
  app.run(main)
