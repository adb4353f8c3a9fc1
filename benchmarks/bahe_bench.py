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
import contextlib
import ctypes
import dataclasses
import gc
import importlib.util
import json
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

from absl import app, flags

from benchmarks import bahe_figures, bahe_problem, worker_process

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
  problem = bahe_problem.load(order['problem'])
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
      'peak_flops': bahe_forms.measured_peak(case.dtype),
      'flops': work.flops_per_example(),
    }
    if form == 'bahe':
      facts['behaviors_per_s'] = bahe_forms.behaviors_per_s(
        order['folder'], problem['tokens'][:_NUM_ENCODED], case.dtype
      )
  facts['bytes'] = work.bytes_per_example()
  facts['loss'] = work.gradient()
  work.update()
  return work, facts | {'num_examples': work.num_examples}


def _timed(call) -> float:
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


def _work(form: str) -> None:
  """Serves orders until there are no more."""
  work: Any = None
  for order, send in worker_process.orders():
    reply: Any = {}
    if order['do'] == 'write_model':
      fields = bahe_problem.fields(order['model'], _QUICK.value)
      worker_process.write_model(fields, order['folder'])
    elif order['do'] == 'prepare':
      work, reply = _prepare(form, order)
      # Compilation and warm-up are not part of the peak: what they freed goes
      # back to the system, and the count starts here.
      gc.collect()
      ctypes.CDLL(None).malloc_trim(0)
      pathlib.Path('/proc/self/clear_refs').write_text('5')
    elif order['do'] == 'time':
      reply = {'gradient': [], 'update': []}
      end = time.perf_counter() + order['block_s']
      while not reply['gradient'] or time.perf_counter() < end:
        reply['gradient'].append(_timed(work.gradient))
      reply['update'].append(_timed(work.update))
    elif order['do'] == 'peak':
      status = pathlib.Path('/proc/self/status').read_text()
      line = next(x for x in status.splitlines() if x.startswith('VmHWM'))
      reply = {'peak_bytes': int(line.split()[1]) * 1024}
    send(reply)


def _worker(form: str) -> worker_process.WorkerProcess:
  return worker_process.WorkerProcess(
    f'bahe_bench --form={form}',
    [
      '-m',
      'benchmarks.bahe_bench',
      f'--form={form}',
      f'--quick={_QUICK.value}',
      f'--remat={_REMAT.value}',
      f'--high_remat={_HIGH_REMAT.value}',
      f'--threads={_THREADS.value}',
    ],
    worker_process.ENVS['peer' if form == 'peer' else 'antjax'],
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
  with contextlib.ExitStack() as stack:
    workers = {form: _worker(form) for form in forms}
    for worker in workers.values():
      stack.callback(worker.close)
    if not (folder / case.model).exists():
      first = next(iter(set(forms) - {'peer'}))
      workers[first].order(
        'write_model', model=case.model, folder=common['folder']
      )
    for form, worker in workers.items():
      is_long = form in ('full_text', 'peer')
      size = case.micro_batch if is_long else _SHORT_MICRO_BATCH
      path = str(folder / f'{form}.npz')
      bahe_problem.save(bahe_problem.make(case, config, size), path)
      start = time.perf_counter()
      found[form] = worker.order('prepare', **common, problem=path)
      found[form] |= {'gradient': [], 'update': []}
      print(
        f'{case.name}: {form} ready after {time.perf_counter() - start:.0f} s',
        file=sys.stderr,
        flush=True,
      )
    for _ in range(1 if _QUICK.value else _BLOCKS.value):
      for form, worker in workers.items():
        time.sleep(worker_process.PAUSE_S)
        block_s = 0.0 if _QUICK.value else _BLOCK_S.value
        for name, seconds in worker.order('time', block_s=block_s).items():
          found[form][name] += seconds
    for form, worker in workers.items():
      found[form] |= worker.order('peak')
  return found


def _machine() -> dict[str, Any]:
  """What a reader needs to judge the figures."""
  return {
    'device': worker_process.device_name(),
    'torch_threads': _THREADS.value,
    'remat': _REMAT.value,
    'high_remat': _HIGH_REMAT.value,
    'versions': worker_process.versions(),
  }


def _selected_cases() -> list[bahe_problem.Case]:
  """The cases that --cases names; exits at a name that is none."""
  by_name = {case.name: case for case in bahe_problem.CASES}
  for name in _CASES.value:
    if name not in by_name:
      sys.exit(f'--cases={name}: use some of {", ".join(by_name)}.')
  return [by_name[name] for name in _CASES.value or by_name]


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'got {argv[1:]}; bahe_bench takes flags only.')
  if _FORM.value:
    _work(_FORM.value)
    return
  cases = _selected_cases()
  has_torch = importlib.util.find_spec('torch') is not None
  if 'peer' not in _SKIP.value and not has_torch:
    sys.exit('bahe_bench: the peer needs PyTorch: pip install antjax[bench]')
  if not set(_FORMS) - {'peer', *_SKIP.value}:
    sys.exit('--skip: leave at least one of full_text, dedup, bahe.')
  load = os.getloadavg()[0]
  if load > 1 and not _QUICK.value:
    print(
      f'bahe_bench: load average {load:.1f}: other work shares these cores. Do'
      ' not quote these figures.',
      file=sys.stderr,
    )
  facts = _machine() | {'load_average_before': round(load, 2)}
  failed = False
  with tempfile.TemporaryDirectory() as folder:
    for case in cases:
      line = bahe_figures.line_of(case, _run(case, pathlib.Path(folder)))
      failed |= 'error' in line
      print(json.dumps(line | facts), flush=True)
  if failed:
    sys.exit(1)


if __name__ == '__main__':
  app.run(main)
