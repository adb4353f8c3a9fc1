# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a host of `benchmarks.paro_bench` does, see `benchmarks.host_steps`."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from antjax.collectives import cost_model, measure
from antjax.lm import transformer
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer
from benchmarks import host_steps, paro_peers, paro_problem

# What a host computes without any message to another.
COMPUTE = 'compute'
_LINK_BYTES = (1 << 16, 1 << 19, 1 << 22)


def time_on_host(order: dict[str, Any]) -> None:
  """Times the links, then a step of each (code or peer, number of hosts)."""
  world = make_mesh(intra=jax.local_device_count())
  links = cost_model.fit(measure.samples(world, _LINK_BYTES, repeats=3))
  sizes = paro_problem.Sizes(**order['sizes'])
  steps = [
    _make_step(sizes, name, num_hosts, order['collectives'])
    for name, num_hosts in order['cases']
  ]
  cases = host_steps.take_turns(steps, order['rounds'], num_warm_ups=1)
  host_steps.report(cases=cases, links=dataclasses.asdict(links))


def _make_step(
  sizes: paro_problem.Sizes, name: str, num_hosts: int, collectives: str
) -> host_steps.Step:
  """A case's step, compiled."""
  mesh, places = host_steps.mesh_of(num_hosts)
  tokens = np.stack([sizes.tokens(place) for place in places])
  if name in paro_peers.PEERS:
    peer = paro_peers.Peer(name, sizes, mesh)
    step, state, inputs = peer.step, peer.init(), peer.batch(tokens)
  else:
    kwargs = {'collectives': collectives} if collectives else {}
    trainer = Trainer(
      functools.partial(paro_problem.loss_fn, sizes),
      paro_problem.optimizer(),
      mesh=mesh,
      paro='NNN' if name == COMPUTE else name,
      num_micro_batches=sizes.num_micro_batches,
      scanned=paro_problem.is_stack,
      **kwargs,
    )
    state = trainer.init(functools.partial(transformer.init, sizes.config()))
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
    num_micro_batches=sizes.num_micro_batches,
  )
