# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of launch/train_lm.py."""

import dataclasses
import math
import re
from typing import Annotated, Any, Literal

from antjax import paths
from antjax.data import output_folder
from antjax.jobs.training_config import LayersConfig
from antjax.lm import generate, pretrained, transformer
from antjax.train.optimizer import OptimizerConfig

# Fields of a model's config that change no output.
_HOW_TO_COMPUTE = ('remat', 'attention', 'layers_per_step')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LayersConfig):
  """Training of a causal language model."""

  run_dir: str = 'runs/lm'
  data: Annotated[
    str, 'Folder written by launch/prepare_text.py.', paths.URL
  ] = 'data/shakespeare'
  init_from: Annotated[
    str,
    'Run folder whose newest parameters to fine-tune. Prepare the texts with'
    ' its tokenizer.json. Empty: none.',
    paths.URL,
  ] = ''
  pretrained: Annotated[
    str,
    'Pretrained model to start from: Hugging Face folder or GGUF file, or'
    ' hf://org/name. Its architecture replaces --model. Prepare the texts with'
    ' its tokenizer.json. Empty: none.',
    paths.MODEL_URL,
  ] = ''
  train_on: Annotated[
    str,
    'Regular expression that selects the parameters to train by name, e.g.'
    " 'norm|layers.query'. Empty: all.",
  ] = ''
  device_gib: Annotated[
    float, 'For --paro=auto: GiB of a device. 0: what it reports.'
  ] = 0.0
  regather: Annotated[
    bool, 'Gather layers of levels I and G again in the backward pass.'
  ] = True
  num_steps: Annotated[int, 'Optimizer steps. 0: by num_epochs.'] = 200
  batch_size: Annotated[int, 'Sequences per step, over all devices.'] = 32
  seq_len: Annotated[int, 'Number of tokens per sequence.'] = 256
  compute_dtype: Annotated[
    Literal['float32', 'bfloat16', 'float16'],
    'Dtype of activations and of the compute copy of the parameters. Masters,'
    ' norms, softmax and loss are float32. float16 scales the loss.',
  ] = 'float32'  # type: ignore[assignment]
  shard_size: Annotated[int, 'Number of sequences in a DataShard.'] = 16
  evaluate_every: Annotated[int, 'Number of steps between validations.'] = 50
  best_metric: Annotated[str, 'Metric of the best step.'] = 'validation_loss'
  checkpoint_every: Annotated[int, 'Number of steps between checkpoints.'] = 100
  peak_tflops: Annotated[
    float,
    'Peak TFLOP/s of a device in compute_dtype, for MFU. 0: the speed of a'
    ' large matrix product, measured at the start.',
  ] = 0.0
  prompts: Annotated[
    tuple[str, ...], 'Prompts of the texts generated at the end.'
  ] = ('ROMEO:', 'KING HENRY:')
  sample_tokens: Annotated[int, 'Tokens of each sample. 0: none.'] = 120
  model: transformer.Config = transformer.Config(vocab_size=0, remat='dots')
  optimizer: OptimizerConfig = OptimizerConfig(
    learning_rate=2e-3, warmup_steps=30, b2=0.95, weight_decay=0.1
  )
  sampling: generate.Sampling = generate.Sampling()

  def __post_init__(self) -> None:
    super().__post_init__()
    self.check_least(dict.fromkeys(('sample_tokens', 'device_gib'), 0))
    if not 0 <= self.peak_tflops < math.inf:
      raise ValueError(
        f'peak_tflops={self.peak_tflops} must be positive, or 0 to measure it.'
      )
    if self.pretrained and self.init_from:
      raise ValueError(
        f'pretrained={self.pretrained} and init_from={self.init_from}: a run'
        ' begins with one model; give one of them.'
      )
    try:
      re.compile(self.train_on)
    except re.error as error:
      raise ValueError(
        f'train_on={self.train_on!r} is no regular expression: {error}.'
      ) from error

  def check_inputs(self) -> None:
    super().check_inputs()
    paths.check_there(self.init_from, 'init_from', self.run_dir)
    self.description()
    self.model_config()

  def model_config(self) -> transformer.Config:
    """The model's config: of --model, or of --pretrained and how to compute it.

    Raises:
      ValueError: A flag says otherwise than the pretrained model, or that is no
        causal one.
    """
    if not self.pretrained:
      return self.model
    found = pretrained.read_config(self.pretrained)
    if not found.causal:
      raise ValueError(
        f'pretrained={self.pretrained} is an encoder, and this job trains'
        ' models that write; give a causal one.'
      )
    names = [field.name for field in dataclasses.fields(found)]
    given = {name: getattr(self.model, name) for name in names}
    how = {name: given.pop(name) for name in _HOW_TO_COMPUTE}
    wrong = [
      f'model.{name}={value!r} (it has {getattr(found, name)!r})'
      for name, value in given.items()
      if value not in (getattr(found, name), getattr(Config.model, name))
    ]
    if wrong:
      raise ValueError(
        f'pretrained={self.pretrained} has a shape of its own; leave out'
        f' {", ".join(wrong)}.'
      )
    return dataclasses.replace(found, **how)

  def description(self) -> dict[str, Any]:
    """Content of the data folder's dataset.json.

    Raises:
      FileNotFoundError: It holds nothing that was prepared.
      ValueError: It holds no texts.
    """
    folder = paths.fetched(self.data, 'data')
    if not (folder / output_folder.DESCRIPTION).is_file():
      raise FileNotFoundError(
        f'data={self.data} holds no prepared texts; python -m'
        f' launch.prepare_text --out={self.data} makes them.'
      )
    found = output_folder.load_description(folder)
    if 'tokenizer' not in found['files']:
      raise ValueError(
        f'data={self.data} holds {found.get("name")}, no texts; give a folder'
        ' that launch/prepare_text.py made.'
      )
    return found
