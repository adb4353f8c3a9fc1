# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One host of `benchmarks.gmeta_bench`: times steps; host 0 prints JSON.

gmeta_worker <JSON of {"cases": [fields of a Case ...], "rounds": n}>

All hosts run all cases in turns. A case on fewer hosts than there are is run by
several sets of hosts at once, each for itself, so that as many processes share
the machine's cores in every case.
"""

import dataclasses
import json
import sys
import time

import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from antjax.jobs import job as job_lib
from antjax.mesh.mesh import make_mesh
from antjax.plan import census
from benchmarks import gmeta_problem, virtual_network

_COMPILE_TIMEOUT_MS = 600_000


class _Run:
  """A compiled step with its state."""

  def __init__(self, case: gmeta_problem.Case):
    self.case = case
    per_host = jax.local_device_count()
    self._first = jax.process_index() // case.num_hosts * case.num_hosts
    hosts = range(self._first, self._first + case.num_hosts)
    devices = [d for d in jax.devices() if d.process_index in hosts]
    mesh = make_mesh(intra=per_host, devices=devices)
    self._trainer, self._state = gmeta_problem.make_trainer(case, mesh)
    place = (jax.process_index() - self._first) * per_host
    parts = [case.batch(place + i) for i in range(per_host)]
    self._batch = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    step = self._trainer.compiled_step()
    if case.variant == 'no_donation':
      step = jax.jit(step.__wrapped__)
    self._compiled = self._compile(step)
    found = census.collectives(self._compiled.as_text(), mesh.shape)
    self.intra_bytes, self.inter_bytes = census.bytes_per_step(found, 1)
    self.seconds: list[float] = []
    self.sent: list[int] = []
    self.losses: list[float] = []

  def _compile(self, step):
    """One host compiles, the others read its result from the cache."""
    lowered = step.lower(self._state, self._trainer.step_inputs(self._batch))
    is_first = jax.process_index() == self._first
    compiled = lowered.compile() if is_first else None
    wait = ocp.multihost.get_barrier_sync_fn()
    wait(key=f'{self.case} compiled', timeout_ms=_COMPILE_TIMEOUT_MS)
    compiled = compiled or lowered.compile()
    wait(key=f'{self.case} everywhere', timeout_ms=_COMPILE_TIMEOUT_MS)
    return compiled

  def __call__(self) -> None:
    """One step, timed from the ids in memory on."""
    sent, start = virtual_network.sent_bytes(), time.perf_counter()
    inputs = self._trainer.step_inputs(self._batch)
    self._state, metrics = self._compiled(self._state, inputs)
    jax.block_until_ready(self._state)
    self.seconds.append(time.perf_counter() - start)
    self.sent.append(virtual_network.sent_bytes() - sent)
    self.losses.append(float(metrics['loss']))


def main(text: str) -> None:
  job_lib.initialize_distributed()
  order = json.loads(text)
  runs = []
  for fields in order['cases']:
    fields['widths'] = tuple(fields['widths'])
    runs.append(_Run(gmeta_problem.Case(**fields)))
    if jax.process_index() == 0:
      print(f'compiled {runs[-1].case}', file=sys.stderr)
  for _ in range(order['rounds'] + 2):  # Two warm up.
    for run in runs:
      multihost_utils.sync_global_devices('step')
      run()
  results = []
  for run in runs:
    # The slowest host of each step.
    seconds = multihost_utils.process_allgather(np.array(run.seconds))
    sent = multihost_utils.process_allgather(np.array(run.sent))
    shape = (-1, len(run.seconds))
    results.append(
      dataclasses.asdict(run.case)
      | {
        'seconds': seconds.reshape(shape).max(axis=0)[2:].tolist(),
        'sent_bytes': sent.reshape(shape).mean(axis=0)[2:].tolist(),
        'inter_bytes': run.inter_bytes,
        'intra_bytes': run.intra_bytes,
        'losses': run.losses,
      }
    )
  if jax.process_index() == 0:
    print('\n' + json.dumps({'cases': results}), flush=True)


if __name__ == '__main__':
  main(sys.argv[1])
