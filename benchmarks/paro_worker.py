# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One host of `benchmarks.paro_bench`: times steps; host 0 prints JSON.

Takes one argument, the JSON of a `Job`. All hosts run all cases, in rounds. A
case on fewer hosts than there are is run by several sets of hosts at once, each
for itself, so that the machine's cores are shared by as many processes in every
case.
"""

from collections.abc import Sequence
import dataclasses
import functools
import json
import sys
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np
import orbax.checkpoint as ocp

from antjax.jobs import job as job_lib
from antjax.lm import transformer
from antjax.mesh.mesh import INTER, INTRA, make_mesh
from antjax.plan import census
from antjax.train.trainer import Trainer
from benchmarks import paro_peers, paro_problem, virtual_network

# What a host computes without any message to another.
COMPUTE = 'compute'
_COMPILE_TIMEOUT_MS = 600_000


@dataclasses.dataclass(frozen=True)
class Job:
  """What to run.

  Attributes:
    cases: (code or peer, number of hosts) each.
    sizes: Sizes of the problem.
    rounds: Timed steps of each case.
    collectives: As for `Trainer`; '' leaves it out.
    link_bytes: Sizes of the arrays that the links are timed with.
  """

  cases: list[tuple[str, int]]
  sizes: paro_problem.Sizes
  rounds: int
  collectives: str
  link_bytes: tuple[int, ...]

  def to_json(self) -> str:
    return json.dumps(dataclasses.asdict(self))

  @classmethod
  def from_json(cls, text: str) -> 'Job':
    fields = json.loads(text)
    fields['sizes'] = paro_problem.Sizes(**fields['sizes'])
    fields['cases'] = [tuple(case) for case in fields['cases']]
    return cls(**fields)


class _Case:
  """A compiled step with its state."""

  def __init__(self, job: Job, name: str, num_hosts: int):
    self.name, self.num_hosts = name, num_hosts
    per_host = jax.local_device_count()
    first = jax.process_index() // num_hosts * num_hosts
    devices = [
      d for d in jax.devices() if first <= d.process_index < first + num_hosts
    ]
    self.mesh = make_mesh(intra=per_host, devices=devices)
    place = (jax.process_index() - first) * per_host
    tokens = np.stack([job.sizes.tokens(place + i) for i in range(per_host)])
    start = time.perf_counter()
    if name in paro_peers.PEERS:
      peer = paro_peers.Peer(name, job.sizes, self.mesh)
      self._state, inputs = peer.init(), peer.batch(tokens)
      step = peer.step
    else:
      kwargs = {'collectives': job.collectives} if job.collectives else {}
      trainer = Trainer(
        functools.partial(paro_problem.loss_fn, job.sizes),
        paro_problem.optimizer(),
        mesh=self.mesh,
        paro='NNN' if name == COMPUTE else name,
        num_micro_batches=job.sizes.num_micro_batches,
        scanned=paro_problem.is_stack,
        **kwargs,
      )
      self._state = trainer.init(
        functools.partial(transformer.init, job.sizes.config())
      )
      rows = tokens.reshape(-1, tokens.shape[-1])
      inputs = trainer.step_inputs({'tokens': rows})
      step = trainer.compiled_step()
    lowered = step.lower(self._state, inputs)
    # One host compiles, the others read its result from the cache.
    if jax.process_index() == first:
      self._compiled = lowered.compile()
    _wait(f'{name} {num_hosts}')
    if jax.process_index() != first:
      self._compiled = lowered.compile()
    _wait(f'{name} {num_hosts} on all')
    self._inputs = inputs
    self.losses: list[float] = []
    self.seconds: list[float] = []
    self.sent: list[int] = []
    found = census.collectives(self._compiled.as_text(), self.mesh.shape)
    intra, inter = census.bytes_per_step(found, job.sizes.num_micro_batches)
    self.facts = {
      'name': name,
      'num_hosts': num_hosts,
      'intra_bytes': intra,
      'inter_bytes': inter,
      'live_bytes': self._live_bytes(),
      'temp_bytes': self._compiled.memory_analysis().temp_size_in_bytes,
      'compile_s': time.perf_counter() - start,
    }

  def _live_bytes(self) -> int:
    """Bytes of the state on this host's first device."""
    device = self.mesh.local_devices[0]
    return sum(
      shard.data.nbytes
      for x in jax.tree.leaves(self._state)
      for shard in x.addressable_shards
      if shard.device == device
    )

  def run(self) -> None:
    """One step, timed."""
    sent, start = virtual_network.sent_bytes(), time.perf_counter()
    self._state, result = self._compiled(self._state, self._inputs)
    jax.block_until_ready(self._state)
    self.seconds.append(time.perf_counter() - start)
    self.sent.append(virtual_network.sent_bytes() - sent)
    loss = result['loss'] if isinstance(result, dict) else result
    self.losses.append(float(loss))


def _wait(what: str) -> None:
  """Waits for all hosts, longer than a collective's time limit allows."""
  wait = ocp.multihost.get_barrier_sync_fn()
  wait(key=what, timeout_ms=_COMPILE_TIMEOUT_MS)


def _barrier(mesh: Mesh) -> Any:
  """A function that returns once all hosts have called it."""
  add = jax.jit(
    jax.shard_map(
      lambda x: jax.lax.psum(x, (INTER, INTRA)),
      mesh=mesh,
      in_specs=P(),
      out_specs=P(),
    )
  )
  return lambda: jax.block_until_ready(add(np.float32(1)))


def _link_samples(mesh: Mesh, sizes: Sequence[int]) -> list[dict[str, Any]]:
  """Times all-gathers and reduce-scatters along each axis.

  Returns:
    Fields of `cost_model.Sample`, for every size, operation and axis.
  """
  samples = []
  whole = P((INTER, INTRA))
  for axis in (INTRA, INTER):
    if mesh.shape[axis] == 1:
      continue
    for op in ('all_gather', 'reduce_scatter'):
      for num_bytes in sizes:
        num = num_bytes // 4
        if op == 'all_gather':
          num //= mesh.shape[axis]

        def move(x: jax.Array, op=op, axis=axis) -> jax.Array:
          if op == 'all_gather':
            y = jax.lax.all_gather(x, axis, tiled=True)
          else:
            y = jax.lax.psum_scatter(x, axis, tiled=True)
          return y[:1]

        fn = jax.jit(
          jax.shard_map(move, mesh=mesh, in_specs=whole, out_specs=whole)
        )
        sharding = jax.sharding.NamedSharding(mesh, whole)
        x = jax.make_array_from_callback(
          (num * mesh.size,), sharding, lambda _, n=num: jnp.zeros(n)
        )
        times = []
        for _ in range(4):
          start = time.perf_counter()
          jax.block_until_ready(fn(x))
          times.append(time.perf_counter() - start)
        samples.append(
          {
            'op': op,
            'axis': axis,
            'num_bytes': num_bytes,
            'num_groups': mesh.shape[INTER],
            'group_size': mesh.shape[INTRA],
            'seconds': float(np.median(times[1:])),
          }
        )
  return samples


def main(job: Job) -> None:
  job_lib.initialize_distributed()
  is_main = jax.process_index() == 0
  world = make_mesh(intra=jax.local_device_count())
  barrier = _barrier(world)
  samples = _link_samples(world, job.link_bytes)
  cases = []
  for name, num_hosts in job.cases:
    cases.append(_Case(job, name, num_hosts))
    if is_main:
      facts = cases[-1].facts
      print(f'compiled {name}: {facts["compile_s"]:.1f} s', file=sys.stderr)
  for number in range(job.rounds + 1):  # The first one warms up.
    for case in cases:
      barrier()
      case.run()
      if is_main:
        print(
          f'round {number} {case.name} x{case.num_hosts}:'
          f' {case.seconds[-1]:.2f} s, loss {case.losses[-1]:.5f}',
          file=sys.stderr,
        )
  results = []
  for case in cases:
    # The slowest host of each step.
    seconds = multihost_utils.process_allgather(np.array(case.seconds))
    sent = multihost_utils.process_allgather(np.array(case.sent))
    results.append(
      case.facts
      | {
        'seconds': seconds.max(axis=0)[1:].tolist(),
        'sent_bytes': sent.mean(axis=0)[1:].tolist(),
        'losses': case.losses,
      }
    )
  if is_main:
    # A line of its own, whatever libraries have written.
    report = json.dumps({'cases': results, 'samples': samples})
    print(f'\n{report}', flush=True)


if __name__ == '__main__':
  main(Job.from_json(sys.argv[1]))
