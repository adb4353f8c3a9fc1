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

import jax
import optax

from antjax.jobs import plan_models
from antjax.plan import lm_cost, planner
from benchmarks import harness, published_pairs

_PEERS = {
  'GGG': 'ZeRO-3, FSDP',
  'IGG': 'memory of ZeRO++ (hpZ)',
  'III': 'MiCS, HSDP',
  'NGG': 'ZeRO-2',
  'GNG': 'FSDP, no_sync',
}
_CODES = ('GGG', 'IGG', 'III', 'IIG', 'ING', 'NIG', 'NGG')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags: none."""


def main(config: Config) -> None:
  del config
  jax.config.update('jax_platforms', 'cpu')
  case = published_pairs.Case('llama-65b', 1 / 16)
  shapes, model = case.params(), plan_models.PRESETS[case.model]
  length, sequences = published_pairs.TOKENS, published_pairs.SEQUENCES
  flops = length * sequences * lm_cost.flops_per_token(model, length)
  activations = lm_cost.activation_bytes(model, sequences, length, 'bfloat16')
  for cluster in published_pairs.CLUSTERS:
    first: dict[str, float] = {}
    for num_hosts in (4, 16, 128):
      plan = planner.plan(
        shapes,
        optax.adamw(1e-4),
        num_groups=num_hosts,
        group_size=8,
        links=cluster.links(),
        num_micro_batches=published_pairs.MICRO_BATCHES,
        compute_s=flops / (published_pairs.EFFICIENCY * cluster.tflops * 1e12),
        activation_bytes=activations,
        device_bytes=80 * 10**9,
        hiding=cluster.hiding,
        scanned=lambda name: name.startswith('layers'),
        trainable=case.is_trained,
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
