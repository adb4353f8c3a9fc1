# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings that training jobs have in common, with the same words."""

import dataclasses
from typing import Annotated, Any, Literal

from absl import logging
import jax

from antjax import paths
from antjax.ctr.tuning import Tuning
from antjax.jobs.job import JobConfig
from antjax.layers.functional import Functional
from antjax.lm import hub, lora, positions, pretrained
from antjax.lm.transformer import Transformer
from antjax.mesh.paro import PaRO

_FEW_STEPS = 100  # Fewer in a run are more likely an oversight than a wish.


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(JobConfig):
  """Settings of every training job; a job's own Config extends it."""

  paro: Annotated[
    str,
    'PaRO code: levels of parameters, gradients, optimizer state; auto takes'
    ' the one that the planner finds best.',
  ] = 'IIG'
  links: Annotated[
    str,
    'For --paro=auto and --collectives=auto: link speeds that launch/plan.py'
    ' --measure wrote. Empty: measured at the start.',
    paths.URL,
  ] = ''
  collectives: Annotated[
    Literal['xla', 'ring', 'hierarchical', 'ho_ring', 'auto'],
    'How arrays move over all devices at once; auto takes the fastest for each'
    ' message, by the speeds of --links.',
  ] = 'xla'
  min_shard_size: Annotated[
    int, 'Dense leaves with fewer elements stay whole on every device.'
  ] = 1024
  num_steps: Annotated[int, 'Optimizer steps.'] = 600
  num_micro_batches: Annotated[
    int,
    "Parts that a device's share of a step is worked off in. Under agents a"
    ' slow worker does fewer of them and a fast one more.',
  ] = 1
  shard_size: Annotated[int, 'Examples in a DataShard.'] = 256
  checkpoint_every: Annotated[int, 'Steps between checkpoints.'] = 500
  checkpoint_every_s: Annotated[
    float,
    'Seconds between checkpoints, beside those by steps. 0: under agents by how'
    ' often workers have failed and how long a save takes, otherwise none.',
  ] = 0.0
  steps_per_call: Annotated[
    int,
    'Steps that one call of the devices does, between saves and validations:'
    ' faster where a step takes less than some milliseconds.',
  ] = 1
  seed: Annotated[int, 'Seed of parameters, shuffles and samples.'] = 0

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.paro != 'auto':
      PaRO.from_code(self.paro)
    names = 'num_micro_batches shard_size checkpoint_every steps_per_call'
    self.check_least(dict.fromkeys(names.split(), 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExamplesConfig(TrainingConfig):
  """Settings of jobs that train on examples, validate and stop early."""

  num_epochs: Annotated[float, 'Passes over the training examples.'] = 1.0
  num_steps: Annotated[int, 'Optimizer steps; 0: those of num_epochs.'] = 0
  batch_size: Annotated[int, 'Examples of a step, all devices together.'] = 256
  compute_dtype: Annotated[
    Literal['float32', 'bfloat16'],
    'Dtype of activations and of the compute copy of the parameters.',
  ] = 'float32'
  evaluate_every: Annotated[
    int, 'Steps between validations; 0: at the end only.'
  ] = 0
  patience: Annotated[
    int,
    'Stop after so many validations without a better one, and take the best;'
    ' 0: train all steps and take the last.',
  ] = 0
  best_metric: Annotated[str, 'What better means.']

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
    'Whether layers of levels I and G are gathered one ahead, and the gradient'
    ' of the layer before reduced, while a layer computes; auto: not on CPUs.',
  ] = 'auto'
  early_sums: Annotated[
    bool,
    "Layers' gradients leave for other groups one by one beside the last"
    ' micro-batch (codes IIG, NIG and GIG, with overlap and remat).',
  ] = False

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.early_sums and self.overlap == 'no':
      raise ValueError('early_sums needs overlap: leave out --overlap=no.')

  def layer_options(self) -> dict[str, Any]:
    """Options of `Trainer` for a stack of layers."""
    overlap = {'auto': None, 'yes': True, 'no': False}[self.overlap]
    return {'overlap': overlap, 'early_sums': self.early_sums}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageConfig(LayersConfig):
  """Settings of jobs that train a language model inside a recommender."""

  model: Annotated[
    str,
    'Language model: Hugging Face folder or GGUF file; or hf://org/name, of the'
    ' Hugging Face Hub.',
    paths.MODEL_URL,
  ] = 'data/minilm'
  pretrained: Annotated[
    str, 'org/name of the Hugging Face Hub, short for --model=hf://org/name.'
  ] = ''
  tuning: Annotated[
    Tuning, 'What of its trained layers: all, adapters, or nothing.'
  ] = 'full'
  lora_rank: Annotated[int, 'Width of the adapters.'] = 8
  lora_alpha: Annotated[float, 'Their scale is alpha / rank.'] = 16.0
  lora_rank_stabilized: Annotated[
    bool, 'Their scale is alpha / sqrt(rank) instead (rsLoRA).'
  ] = False
  lora_dora: Annotated[
    bool, "DoRA: train the length of each matrix's columns too."
  ] = False
  lora_targets: Annotated[tuple[str, ...], 'Matrices with adapters.'] = (
    'query',
    'value',
  )
  adapter: Annotated[
    str,
    'With tuning=lora: folder of adapters in the format of PEFT to begin with,'
    ' or hf://org/name; in place of the settings above.',
    paths.MODEL_URL,
  ] = ''
  quantize: Annotated[
    Literal['none', 'int8', 'int4'],
    'How matrices of frozen layers are held; see docs/pretrained.md.',
  ] = 'none'
  remat: Annotated[
    Literal['none', 'layer', 'dots'],
    "What the layers' backward pass recomputes.",
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
    super().check_inputs()
    pretrained.check_there(self.model)

  def lora(self) -> dict[str, Any]:
    """Options of `tuning.add_lora`."""
    return {
      'rank': self.lora_rank,
      'targets': self.lora_targets,
      'scale': lora.scale_of(
        self.lora_alpha, self.lora_rank, self.lora_rank_stabilized
      ),
      'dora': self.lora_dora,
      'adapter': self.adapter,
    }

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
