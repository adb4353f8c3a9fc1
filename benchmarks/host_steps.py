# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training steps timed on the hosts of a virtual cluster; host 0 reports.

`python -m benchmarks.host_steps MODULE:FUNCTION JSON` calls the function with
the content of the JSON on each host, for `cluster.Cluster.report`.

All hosts run all steps in turns. A step for fewer hosts is run by several
independent sets of hosts at once, so that the same number of processes share
the machine's cores in every case.
"""

from collections.abc import Callable, Sequence
import json
import sys
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
import numpy as np
import orbax.checkpoint as ocp

from antjax.jobs import distributed
from antjax.mesh.mesh import make_mesh
from antjax.plan import census
from benchmarks import harness, virtual_network

_COMPILE_TIMEOUT_MS = 600_000


def mesh_of(num_hosts: int) -> tuple[Mesh, range]:
  """(mesh of this host's set, places of its devices in it)."""
  per_host = jax.local_device_count()
  first = _first_host(num_hosts)
  hosts = range(first, first + num_hosts)
  devices = [d for d in jax.devices() if d.process_index in hosts]
  start = (jax.process_index() - first) * per_host
  places = range(start, start + per_host)
  return make_mesh(intra=per_host, devices=devices), places


def _first_host(num_hosts: int) -> int:
  return jax.process_index() // num_hosts * num_hosts


class Step:
  """A compiled step with its state, and seconds and losses of its calls."""

  def __init__(
    self,
    name: str,
    num_hosts: int,
    mesh: Mesh,
    step: Any,
    state: Any,
    make_inputs: Callable[[], Any],
    *,
    num_micro_batches: int = 1,
  ):
    """Compiles on one host of the set; the others read the cache.

    The name is unique among the steps with this number of hosts. `make_inputs`
    is called in each step and timed. `num_micro_batches` is the number of
    iterations of a loop around collectives.
    """
    self._state, self._make_inputs = state, make_inputs
    start = time.perf_counter()
    lowered = step.lower(state, make_inputs())
    is_first = jax.process_index() == _first_host(num_hosts)
    compiled = lowered.compile() if is_first else None
    # Compilation exceeds the time limit of a collective.
    wait = ocp.multihost.get_barrier_sync_fn()
    wait(key=f'{name} {num_hosts}', timeout_ms=_COMPILE_TIMEOUT_MS)
    self._compiled = compiled or lowered.compile()
    wait(key=f'{name} {num_hosts} on all', timeout_ms=_COMPILE_TIMEOUT_MS)
    found = census.collectives(self._compiled.as_text(), mesh.shape)
    runs = [(c, c.num_runs(num_micro_batches)) for c in found]
    self.facts = {
      'name': name,
      'num_hosts': num_hosts,
      'intra_bytes': sum(c.intra_bytes * n for c, n in runs),
      'inter_bytes': sum(c.inter_bytes * n for c, n in runs),
      'live_bytes': _live_bytes(state, mesh.local_devices[0]),
      'temp_bytes': self._compiled.memory_analysis().temp_size_in_bytes,
      'compile_s': time.perf_counter() - start,
    }
    self.seconds: list[float] = []
    self.losses: list[float] = []
    self._sent: list[int] = []
    _say(f'compiled {name}: {self.facts["compile_s"]:.1f} s')

  def __call__(self) -> None:
    """Runs and times one step."""
    sent, start = virtual_network.sent_bytes(), time.perf_counter()
    self._state, result = self._compiled(self._state, self._make_inputs())
    jax.block_until_ready(self._state)
    self.seconds.append(time.perf_counter() - start)
    self._sent.append(virtual_network.sent_bytes() - sent)
    loss = result['loss'] if isinstance(result, dict) else result
    self.losses.append(float(loss))

  def result(self, num_warm_ups: int) -> dict[str, Any]:
    """Results of all hosts; seconds are of the slowest host in each step."""
    seconds, sent = (
      multihost_utils.process_allgather(np.array(x)).reshape(-1, len(x))
      for x in (self.seconds, self._sent)
    )
    return self.facts | {
      'seconds': seconds.max(axis=0)[num_warm_ups:].tolist(),
      'sent_bytes': sent.mean(axis=0)[num_warm_ups:].tolist(),
      'losses': self.losses,
    }


def _live_bytes(state: Any, device: jax.Device) -> int:
  """Bytes of a state on a device."""
  return sum(
    shard.data.nbytes
    for x in jax.tree.leaves(state)
    for shard in x.addressable_shards
    if shard.device == device
  )


def take_turns(
  steps: Sequence[Step], rounds: int, num_warm_ups: int
) -> list[dict[str, Any]]:
  """Runs all in turns; returns the result of each."""
  for number in range(rounds + num_warm_ups):
    for step in steps:
      multihost_utils.sync_global_devices('step')
      step()
      _say(
        f'round {number} {step.facts["name"]} x{step.facts["num_hosts"]}:'
        f' {step.seconds[-1]:.2f} s, loss {step.losses[-1]:.5f}'
      )
  return [step.result(num_warm_ups) for step in steps]


def report(**found: Any) -> None:
  """Prints for `Cluster.report`, on host 0."""
  if jax.process_index() == 0:
    # On a separate line, after any output of libraries.
    print(f'\n{json.dumps(found)}', flush=True)


def _say(text: str) -> None:
  if jax.process_index() == 0:
    print(text, file=sys.stderr, flush=True)


if __name__ == '__main__':
  distributed.initialize()
  harness.named(sys.argv[1])(json.loads(sys.argv[2]))
