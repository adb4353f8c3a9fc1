# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models that launch/plan.py and launch/compile_for_pod.py know by name.

They consist of shapes only; no parameters are created.
`--model=package.module:function` names your own function, without arguments,
that returns a `PlanModel`, or just a tree of arrays or ShapeDtypeStructs for
planning.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Annotated, Any, Literal

from flax import nnx
import jax
import jax.numpy as jnp

from antjax import config_values
from antjax.layers.functional import Functional
from antjax.lm import lora, transformer
from antjax.lm.transformer import Transformer
from antjax.plan import lm_cost
from antjax.train.sparse_tables import SparseTables


def _llama(
  num_layers: int, embed_dim: int, num_heads: int, mlp_dim: int, **more: Any
) -> transformer.Config:
  sizes: dict[str, Any] = {
    'vocab_size': 32_000,
    'num_kv_heads': num_heads,
    'tie_embeddings': False,
  }
  return transformer.Config(
    num_layers=num_layers,
    embed_dim=embed_dim,
    num_heads=num_heads,
    mlp_dim=mlp_dim,
    **sizes | more,
  )


_LLAMA_3 = {'vocab_size': 128_256, 'num_kv_heads': 8, 'rope_theta': 500_000.0}
_SMOLLM = {'vocab_size': 49_152, 'num_kv_heads': 3, 'rope_theta': 100_000.0}
# Published shapes; nothing else of those models.
PRESETS: dict[str, transformer.Config] = {
  'llama-7b': _llama(32, 4096, 32, 11_008),
  'llama-13b': _llama(40, 5120, 40, 13_824),
  'llama-65b': _llama(80, 8192, 64, 22_016),
  'llama-3-8b': _llama(32, 4096, 32, 14_336, **_LLAMA_3),
  'smollm2-135m': _llama(30, 576, 9, 1536, **_SMOLLM, tie_embeddings=True),
  'tiny': transformer.Config(vocab_size=4096, embed_dim=512, mlp_dim=1536),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
  """The step of a model that is planned or compiled, not run."""

  num_micro_batches: Annotated[int, 'Number of micro-batches per step.'] = 8
  sequences: Annotated[int, "Sequences of a device's micro-batch."] = 1
  seq_len: Annotated[int, 'Number of tokens per sequence.'] = 2048
  compute_dtype: Annotated[
    Literal['bfloat16', 'float16', 'float32'],
    'Dtype of the step. float32 needs no separate master parameters.',
  ] = 'bfloat16'
  regather: Annotated[
    bool, 'Gather layers again in the backward pass instead of keeping them.'
  ] = True
  min_shard_size: Annotated[
    int, 'Leaves with fewer elements are not sharded.'
  ] = 1024
  early_sums: Annotated[
    bool, 'Send gradient sums of layers during the last micro-batch.'
  ] = False
  late_params: Annotated[
    bool, 'Bring updated layers back during the next first micro-batch.'
  ] = False
  sums_dtype: Annotated[
    Literal['float32', 'bfloat16', 'int8'],
    'Dtype in which gradients are sent, under codes with I as second letter.',
  ] = 'float32'

  def __post_init__(self) -> None:
    names = ('num_micro_batches', 'sequences', 'seq_len')
    config_values.check_least(self, dict.fromkeys(names, 1))


@dataclasses.dataclass(frozen=True)
class PlanModel:
  """What planning and compiling ask of a model."""

  params: Any  # Tree of ShapeDtypeStructs (or arrays), the masters.
  scanned: Callable[[str], bool] | None = None  # Which leaves are stacks.
  trainable: Callable[[str], bool] | None = None  # None: all leaves.
  # Key -> params; to run it only.
  init_fn: Callable[[jax.Array], Any] | None = None
  # As for `Trainer`, and (rows, length) -> tree of ShapeDtypeStructs or arrays;
  # for compiling only.
  loss_fn: Callable[..., Any] | None = None
  batch_fn: Callable[[int, int], Any] | None = None
  # (rows, length) -> operations of both passes, recomputation counted. None:
  # only --compute_s tells the time.
  flops_fn: Callable[[int, int], float] | None = None
  # (rows, length, compute dtype) -> bytes at the peak. None: 0.
  activation_fn: Callable[[int, int, Any], int] | None = None
  # As for `Trainer`; for compiling only.
  tables: SparseTables | None = None
  mutable: Callable[[str], bool] | None = None
  constants: Any = None


def load(name: str, lora_rank: int = 0) -> PlanModel:
  """The model of a name: a preset, or 'package.module:function'.

  `lora_rank` is of adapters to train in each matrix of a preset's layers.

  Raises:
    ValueError: No such model, or a rank for a model of one's own.
  """
  if ':' in name:
    if lora_rank:
      raise ValueError(
        f'lora_rank={lora_rank}: {name} is a model of your own; let it return'
        ' a PlanModel with its adapters and trainable=.'
      )
    return _own(name)
  if name not in PRESETS:
    raise ValueError(
      f'model={name!r}: known are {", ".join(PRESETS)}, or'
      ' package.module:function for a model of your own.'
    )
  config = PRESETS[name]

  def make(rngs: nnx.Rngs) -> Transformer:
    model = Transformer(config, rngs=rngs)
    if lora_rank:
      targets = [t for t in lora.TARGETS if hasattr(model.layers, t)]
      lora.add(model, rank=lora_rank, targets=targets, rngs=rngs)
    return model

  lm = Functional(make)

  def flops(rows: int, length: int) -> float:
    # Forward, gradients of activations and those of weights cost the same;
    # layers are computed again, frozen weights have no gradient.
    passes = 3 + (config.remat == 'layer') - bool(lora_rank)
    return rows * length * lm_cost.flops_per_token(config, length) * passes / 3

  return PlanModel(
    jax.eval_shape(lm.init, jax.random.key(0)),
    init_fn=lm.init,
    scanned=lambda leaf: leaf.startswith('layers'),
    trainable=lora.matching(lora.PATTERN) if lora_rank else None,
    loss_fn=lambda params, batch, rng: lm.merge(params).loss(batch),
    batch_fn=lambda rows, length: {
      'tokens': jax.ShapeDtypeStruct((rows, length), jnp.int32)
    },
    flops_fn=flops,
    activation_fn=functools.partial(lm_cost.activation_bytes, config),
  )


def _own(name: str) -> PlanModel:
  needed = 'that takes nothing and returns a PlanModel or a tree of shapes'
  make = config_values.imported('model', name, needed)
  try:
    made = make()
    is_whole = isinstance(made, PlanModel)
    return made if is_whole else PlanModel(jax.eval_shape(lambda: made))
  except TypeError as error:
    raise ValueError(
      f'model={name}: {error}; needed is one {needed}.'
    ) from error
