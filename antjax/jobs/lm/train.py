# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains a causal language model on texts, from scratch or from another run.

  python -m launch.prepare_text --out=data/shakespeare
  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
    launch/train_lm.py --flagfile=launch/recipes/lm_shakespeare.flags

Packs tokenized documents into sequences without a token lost, and trains under
any PaRO code, or the one that the planner finds best (--paro=auto). The run
folder gets checkpoints, metrics.jsonl, TensorBoard events, results.json,
samples.txt and report.html. The same command goes on where a run was stopped.
"""

import dataclasses
import math
import re
from typing import Annotated, Any, Literal

from antjax.jobs import job as job_lib
from antjax.jobs.lm import report as lm_report
from antjax.jobs.lm.job import LMJob
from antjax.lm import generate, transformer
from antjax.lm.optimizer import OptimizerConfig
from antjax.mesh.paro import PaRO


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(job_lib.JobConfig):
  """Training of a causal language model."""

  run_dir: Annotated[
    str,
    'Folder of this run: config, logs, checkpoints, report. A second start with'
    ' the same folder goes on where the first one stopped.',
  ] = 'runs/lm'
  data: Annotated[str, 'Folder that launch/prepare_text.py wrote.'] = (
    'data/shakespeare'
  )
  init_from: Annotated[
    str,
    'Run folder whose newest parameters to start from (fine-tuning). Prepare'
    " the texts with that run's tokenizer.json.",
  ] = ''
  train_on: Annotated[
    str,
    'Regular expression: only parameters whose name it finds are trained, e.g.'
    " 'norm|layers.query'. Empty: all.",
  ] = ''
  paro: Annotated[
    str,
    'PaRO code: levels of parameters, gradients, optimizer state; or auto, the'
    " planner's choice.",
  ] = 'IIG'
  collectives: Annotated[
    Literal['xla', 'ring', 'hierarchical', 'ho_ring', 'auto'],
    'How arrays move over all devices at once; auto takes the fastest for each'
    ' message, by the speeds of --links.',
  ] = 'xla'
  links: Annotated[
    str,
    'For --paro=auto and --collectives=auto: link speeds that launch/plan.py'
    ' --measure wrote. Empty: measure them at the start.',
  ] = ''
  device_gib: Annotated[
    float, 'For --paro=auto: memory of a device; 0: what it says it has.'
  ] = 0.0
  regather: Annotated[
    bool, 'Gather layers of levels I and G again in the backward pass.'
  ] = True
  min_shard_size: Annotated[
    int, 'Leaves with fewer elements stay whole on every device.'
  ] = 1024
  num_steps: Annotated[int, 'Optimizer steps.'] = 200
  batch_size: Annotated[int, 'Sequences of a step, all devices together.'] = 32
  seq_len: Annotated[int, 'Tokens of a sequence.'] = 256
  num_micro_batches: Annotated[
    int, "Parts that a device's share of a batch is worked off in."
  ] = 1
  compute_dtype: Annotated[
    Literal['float32', 'bfloat16', 'float16'],
    'Of activations and of the copy of the parameters that computes; masters,'
    ' norms, softmax and loss are float32. float16 scales the loss.',
  ] = 'float32'
  shard_size: Annotated[int, 'Sequences in a DataShard.'] = 16
  evaluate_every: Annotated[int, 'Steps between validations.'] = 50
  checkpoint_every: Annotated[int, 'Steps between checkpoints.'] = 100
  peak_tflops: Annotated[
    float,
    'Peak of one device in compute_dtype, for MFU, in TFLOP/s. 0: the speed of'
    ' a large matrix product here, which is measured at the start.',
  ] = 0.0
  prompts: Annotated[
    tuple[str, ...], 'Beginnings of the samples at the end.'
  ] = ('ROMEO:', 'KING HENRY:')
  sample_tokens: Annotated[int, 'Tokens of each sample; 0: none.'] = 120
  seed: Annotated[int, 'Of parameters, shuffles and samples.'] = 0
  model: transformer.Config = transformer.Config(vocab_size=0, remat='dots')
  optimizer: OptimizerConfig = OptimizerConfig()
  sampling: generate.Sampling = generate.Sampling()

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.paro != 'auto':
      PaRO.from_code(self.paro)
    at_least = {
      **dict.fromkeys(('num_steps', 'batch_size', 'num_micro_batches'), 1),
      **dict.fromkeys(('shard_size', 'checkpoint_every'), 1),
      **dict.fromkeys(('evaluate_every', 'sample_tokens', 'device_gib'), 0),
    }
    for name, least in at_least.items():
      if not getattr(self, name) >= least:
        raise ValueError(
          f'{name}={getattr(self, name)}: must be at least {least}.'
        )
    if not 0 <= self.peak_tflops < math.inf:
      raise ValueError(
        f'peak_tflops={self.peak_tflops} must be positive, or 0 to measure it.'
      )
    try:
      re.compile(self.train_on)
    except re.error as error:
      raise ValueError(
        f'train_on={self.train_on!r} is no regular expression: {error}.'
      ) from error


def main(config: Config) -> None:
  job = job_lib.start(config)
  train(config, job)


def train(config: Config, job: job_lib.Job) -> dict[str, Any]:
  """Trains, validates, samples and reports; returns the results."""
  lm = LMJob(config, job)
  trainer = lm.trainer()
  state = lm.fit(trainer)
  results = lm.validate(trainer, state)
  samples = lm.samples(trainer, state)
  if job.is_main:
    lm_report.write(config, job, lm, trainer, results, samples)
  return results
