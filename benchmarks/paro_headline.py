# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PaRO's largest case, predicted by the planner; nothing is measured.

  python -m benchmarks.paro_headline > results.jsonl

LLaMA-65B with a sixteenth of its parameters trained, as in "Rethinking Memory
and Communication Costs for Efficient Data Parallel Training of Large Language
Models": 4 hosts of 8 A100, 512 tokens x 4 sequences per micro-batch, 10
micro-batches. The paper does not say which parameters are trained: here 5 of 80
layers, with FLOPs as for adapters (no gradients of frozen weights). Prints a
JSON line for each cluster, number of hosts and code.
"""

import dataclasses
from typing import Any

import jax
import optax

from antjax.collectives.cost_model import Links
from antjax.jobs import plan_models
from antjax.plan import lm_cost, planner
from antjax.plan.step_time import Hiding, NOTHING
from benchmarks import harness

_PEERS = {
  'GGG': 'ZeRO-3, FSDP',
  'IGG': 'memory of ZeRO++ (hpZ)',
  'III': 'MiCS, HSDP',
  'NGG': 'ZeRO-2',
  'GNG': 'FSDP, no_sync',
}
_CODES = ('GGG', 'IGG', 'III', 'IIG', 'ING', 'NIG', 'NGG')
_TOKENS, _SEQUENCES, _MICRO_BATCHES = 512, 4, 10
_EFFICIENCY = 0.5  # Share of a device's peak.


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Hosts of 8 GPUs, with one-way Gbit/s, TFLOP/s and GB per device."""

  name: str
  intra_gbps: float  # Per device.
  uplink_gbps: float  # Per host.
  tflops: float
  hiding: Hiding

  def links(self) -> Links:
    rates = self.intra_gbps / 8 * 1e9, self.uplink_gbps / 8 * 1e9
    return Links(*rates, 5e-6, 20e-6)


_GPU = Hiding.of('gpu')
CLUSTERS = (
  # The paper measured 80 and 2000 Gbit/s between two GPUs. It does not say
  # whether all GPUs of a host share the 80.
  Cluster('A100, 80 Gbit/s a host', 2000, 80, 312, _GPU),
  Cluster('A100, 80 Gbit/s a host, no overlap', 2000, 80, 312, NOTHING),
  Cluster('A100, 80 Gbit/s a GPU', 2000, 640, 312, _GPU),
  Cluster('A100, 80 Gbit/s a GPU, no overlap', 2000, 640, 312, NOTHING),
  Cluster('H100, 400 Gbit/s a GPU', 3600, 3200, 989, _GPU),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags: none."""


def params() -> tuple[Any, Any]:
  """(shapes, config) of stacks of 75 frozen and 5 trained layers."""
  config = plan_models.PRESETS['llama-65b']
  shapes = dict(plan_models.load('llama-65b').params)
  layers = shapes.pop('layers')

  def some(num: int) -> Any:
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((num, *x.shape[1:]), x.dtype), layers
    )

  return shapes | {'layers': {'frozen': some(75), 'trained': some(5)}}, config


def main(config: Config) -> None:
  del config
  jax.config.update('jax_platforms', 'cpu')
  shapes, model = params()
  tokens = _TOKENS * _SEQUENCES
  flops = tokens * lm_cost.flops_per_token(model, _TOKENS)
  activations = lm_cost.activation_bytes(model, _SEQUENCES, _TOKENS, 'bfloat16')
  for cluster in CLUSTERS:
    first: dict[str, float] = {}
    for num_hosts in (4, 16, 128):
      plan = planner.plan(
        shapes,
        optax.adamw(1e-4),
        num_groups=num_hosts,
        group_size=8,
        links=cluster.links(),
        num_micro_batches=_MICRO_BATCHES,
        compute_s=flops / (_EFFICIENCY * cluster.tflops * 1e12),
        activation_bytes=activations,
        device_bytes=80 * 10**9,
        hiding=cluster.hiding,
        scanned=lambda name: name.startswith('layers'),
        trainable=lambda name: name.startswith('layers.trained'),
        compute_dtype='bfloat16',
      )
      zero3 = plan.row('GGG').step_s
      for code in _CODES:
        row = plan.row(code)
        first.setdefault(code, row.step_s)
        harness.emit(
          {
            'predicted': True,
            'cluster': cluster.name,
            'hosts': num_hosts,
            'code': code,
            'peer': _PEERS.get(code, ''),
            'state_gb': row.state_bytes / 1e9,
            'peak_gb': row.peak_bytes / 1e9,
            'fits_80_gb': row.fits,
            'intra_gb_per_step': row.intra_bytes_per_step / 1e9,
            'inter_gb_per_step': row.inter_bytes_per_step / 1e9,
            'comm_s': row.comm_s,
            'exposed_s': row.exposed_s,
            'compute_s': row.compute_s,
            'step_s': row.step_s,
            'speedup_vs_zero3': zero3 / row.step_s,
            'efficiency_from_4_hosts': first[code] / row.step_s,
          }
        )


if __name__ == '__main__':
  harness.run(main, Config())
