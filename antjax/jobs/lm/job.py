# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains a causal language model on texts, from scratch or from another run.

  python -m launch.prepare_text --out=data/shakespeare
  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
    launch/train_lm.py --flagfile=launch/recipes/lm_shakespeare.flags

Packs tokenized documents into sequences without a token lost, and trains under
any PaRO code, or the one that the planner finds best (--paro=auto). The run
folder gets checkpoints, metrics.jsonl, TensorBoard events, results.json,
samples.txt and report.html. The same command resumes a stopped run.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import math
import pathlib
import re
import shutil
from typing import Any

from absl import logging
import grain
import jax
import jax.numpy as jnp
import numpy as np

from antjax.data import output_folder, records, text
from antjax.jobs import job as job_lib
from antjax.jobs import run as run_lib
from antjax.jobs import trainer as trainer_lib
from antjax.jobs.lm import report as lm_report
from antjax.jobs.lm.config import Config
from antjax.lm import cost, generate, transformer
from antjax.lm import tokenizer as tokenizer_lib
from antjax.metrics import means as metrics
from antjax.train import checkpoint, warm_start
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

# Share of peak that such a model reaches without communication.
_EFFICIENCY = 0.5


def main(config: Config) -> None:
  train(config, job_lib.start(config))


def train(config: Config, job: job_lib.Job) -> dict[str, Any]:
  """Trains, validates, samples and reports; returns the results."""
  lm = LMJob(config, job)
  state = lm.trainer.init(
    functools.partial(transformer.init, lm.model), seed=config.seed
  )
  if config.init_from and not lm.run.start:
    folder = pathlib.Path(config.init_from).absolute() / 'checkpoints'
    state = warm_start.warm_start(lm.trainer, state, folder)
  state = lm.run.fit(
    lm.trainer,
    state,
    lm.batches(),
    lm.validate,
    count_examples=lambda batch: int(np.sum(batch['segment_ids'] > 0)),
    line_of=lm.line_of,
    on_start=lm.on_start,
  )
  results = lm.validate(state)
  samples = lm.samples(state)
  if job.is_main:
    lm_report.write(
      config,
      job,
      lm.description,
      lm.trainer,
      results,
      samples,
      num_params=cost.num_params(lm.model),
      flops_per_token=lm.flops_per_token,
      peak_flops=lm.peak_flops,
      peak_name=lm.peak_name,
    )
  return results


class LMJob:
  """One run: its texts, its model, and what is asked of them.

  Attributes:
    description: Content of the data folder's dataset.json.
    tokenizer: The tokenizer of the texts.
    model: The model's config, with the vocabulary filled in.
    run: The run.
    flops_per_token: FLOP of a training step for a token.
    peak_flops: Peak of one device, FLOP/s; see `peak_name`.
    peak_name: Source of the peak.
  """

  def __init__(self, config: Config, job: job_lib.Job):
    self._config, self._job = config, job
    folder = pathlib.Path(config.data)
    if not (folder / output_folder.DESCRIPTION).is_file():
      raise FileNotFoundError(
        f'data={config.data} holds no prepared texts; python -m'
        f' launch.prepare_text --out={config.data} makes them.'
      )
    self.description = output_folder.load_description(folder)
    if 'tokenizer' not in self.description['files']:
      raise ValueError(
        f'data={config.data} holds {self.description.get("name")}, no texts;'
        ' give a folder that launch/prepare_text.py made.'
      )
    self._tokenizer_file = folder / tokenizer_lib.FILE_NAME
    self.tokenizer = tokenizer_lib.load(self._tokenizer_file)
    size = self.tokenizer.vocab_size
    if 0 < config.model.vocab_size < size:
      raise ValueError(
        f'model.vocab_size={config.model.vocab_size}, but the tokenizer of'
        f' {config.data} has {size} tokens; set it to 0 or higher.'
      )
    self.model = dataclasses.replace(
      config.model, vocab_size=config.model.vocab_size or size
    )
    self._train, self._validation = (
      text.PackedSource(
        records.open_source(path, text.SCHEMA),
        config.seq_len,
        lengths=records.open_source(path, text.LENGTHS_SCHEMA),
      )
      for path in (
        folder / self.description['files'][split]['path']
        for split in ('train', 'validation')
      )
    )
    self._check_sizes()
    self._check_init_from()
    self.run = run_lib.Run(
      'lm',
      config,
      job,
      {  # What ids and positions in the text depend on.
        'tokenizer': tokenizer_lib.fingerprint(self._tokenizer_file),
        'texts': self.description['config'],
        'seq_len': config.seq_len,
      },
      num_steps=config.steps_for(len(self._train)),
      unit='tokens',
      advice=' (with --init_from for the same tokenizer)',
    )
    self._dtype: Any = jnp.dtype(config.compute_dtype)
    self.flops_per_token = cost.flops_per_token(self.model, config.seq_len)
    self.peak_flops = config.peak_tflops * 1e12
    self.peak_name = 'given by --peak_tflops'
    if not self.peak_flops:
      self.peak_flops = trainer_lib.matmul_flops(self._dtype)
      self.peak_name = 'measured on a large matrix product'
    self._validated: tuple[int, dict[str, float]] | None = None

  @functools.cached_property
  def trainer(self) -> Trainer:
    """The trainer; with `--paro=auto` the planner's code."""
    config, model = self._config, self.model
    parts = jax.device_count() * config.num_micro_batches
    sequences = config.batch_size // parts
    flops = sequences * config.seq_len * self.flops_per_token
    is_trained = None
    if config.train_on:
      is_trained = lambda name: re.search(config.train_on, name) is not None  # noqa: E731
    return trainer_lib.make_trainer(
      config,
      self._job,
      lambda params, batch, rng: transformer.loss(model, params, batch),
      config.optimizer.build(self.run.num_steps),
      jax.eval_shape(
        functools.partial(transformer.init, model), jax.random.key(0)
      ),
      compute_dtype=config.compute_dtype,
      activation_bytes=cost.activation_bytes(
        model, sequences, config.seq_len, self._dtype
      ),
      compute_s=flops / (self.peak_flops * _EFFICIENCY),
      device_bytes=int(config.device_gib * 2**30) or None,
      trainable=is_trained,
      scanned=lambda name: name.startswith('layers'),
      regather=config.regather,
    )

  # What `Run.fit` asks.

  def batches(self) -> grain.IterDataset:
    """Endless training batches of this process: a plain Grain data set."""
    config, job = self._config, self._job
    data = job.dataset(
      self._train, shard_size=config.shard_size, seed=config.seed
    )
    shape = job.batch_shape(config.batch_size, config.num_micro_batches)
    return data.batch(shape.rows)

  def line_of(self, values: Mapping[str, float]) -> dict[str, float]:
    """A step's line in the log: tokens and MFU."""
    line = dict(values)
    speed = line.pop('examples_per_s', None)
    if speed is not None:
      peak = self.peak_flops * jax.device_count()
      line['tokens_per_s'] = speed
      line['tokens_per_s_per_device'] = speed / jax.device_count()
      line['mfu'] = speed * self.flops_per_token / peak
    return line

  def on_start(self) -> None:
    """Keeps the tokenizer beside the checkpoints; says what is trained."""
    shutil.copyfile(
      self._tokenizer_file, self._job.run_dir / tokenizer_lib.FILE_NAME
    )
    logging.info(
      'PaRO %s; %s parameters; peak of a device %.3g TFLOP/s, %s.',
      self.trainer.paro.code,
      f'{cost.num_params(self.model):,}',
      self.peak_flops / 1e12,
      self.peak_name,
    )

  def validate(self, state: TrainState) -> dict[str, float]:
    """Loss, perplexity and bits per character of the held-out documents."""
    step = int(state.step)
    if self._validated is not None and self._validated[0] == step:
      return self._validated[1]
    result = self.trainer.evaluate(
      state,
      self._validation_batches(),
      self._validation_losses,
      # A cross-entropy is never negative: its distance from 0 is itself.
      {'loss': metrics.MAE()},  # type: ignore[no-untyped-call]
    )
    loss = result['loss']
    part = self.description['splits']['validation']
    bits = loss / math.log(2) * part['tokens'] / part['characters']
    found = {
      'validation_loss': loss,
      'validation_perplexity': math.exp(min(loss, 700.0)),
      'validation_bits_per_character': bits,
    }
    self._validated = step, found
    return found

  @functools.cached_property
  def _validation_losses(self) -> Callable[..., Mapping[str, jax.Array]]:
    """One function for all calls: it is compiled once."""

    def predict(
      params: Any, batch: Mapping[str, jax.Array], rng: jax.Array
    ) -> dict[str, jax.Array]:
      del rng
      losses, weights = transformer.loss(self.model, params, batch)
      label = jnp.zeros_like(losses)
      return {'prediction': losses, 'label': label, 'weight': weights}

    return predict

  def _validation_batches(self) -> Iterator[dict[str, np.ndarray]]:
    """This process's share, padded to whole batches."""
    source = self._validation
    size = self._config.batch_size // self._config.num_micro_batches
    # Other hosts may have come since the batch was a multiple of theirs.
    num_local = jax.local_device_count()
    size = -(-size // jax.process_count() // num_local) * num_local
    start = jax.process_index() * size
    for first in range(start, len(source), size * jax.process_count()):
      found = source.read(first, min(first + size, len(source)))
      full = text.pad_sequences(found, size)
      yield {name: np.stack([r[name] for r in full]) for name in full[0]}

  # Samples.

  def samples(self, state: TrainState) -> list[str]:
    """Texts that the model writes; a collective call, drawn on process 0."""
    config = self._config
    if not config.sample_tokens or not config.prompts:
      return []
    params = self.trainer.params(state)
    if not self._job.is_main:
      return []
    params = jax.tree.map(
      lambda x: x.addressable_data(0).astype(self._dtype), params
    )
    mark, ids = self.tokenizer.document, self._prompt_ids()
    lengths = np.asarray([len(p) for p in ids], np.int32)
    prompts = np.full((len(ids), lengths.max()), mark, np.int32)
    for row, prompt in zip(prompts, ids, strict=True):
      row[: len(prompt)] = prompt
    write = jax.jit(
      functools.partial(
        generate.generate,
        self.model,
        num_tokens=config.sample_tokens,
        sampling=config.sampling,
        end_token=mark,
      )
    )
    made = write(params, prompts, lengths, jax.random.key(config.seed))
    return [
      prompt + self.tokenizer.decode(row)
      for prompt, row in zip(config.prompts, np.asarray(made), strict=True)
    ]

  def _prompt_ids(self) -> list[list[int]]:
    mark = self.tokenizer.document
    return [[mark, *p] for p in self.tokenizer.encode(self._config.prompts)]

  # Checks.

  def _check_sizes(self) -> None:
    config = self._config
    transformer.check_length(self.model, config.seq_len)
    if config.sample_tokens and config.prompts:
      self._check_samples()
    if self._job.agent is None:
      job_lib.check_batch_size(config.batch_size, config.num_micro_batches)
    num_shards = -(-len(self._train) // config.shard_size)
    if num_shards < jax.process_count():
      raise ValueError(
        f'{config.data} makes {len(self._train)} sequences, that is'
        f' {num_shards} DataShards, for {jax.process_count()} processes; make'
        ' --shard_size or --seq_len smaller.'
      )

  def _check_samples(self) -> None:
    """Refuses samples that could not be written when training is over."""
    config, model = self._config, self.model
    longest = max(map(len, self._prompt_ids())) + config.sample_tokens
    if model.positions == 'learned' and longest > model.max_positions:
      raise ValueError(
        f'sample_tokens={config.sample_tokens}: the longest of the samples has'
        f' {longest} tokens with its prompt, and the model'
        f' {model.max_positions} learned positions (model.max_positions); ask'
        ' for fewer tokens, or shorter prompts.'
      )
    whole, memory = 4 * cost.num_params(model), trainer_lib.memory_of_device()
    if memory is not None and whole > memory:
      raise ValueError(
        f'sample_tokens={config.sample_tokens}: samples need the whole model on'
        f' each device, {whole / 1e9:.3g} GB of its {memory / 1e9:.3g} GB; set'
        ' it to 0.'
      )

  def _check_init_from(self) -> None:
    """Refuses to start from a run with another tokenizer."""
    config = self._config
    if not config.init_from or checkpoint.latest_step(
      self._job.run_dir / 'checkpoints'
    ):
      return
    theirs = pathlib.Path(config.init_from) / tokenizer_lib.FILE_NAME
    if not theirs.is_file():
      raise FileNotFoundError(
        f'init_from={config.init_from} is no run folder of train_lm: it has no'
        f' {tokenizer_lib.FILE_NAME}.'
      )
    if tokenizer_lib.fingerprint(theirs) != tokenizer_lib.fingerprint(
      self._tokenizer_file
    ):
      raise ValueError(
        f'init_from={config.init_from} has another tokenizer than'
        f' {config.data}; prepare the texts with --tokenizer={theirs}.'
      )
