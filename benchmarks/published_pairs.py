# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed-ups that others measured, beside what the planner's model predicts.

  python -m benchmarks.published_pairs > results.jsonl

prints a JSON line for each published pair of ways to train the same model on
the same devices; nothing is run. Rates of links are published ones.

  paro     "Rethinking Memory and Communication Costs for Efficient Data
           Parallel Training of Large Language Models", section 4: 4 hosts of
           8 A100, 512 tokens x 4 sequences per micro-batch, 10 micro-batches.
           It states ratios alone. Half of the peak is our guess; all is sent
           in 16 bits.
  maxtext  Pull request 5060 of MaxText: qwen3-0.6b in fp32 on 8 devices of
           TPU7x, 8 micro-batches. Seconds of computation are its own: those of
           its kernels without collectives.
"""

from collections.abc import Iterator
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from antjax.collectives import cost_model
from antjax.collectives.cost_model import Links
from antjax.jobs import plan_models
from antjax.layers.functional import Functional
from antjax.lm import Config as LMConfig
from antjax.lm import Transformer
from antjax.mesh.mesh import INTER, INTRA
from antjax.mesh.paro import PaRO
from antjax.plan import lm_cost, step_time
from antjax.plan.moves import moves
from antjax.plan.pod_target import Target
from antjax.plan.step_time import Hiding, NOTHING
from antjax.train.state import Layout
from benchmarks import harness

TOKENS, SEQUENCES, MICRO_BATCHES = 512, 4, 10  # The paper's.
EFFICIENCY = 0.5  # Share of a device's peak.
_QWEN = LMConfig(
  vocab_size=151_936,
  num_layers=28,
  embed_dim=1024,
  num_heads=16,
  num_kv_heads=8,
  head_dim=128,
  mlp_dim=3072,
  tie_embeddings=True,
)
# Milliseconds of MaxText's kernels without collectives: a micro-batch's and the
# update's, whole and of parameters that are split over the devices.
_MICRO_BATCH_MS, _UPDATE_MS, _SPLIT_UPDATE_MS = 25.03, 5.95, 1.69


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags: none."""


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


@dataclasses.dataclass(frozen=True)
class Case:
  """A model of the paper, and which part of it is trained."""

  model: str  # Preset.
  share: float  # Share of the parameters that is trained.
  flops: float = 6  # Operations per weight and token; 8: layers twice.
  # (code, slower one, published speed-up).
  pairs: tuple[tuple[str, str, float], ...] = ()

  def params(self) -> Any:
    """Shapes, with the layers in a frozen and a trained stack."""
    shapes = dict(plan_models.load(self.model).params)
    layers = shapes.pop('layers')
    num_layers = plan_models.PRESETS[self.model].num_layers
    num = round(self.share * num_layers)

    def some(count: int) -> Any:
      return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), layers
      )

    if num == num_layers:
      return shapes | {'layers': {'trained': layers}}
    trained = some(num)
    if not num:  # Adapters.
      size = sum(x.size for x in jax.tree.leaves((shapes, layers)))
      each = round(self.share * size / num_layers)
      trained = jax.ShapeDtypeStruct((num_layers, each), jnp.float32)
    return shapes | {
      'layers': {'frozen': some(num_layers - num), 'trained': trained}
    }

  def is_trained(self, name: str) -> bool:
    return self.share == 1 or name.startswith('layers.trained')


PAPER = (
  Case('llama-7b', 1, 6, (('IIG', 'GGG', 2.28), ('NII', 'NGG', 1.67))),
  Case('llama-65b', 1, 8, (('IIG', 'GGG', 1.86),)),
  Case('llama-7b', 1 / 16, 4.125, (('NIG', 'NGG', 1.15), ('NII', 'NGG', 1.21))),
  Case(
    'llama-65b', 1 / 16, 6.125, (('III', 'GGG', 3.64), ('IIG', 'GGG', 3.66))
  ),
  Case('llama-65b', 0.003, 6, (('ING', 'GGG', 1.44),)),
)


def paper_step_s(case: Case, code: str, cluster: Cluster) -> float:
  """Predicted seconds of a step of the paper's."""
  config = plan_models.PRESETS[case.model]
  flops = TOKENS * SEQUENCES * lm_cost.flops_per_token(config, TOKENS)
  flops *= case.flops / 6 * MICRO_BATCHES
  return step_s(
    case.params(),
    code,
    cost_model.Cluster(cluster.links(), 4, 8),
    num_micro_batches=MICRO_BATCHES,
    compute_s=flops / (EFFICIENCY * cluster.tflops * 1e12),
    hiding=cluster.hiding,
    is_16_bit=True,
    regather=True,
    trainable=case.is_trained,
    scanned=lambda name: name.startswith('layers'),
  )


def step_s(
  params: Any,
  code: str,
  cluster: cost_model.Cluster,
  *,
  num_micro_batches: int,
  compute_s: float,
  hiding: Hiding,
  is_16_bit: bool,
  regather: bool,
  **options: Any,
) -> float:
  """Predicted seconds of a step, given those of its computation."""
  paro = PaRO.from_code(code)
  sizes = cluster.num_groups, cluster.group_size
  mesh: Any = jax.sharding.AbstractMesh(sizes, (INTER, INTRA))
  layout = Layout.of(params, mesh, paro, optax.adamw(1e-4), **options)
  found = moves(layout, regather=regather)
  if is_16_bit:
    half = np.dtype(jnp.bfloat16)
    found = [dataclasses.replace(move, dtype=half) for move in found]
  return step_time.predict(
    found,
    cluster,
    num_micro_batches=num_micro_batches,
    compute_s=compute_s,
    hiding=hiding.under(paro),
  ).step_s


def maxtext_ms(code: str, num_sums: int, num_micro_batches: int = 8) -> float:
  """Predicted milliseconds of MaxText's step; nothing overlaps.

  Args:
    code: PaRO code, on a single group of 8.
    num_sums: Exchanges of gradients in a step.
    num_micro_batches: Number of micro-batches.
  """
  links = Target.of('tpu7x:2x2x1', 1).links(8)
  own = step_s(
    jax.eval_shape(Functional(Transformer, _QWEN).init, jax.random.key(0)),
    code,
    cost_model.Cluster(links, 1, 8),
    num_micro_batches=num_sums,
    compute_s=0,
    hiding=NOTHING,
    is_16_bit=False,
    regather=False,  # Nor is there a scan over layers.
  )
  once = num_sums if code[1] == 'N' else 1
  update = _SPLIT_UPDATE_MS if code == 'III' else _UPDATE_MS
  return 1e3 * own * once + num_micro_batches * _MICRO_BATCH_MS + update


def paper_lines() -> Iterator[dict[str, Any]]:
  """A line for each of the paper's pairs and reading of its cluster."""
  for cluster in CLUSTERS[:4]:
    for case in PAPER:
      for code, other, published in case.pairs:
        slow, fast = (paper_step_s(case, c, cluster) for c in (other, code))
        what = f'{case.model}, {case.share:.4g} trained: {code} over {other}'
        yield _line('paro', cluster.name, what, slow / fast, published)


def maxtext_lines() -> Iterator[dict[str, Any]]:
  """A line for each pair of MaxText's."""
  auto = maxtext_ms('NNN', 8)
  for name, code, num, ms, over in (
    ('summed once a step', 'NNN', 1, 226.19, (auto, 354.19)),
    ('ZeRO-1, summed once', 'NNI', 1, 229.51, (auto, 354.19)),
    ('FSDP', 'III', 8, 328.01, (auto, 348.66)),
  ):
    predicted = maxtext_ms(code, num)
    what = f'qwen3-0.6b: {name} over data parallel, summed 8 times'
    line = _line(
      'maxtext', '8 x TPU7x', what, over[0] / predicted, over[1] / ms
    )
    times = {'predicted_ms': predicted, 'published_ms': ms}
    more = {'predicted_slow_ms': over[0], 'published_slow_ms': over[1]}
    yield line | times | more


def _line(
  source: str, cluster: str, what: str, predicted: float, published: float
) -> dict[str, Any]:
  return {
    'predicted': True,
    'source': source,
    'cluster': cluster,
    'pair': what,
    'predicted_ratio': predicted,
    'published_ratio': published,
    'error': predicted / published - 1,
  }


def main(config: Config) -> None:
  del config
  jax.config.update('jax_platforms', 'cpu')
  for line in (*paper_lines(), *maxtext_lines()):
    harness.emit(line)


if __name__ == '__main__':
  harness.run(main, Config())
