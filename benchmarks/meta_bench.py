# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meta-learning steps per second, compared with PyTorch.

  python -m benchmarks.meta_bench > results.jsonl

prints one JSON line per case and peer (see `benchmarks.meta_problem`,
`benchmarks.meta_peers` and `benchmarks.dlrm_peers`).

In a meta-learning case, both sides time a call with all inputs in place. It
gathers the embedding rows of the batch from its row buffer, adapts to each
task, and returns the mean query loss and its gradients with respect to the
dense parameters and the row buffer, all of them ready. Making the batch,
distinct ids and routing, and the optimizer are not timed. An example is one
support or query row. All is float32.

In the case with a table (`mlp-2-1-1e7`) and in DLRM cases, whole training steps
with optimizers are timed. A DLRM step starts with the ids in memory, and
finding the distinct ones, which only antjax needs, is included.

First both sides must agree, from the same weights, on the loss and on every
gradient, or on the new weights; otherwise an error line is printed and the exit
status is 1. After a warm-up at full size they then alternate in blocks, and
medians over all calls are compared.

PyTorch uses `--threads` threads per operator, or with `--peer_processes=2` two
processes of one thread each, which share the tasks and sum the gradients by
gloo. antjax splits the tasks over `--devices` virtual devices with one thread
each, bound to a core, and sums the gradients in one message.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
import tempfile
from typing import Annotated, Any

import numpy as np

from benchmarks import harness, meta_problem

_META_PEERS = ('loop', 'functional', 'compiled', 'tuned', 'bmm')
_DLRM_PEERS = ('tbe', 'torchrec')
_PEERS = (*_META_PEERS, *_DLRM_PEERS)
# Float32 sums of thousands of terms in another order, through two gradients.
_LOSS_RTOL = 1e-5
_GRAD_TOLERANCE = 2e-4  # Relative to the largest entry of a gradient.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(harness.Config):
  """Flags; cases are adapted-order-steps, such as mlp-2-1, or dlrm-<rows>."""

  blocks: int = 15
  block_s: float = 0.3
  peer: Annotated[tuple[str, ...], 'Peers of a case that run.'] = _PEERS
  peer_processes: Annotated[
    int,
    'Processes of a PyTorch peer, without a table. 2 or more: one thread each.',
  ] = 1
  devices: Annotated[int, 'CPU devices of antjax.'] = os.cpu_count() or 1


def _antjax_env(num_devices: int) -> dict[str, str]:
  """Environment with one thread per device, as devices share the cores."""
  flags = f'--xla_force_host_platform_device_count={num_devices}'
  if num_devices > 1:
    flags += ' --xla_cpu_multi_thread_eigen=false'
  return {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}


def _torch_side(config: Config) -> harness.Side:
  if config.peer_processes == 1:
    return harness.Side(is_peer=True, threads=config.threads)
  # OMP_PROC_BIND would bind all processes to one core; they bind themselves.
  env = {k: x for k, x in harness.PEER_ENV.items() if k != 'OMP_PROC_BIND'}
  return harness.Side(env, is_peer=True, threads=1)


def disagreement(
  ours: dict[str, np.ndarray], peer: dict[str, np.ndarray]
) -> str | None:
  """How loss or gradients differ by more than rounding, or None."""
  if not np.allclose(ours['loss'], peer['loss'], rtol=_LOSS_RTOL, atol=0):
    return f'loss {ours["loss"]} and {peer["loss"]}'
  if ours.keys() != peer.keys():
    return f'gradients of {sorted(ours)} and of {sorted(peer)}'
  for name, grad in peer.items():
    difference = float(np.max(np.abs(ours[name] - grad)))
    if not difference <= _GRAD_TOLERANCE * float(np.max(np.abs(grad))):
      return f'gradient of {name} differs by {difference}'
  return None


def _compare(
  config: Config,
  workers: Mapping[str, harness.Worker],
  case: meta_problem.Case | meta_problem.DLRMCase,
  peer: str,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Runs one case against one peer; returns its line."""
  sizes = meta_problem.SMOKE if config.quick else meta_problem.Sizes()
  is_dlrm = isinstance(case, meta_problem.DLRMCase)
  fields = dataclasses.asdict(case)
  problem = str(folder / f'{case.name if is_dlrm else "problem"}.npz')
  if not os.path.exists(problem):
    made = meta_problem.make_dlrm(case) if is_dlrm else meta_problem.make(sizes)
    harness.save(made, problem)
  options = {'case': fields, 'problem': problem, 'peer': peer}
  if not is_dlrm:
    options['num_support'] = sizes.num_support
  line: dict[str, Any] = {'case': fields, 'peer': peer}
  answers, first_s = [], []
  for name, worker in workers.items():
    theirs = 'dlrm_peers:make_dlrm' if is_dlrm else 'meta_peers:make'
    ours = 'meta_step:make_dlrm' if is_dlrm else 'meta_step:make'
    maker = ours if name == 'antjax' else theirs
    is_shared = maker == 'meta_peers:make' and not case.num_rows
    shared = {'processes': config.peer_processes} if is_shared else {}
    worker.make(f'benchmarks.{maker}', **options, **shared)
    path = str(folder / f'{name}.npz')
    first_s.append(worker.order('prepare', path=path))
    answers.append(harness.load(path))
  if wrong := disagreement(*answers):
    return line | {'error': f'antjax and {peer} disagree: {wrong}.'}
  found = harness.take_turns(workers, config.turns, {'run': 1})
  seconds = [np.asarray(timed['run']) for timed in found.values()]
  num_examples = case.batch_size if is_dlrm else sizes.num_examples
  (low, ours, high), (peer_low, theirs, peer_high) = (
    [round(x) for x in np.percentile(num_examples / s, [10, 50, 90])]
    for s in seconds
  )
  return line | {
    'examples_per_s': ours,
    'peer_examples_per_s': theirs,
    'ratio': ours / theirs,
    'p10_p90_examples_per_s': [low, high],
    'peer_p10_p90_examples_per_s': [peer_low, peer_high],
    'num_calls': [len(s) for s in seconds],
    'first_call_s': first_s,
  }


def _known(is_quick: bool) -> Sequence[Any]:
  if is_quick:
    others = (meta_problem.SMOKE_TABLE_CASE, *meta_problem.SMOKE_DLRM_CASES)
  else:
    others = (meta_problem.TABLE_CASE, *meta_problem.DLRM_CASES)
  return (*meta_problem.CASES, *others)


def main(config: Config) -> None:
  known = {case.name: case for case in _known(config.quick)}
  cases = harness.choose('cases', config.cases, known)
  harness.choose('peer', config.peer, dict.fromkeys(_PEERS))
  sizes = meta_problem.SMOKE if config.quick else meta_problem.Sizes()
  facts = harness.start(
    config,
    antjax_devices=config.devices,
    torch_processes=config.peer_processes,
    dtype='float32',
    sizes=dataclasses.asdict(sizes),
  )
  sides = {
    'antjax': harness.Side(_antjax_env(config.devices)),
    'torch': _torch_side(config),
  }
  with tempfile.TemporaryDirectory() as name, harness.workers(sides) as workers:
    for case in cases:
      is_dlrm = isinstance(case, meta_problem.DLRMCase)
      for peer in _DLRM_PEERS if is_dlrm else _META_PEERS:
        if peer in config.peer:
          folder = pathlib.Path(name)
          harness.emit(_compare(config, workers, case, peer, folder) | facts)


if __name__ == '__main__':
  harness.run(main, Config())
