# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One host of `benchmarks.paro_bench`: times steps; host 0 prints JSON.

Takes one argument, the JSON of a `Job`; see `benchmarks.host_steps`.
"""

from collections.abc import Sequence
import dataclasses
import functools
import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.jobs import job as job_lib
from antjax.lm import transformer
from antjax.mesh.mesh import INTER, INTRA, make_mesh
from antjax.train.trainer import Trainer
from benchmarks import host_steps, paro_peers, paro_problem

# What a host computes without any message to another.
COMPUTE = 'compute'


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


def _make_step(job: Job, name: str, num_hosts: int) -> host_steps.Step:
  """A case's step, compiled."""
  mesh, places = host_steps.mesh_of(num_hosts)
  tokens = np.stack([job.sizes.tokens(place) for place in places])
  if name in paro_peers.PEERS:
    peer = paro_peers.Peer(name, job.sizes, mesh)
    step, state, inputs = peer.step, peer.init(), peer.batch(tokens)
  else:
    kwargs = {'collectives': job.collectives} if job.collectives else {}
    trainer = Trainer(
      functools.partial(paro_problem.loss_fn, job.sizes),
      paro_problem.optimizer(),
      mesh=mesh,
      paro='NNN' if name == COMPUTE else name,
      num_micro_batches=job.sizes.num_micro_batches,
      scanned=paro_problem.is_stack,
      **kwargs,
    )
    state = trainer.init(
      functools.partial(transformer.init, job.sizes.config())
    )
    rows = tokens.reshape(-1, tokens.shape[-1])
    inputs = trainer.step_inputs({'tokens': rows})
    step = trainer.compiled_step()
  return host_steps.Step(
    name,
    num_hosts,
    mesh,
    step,
    state,
    lambda: inputs,
    num_micro_batches=job.sizes.num_micro_batches,
  )


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
  world = make_mesh(intra=jax.local_device_count())
  samples = _link_samples(world, job.link_bytes)
  steps = [_make_step(job, name, num) for name, num in job.cases]
  cases = host_steps.take_turns(steps, job.rounds, num_warm_ups=1)
  host_steps.report(cases=cases, samples=samples)


if __name__ == '__main__':
  main(Job.from_json(sys.argv[1]))
