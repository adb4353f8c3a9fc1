# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings that training jobs share."""

from collections.abc import Callable
import dataclasses
from typing import Annotated, Any, Literal

from absl import logging
from flax import nnx
import jax
import numpy as np

from antjax import paths
from antjax.ctr import tuning
from antjax.ctr.tuning import Tuning
from antjax.jobs.job import JobConfig
from antjax.layers import functional
from antjax.layers.functional import Functional
from antjax.lm import hub, lora, positions, pretrained
from antjax.lm.transformer import Transformer
from antjax.mesh.paro import PaRO

_FEW_STEPS = 100  # Fewer in a run are more likely an oversight than a wish.


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
  """What a run reads of its settings, see `Run`."""

  checkpoint_every: Annotated[int, 'Number of steps between checkpoints.'] = 500
  checkpoint_every_s: Annotated[
    float,
    'Seconds between checkpoints, in addition to those by steps. 0: none, or'
    ' under agents chosen by the failure rate and the time to save.',
  ] = 0.0
  steps_per_call: Annotated[
    int,
    'Number of steps that run as one program, between saves and validations.'
    ' More are faster if a step takes only a few milliseconds.',
  ] = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(JobConfig, FitConfig):
  """Settings of every training job; a job's own Config extends it."""

  paro: Annotated[
    str,
    'PaRO code: sharding levels of parameters, gradients and optimizer state.'
    ' auto: the code that the planner predicts to be fastest.',
  ] = 'IIG'
  links: Annotated[
    str,
    'For --paro=auto and --collectives=auto: file of link speeds written by'
    ' launch/plan.py --measure. Empty: measure them at the start.',
    paths.URL,
  ] = ''
  collectives: Annotated[
    Literal['xla', 'ring', 'hierarchical', 'ho_ring', 'auto'],
    'Algorithm of collectives over all devices. auto: the fastest for each'
    ' message according to --links.',
  ] = 'xla'
  sums_dtype: Annotated[
    Literal['float32', 'bfloat16', 'int8'],
    'Dtype in which gradients are sent to be summed, under codes with I as'
    ' second letter. int8 keeps what rounding left out, a gradient per device.',
  ] = 'float32'
  min_shard_size: Annotated[
    int, 'Dense leaves with fewer elements are not sharded.'
  ] = 1024
  num_steps: Annotated[int, 'Number of optimizer steps.'] = 600
  num_micro_batches: Annotated[
    int,
    'Number of micro-batches into which a device divides its share of a step.'
    ' Under agents, slow workers run fewer and fast workers more.',
  ] = 1
  shard_size: Annotated[int, 'Number of examples in a DataShard.'] = 256
  seed: Annotated[int, 'Seed of parameters, shuffles and samples.'] = 0

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.paro != 'auto':
      PaRO.from_code(self.paro)
    names = 'num_micro_batches shard_size checkpoint_every steps_per_call'
    self.check_least(dict.fromkeys(names.split(), 1))

  def check_inputs(self) -> None:
    paths.check_there(self.links, 'links')
    super().check_inputs()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExamplesConfig(TrainingConfig):
  """Settings of jobs that train on examples, validate and stop early."""

  num_epochs: Annotated[float, 'Passes over the training examples.'] = 1.0
  num_steps: Annotated[int, 'Optimizer steps. 0: by num_epochs.'] = 0
  batch_size: Annotated[int, 'Examples per step, over all devices.'] = 256
  compute_dtype: Annotated[
    Literal['float32', 'bfloat16'],
    'Dtype of activations and of the compute copy of the parameters.',
  ] = 'float32'
  evaluate_every: Annotated[
    int, 'Number of steps between validations. 0: only at the end.'
  ] = 0
  patience: Annotated[
    int,
    'Number of validations without improvement after which training stops and'
    ' the best checkpoint is used. 0: train all steps and use the last.',
  ] = 0
  best_metric: Annotated[str, 'Metric that selects the best checkpoint.']

  def __post_init__(self) -> None:
    super().__post_init__()
    self.check_least(
      {'batch_size': 1, 'num_steps': 0, 'patience': 0, 'evaluate_every': 0}
    )
    if not self.num_epochs > 0:
      raise ValueError(f'num_epochs={self.num_epochs}: must be positive.')
    if self.patience and not self.evaluate_every:
      raise ValueError(
        f'patience={self.patience} counts validations: set evaluate_every.'
      )

  def steps_for(self, num_examples: int) -> int:
    """Optimizer steps, given the training examples."""
    if self.num_steps:
      return self.num_steps
    steps = max(1, round(self.num_epochs * num_examples / self.batch_size))
    if steps < _FEW_STEPS:
      logging.warning(
        'num_epochs=%g over %d examples in batches of %d: %d optimizer steps,'
        ' too few for most models. A smaller --batch_size gives more, and so'
        ' does a larger --num_epochs, which --patience and --evaluate_every'
        ' end in time.',
        self.num_epochs,
        num_examples,
        self.batch_size,
        steps,
      )
    return steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayersConfig(ExamplesConfig):
  """Settings of jobs that train a language model's stack of layers."""

  overlap: Annotated[
    Literal['auto', 'yes', 'no'],
    'While a layer computes, gather the next layer of levels I and G and'
    ' reduce the gradient of the previous one. auto: yes, except on CPUs.',
  ] = 'auto'
  early_sums: Annotated[
    bool,
    'Send the gradients of layers to other groups one by one during the last'
    ' micro-batch (codes IIG, NIG and GIG, with overlap and remat).',
  ] = False
  late_params: Annotated[
    bool,
    'Bring updated layers back from other groups one by one during the first'
    ' micro-batch of the next step (codes that end with G and do not begin with'
    ' it, with overlap and remat).',
  ] = False

  def __post_init__(self) -> None:
    super().__post_init__()
    for name in ('early_sums', 'late_params'):
      if getattr(self, name) and self.overlap == 'no':
        raise ValueError(f'{name} needs overlap: leave out --overlap=no.')

  def layer_options(self) -> dict[str, Any]:
    """Options of `Trainer` for a stack of layers."""
    overlap = {'auto': None, 'yes': True, 'no': False}[self.overlap]
    return {
      'overlap': overlap,
      'early_sums': self.early_sums,
      'late_params': self.late_params,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageConfig(LayersConfig):
  """Settings of jobs that train a language model inside a recommender."""

  model: Annotated[
    str,
    'Language model: Hugging Face folder or GGUF file, or hf://org/name on the'
    ' Hugging Face Hub.',
    paths.MODEL_URL,
  ] = 'data/minilm'
  pretrained: Annotated[
    str, 'org/name on the Hugging Face Hub; short for --model=hf://org/name.'
  ] = ''
  tuning: Annotated[
    Tuning, 'What to train of its unfrozen layers: all, adapters, or nothing.'
  ] = 'full'
  lora_rank: Annotated[int, 'Rank of the adapters.'] = 8
  lora_alpha: Annotated[float, 'Adapters are scaled by alpha / rank.'] = 16.0
  lora_rank_stabilized: Annotated[
    bool, 'Scale adapters by alpha / sqrt(rank) instead (rsLoRA).'
  ] = False
  lora_dora: Annotated[
    bool, 'Use DoRA, which also trains the norms of matrix columns.'
  ] = False
  lora_targets: Annotated[tuple[str, ...], 'Matrices with adapters.'] = (
    'query',
    'value',
  )
  adapter: Annotated[
    str,
    'With tuning=lora: PEFT adapters to start from, a folder or hf://org/name,'
    ' instead of the lora settings above. Empty: new adapters.',
    paths.MODEL_URL,
  ] = ''
  quantize: Annotated[
    Literal['none', 'int8', 'int4'],
    'Storage format of the matrices of frozen layers; see docs/pretrained.md.',
  ] = 'none'
  remat: Annotated[
    Literal['none', 'layer', 'dots'],
    'What the backward pass of the layers recomputes.',
  ] = 'none'
  check_memory: Annotated[
    bool, 'Compile the step before training to compare its memory.'
  ] = True

  def __post_init__(self) -> None:
    super().__post_init__()
    self.check_least({'lora_rank': 1})
    if self.adapter and self.tuning != 'lora':
      raise ValueError(
        f'adapter={self.adapter}: with tuning={self.tuning} there are no'
        ' adapters; use tuning=lora.'
      )
    if self.pretrained:  # From here on there is one name of it.
      object.__setattr__(self, 'model', f'{hub.SCHEME}{self.pretrained}')
      object.__setattr__(self, 'pretrained', '')

  def check_inputs(self) -> None:
    paths.check_there(self.adapter, 'adapter')
    super().check_inputs()

  def tuned(
    self, model: nnx.Module, rngs: nnx.Rngs, how: Tuning
  ) -> tuple[Callable[[Any], Any], Any]:
    """Quantizes a model or gives it adapters, as the settings say.

    Returns:
      (function from parameters to the model with them, its parameters).
    """
    if self.quantize != 'none':
      tuning.quantize(model, self.quantize, how)
    if how == 'lora':
      tuning.add_lora(
        model,
        rank=self.lora_rank,
        targets=self.lora_targets,
        scale=lora.scale_of(
          self.lora_alpha, self.lora_rank, self.lora_rank_stabilized
        ),
        dora=self.lora_dora,
        adapter=self.adapter,
        rngs=rngs,
      )
    merge, params = functional.split(model)
    return merge, jax.tree.map(np.asarray, params)

  def language_model(
    self, max_tokens: int = 0, random_seed: int | None = None
  ) -> Transformer:
    """The language model, on the host.

    With places for `max_tokens`, if it learns them; a seed makes the weights
    random, so that only the shape is the folder's.
    """
    host = jax.local_devices(backend='cpu')[0]
    lm_config, params = pretrained.load_pretrained(
      self.model, shardings=jax.sharding.SingleDeviceSharding(host)
    )
    if random_seed is not None:
      key = jax.random.key(random_seed)
      with jax.default_device(host):
        params = Functional(Transformer, lm_config).init(key)
    lm_config = dataclasses.replace(lm_config, remat=self.remat)
    if max_tokens:
      lm_config, params = positions.extend_learned(
        lm_config, params, max_tokens
      )
    return Transformer.of(lm_config, params)
