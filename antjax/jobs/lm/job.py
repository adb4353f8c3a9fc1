# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains a causal language model on texts, from scratch or from another run.

  python -m launch.prepare_text --out=data/shakespeare
  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
    launch/train_lm.py --flagfile=launch/recipes/lm_shakespeare.flags

Packs tokenized documents into sequences without losing a token, and trains
under any PaRO code, or the one that the planner selects (--paro=auto). The run
folder contains checkpoints, metrics.jsonl, TensorBoard events, results.json,
samples.txt and report.html. The same command resumes a stopped run.
"""

from collections.abc import Iterator
import dataclasses
import math
import re
import shutil
from typing import Any

from absl import logging
import grain
import jax
import jax.numpy as jnp
import numpy as np

from antjax import paths
from antjax.data import records, text
from antjax.jobs import job as job_lib
from antjax.jobs import run as run_lib
from antjax.jobs import trainer as trainer_lib
from antjax.jobs.lm import report as lm_report
from antjax.jobs.lm.config import Config
from antjax.layers.functional import Functional
from antjax.lm import generate, hub, pretrained, transformer
from antjax.lm import tokenizer as tokenizer_lib
from antjax.lm.transformer import Transformer
from antjax.metrics import means as metrics
from antjax.plan import lm_cost
from antjax.train import checkpoint, warm_start
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

# Share of peak that such a model reaches without communication.
_EFFICIENCY = 0.5


def main(config: Config) -> None:
  train(config, job_lib.start(config))


def train(config: Config, job: job_lib.Job) -> dict[str, float]:
  """Trains, validates, samples and reports; returns the results."""
  texts = LMTexts(config, job)
  model = texts.model
  check_samples(config, texts)
  if not checkpoint.latest_step(job.run_dir / paths.CHECKPOINTS):
    check_tokenizer(config, texts)
  run = run_lib.Run(
    'lm',
    config,
    job,
    {  # What ids and positions in the text depend on.
      'tokenizer': tokenizer_lib.fingerprint(texts.tokenizer_file),
      'texts': texts.description['config'],
      'seq_len': config.seq_len,
    },
    num_steps=config.steps_for(texts.num_sequences),
    unit='tokens',
    advice=' (with --init_from for the same tokenizer)',
  )
  rates = speeds(config, model)
  trainer = make_trainer(config, job, model, run.num_steps, rates)
  validate = _Validation(texts, trainer)

  def on_start() -> None:
    shutil.copyfile(texts.tokenizer_file, job.run_dir / tokenizer_lib.FILE_NAME)
    logging.info(
      'PaRO %s; %s parameters; peak of a device %.3g TFLOP/s, %s.',
      trainer.paro.code,
      f'{rates.num_params:,}',
      rates.peak_flops / 1e12,
      rates.peak_name,
    )

  state = run.fit(
    trainer,
    _initial_state(config, model, trainer, is_new=not run.start),
    texts.training(),
    validate,
    count_examples=lambda batch: int(np.sum(batch['segment_ids'] > 0)),
    line_of=rates.line_of,
    on_start=on_start,
  )
  results = validate(state)
  samples = _samples(config, job, texts, trainer, state)
  if job.is_main:
    lm_report.write(
      config, job, texts.description, trainer, results, samples, rates
    )
  return results


def speeds(config: Config, model: transformer.Config) -> lm_report.Speeds:
  """What to compute speeds from; measures the peak if none is given."""
  peak_flops, peak_name = config.peak_tflops * 1e12, 'given by --peak_tflops'
  if not peak_flops:
    peak_flops = trainer_lib.matmul_flops(jnp.dtype(config.compute_dtype))
    peak_name = 'measured on a large matrix product'
  return lm_report.Speeds(
    num_params=lm_cost.num_params(model),
    flops_per_token=lm_cost.flops_per_token(model, config.seq_len),
    peak_flops=peak_flops,
    peak_name=peak_name,
  )


def _initial_state(
  config: Config, model: transformer.Config, trainer: Trainer, *, is_new: bool
) -> TrainState:
  """The state before the first step; a new run may start from another model."""
  params: Any = Functional(Transformer, model).init
  if config.pretrained and is_new:
    host = jax.local_devices(backend='cpu')[0]
    _, params = pretrained.load_pretrained(
      config.pretrained, shardings=jax.sharding.SingleDeviceSharding(host)
    )
  state = trainer.init(params, seed=config.seed)
  if config.init_from and is_new:
    folder = paths.fetched(config.init_from) / paths.CHECKPOINTS
    state = warm_start.warm_start(trainer, state, folder)
  return state


class _Validation:
  """Loss, perplexity and bits per character of the held-out documents."""

  def __init__(self, texts: 'LMTexts', trainer: Trainer):
    self._texts, self._trainer = texts, trainer
    self._lm = Functional(Transformer, texts.model)
    self._step, self._results = -1, dict[str, float]()  # Of the last call.

  def __call__(self, state: TrainState) -> dict[str, float]:
    """Validates a state, or returns the results if it is that of last time."""
    step = int(state.step)
    if step != self._step:
      self._results = self._validated(state)
      self._step = step
    return self._results

  def _validated(self, state: TrainState) -> dict[str, float]:
    loss = self._trainer.evaluate(
      state,
      self._texts.validation(),
      self._losses,
      # A cross-entropy is never negative: its distance from 0 is itself.
      {'loss': metrics.MAE()},  # type: ignore[no-untyped-call]
    )['loss']
    part = self._texts.description['splits']['validation']
    bits = loss / math.log(2) * part['tokens'] / part['characters']
    return {
      'validation_loss': loss,
      'validation_perplexity': math.exp(min(loss, 700.0)),
      'validation_bits_per_character': bits,
    }

  def _losses(self, params: Any, batch: Any, rng: Any) -> dict[str, jax.Array]:
    del rng
    found, weights = self._lm.merge(params).loss(batch)
    label = jnp.zeros_like(found)
    return {'prediction': found, 'label': label, 'weight': weights}


class LMTexts:
  """The prepared texts of a run, and the model's config that they complete.

  `description` is the content of the data folder's dataset.json, and `model`
  the model's config, with the vocabulary filled in.
  """

  def __init__(self, config: Config, job: job_lib.Job):
    self._config, self._job = config, job
    folder = paths.fetched(config.data, 'data')
    self.description = config.description()
    self.tokenizer_file = folder / tokenizer_lib.FILE_NAME
    self.tokenizer = tokenizer_lib.load(self.tokenizer_file)
    size, model = self.tokenizer.vocab_size, config.model_config()
    if 0 < model.vocab_size < size:
      raise ValueError(
        f'model.vocab_size={model.vocab_size}, but the tokenizer of'
        f' {config.data} has {size} tokens; set it to 0 or higher.'
      )
    self.model = dataclasses.replace(model, vocab_size=model.vocab_size or size)
    self.model.check_length(config.seq_len)
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
    self.num_sequences = len(self._train)
    if job.agent is None:
      job_lib.check_batch_size(config.batch_size, config.num_micro_batches)
    num_shards = -(-self.num_sequences // config.shard_size)
    if num_shards < jax.process_count():
      raise ValueError(
        f'{config.data} makes {self.num_sequences} sequences, that is'
        f' {num_shards} DataShards, for {jax.process_count()} processes; make'
        ' --shard_size or --seq_len smaller.'
      )

  def training(self) -> grain.IterDataset:
    """Endless batches of this process: a plain Grain data set."""
    config, job = self._config, self._job
    data = job.dataset(
      self._train, shard_size=config.shard_size, seed=config.seed
    )
    shape = job.batch_shape(config.batch_size, config.num_micro_batches)
    return data.batch(shape.rows)

  def validation(self) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of the held-out texts, padded to whole batches."""
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

  def prompt_ids(self) -> list[list[int]]:
    """Tokens of each of --prompts."""
    mark = self.tokenizer.document
    return [[mark, *p] for p in self.tokenizer.encode(self._config.prompts)]


def make_trainer(
  config: Config,
  job: job_lib.Job,
  model: transformer.Config,
  num_steps: int,
  rates: lm_report.Speeds,
) -> Trainer:
  """The trainer; with `--paro=auto` the planner's code."""
  sequences = config.batch_size // jax.device_count()
  sequences //= config.num_micro_batches
  flops = sequences * config.seq_len * rates.flops_per_token
  trained = re.compile(config.train_on)
  lm = Functional(Transformer, model)
  return trainer_lib.make_trainer(
    config,
    job,
    lambda params, batch, rng: lm.merge(params).loss(batch),
    config.optimizer.build(num_steps),
    jax.eval_shape(lm.init, jax.random.key(0)),
    compute_dtype=config.compute_dtype,
    activation_bytes=lm_cost.activation_bytes(
      model, sequences, config.seq_len, jnp.dtype(config.compute_dtype)
    ),
    compute_s=flops / (rates.peak_flops * _EFFICIENCY),
    device_bytes=int(config.device_gib * 2**30) or None,
    trainable=(lambda name: trained.search(name) is not None)
    if config.train_on
    else None,
    scanned=lambda name: name.startswith('layers'),
    regather=config.regather,
    **config.layer_options(),
  )


def _samples(
  config: Config,
  job: job_lib.Job,
  texts: LMTexts,
  trainer: Trainer,
  state: TrainState,
) -> list[str]:
  """Texts that the model writes; a collective call, drawn on process 0."""
  if not config.sample_tokens or not config.prompts:
    return []
  params = trainer.params(state)
  if not job.is_main:
    return []
  params = jax.tree.map(
    lambda x: x.addressable_data(0).astype(config.compute_dtype), params
  )
  mark, ids = texts.tokenizer.document, texts.prompt_ids()
  lengths = np.asarray([len(p) for p in ids], np.int32)
  prompts = np.full((len(ids), lengths.max()), mark, np.int32)
  for row, prompt in zip(prompts, ids, strict=True):
    row[: len(prompt)] = prompt
  lm = Functional(Transformer, texts.model)

  @jax.jit
  def write(
    params: Any, prompts: jax.Array, lengths: jax.Array, key: jax.Array
  ) -> jax.Array:
    return generate.generate(
      lm.merge(params),
      prompts,
      lengths,
      key,
      num_tokens=config.sample_tokens,
      sampling=config.sampling,
      end_token=mark,
    )

  made = write(params, prompts, lengths, jax.random.key(config.seed))
  return [
    prompt + texts.tokenizer.decode(row)
    for prompt, row in zip(config.prompts, np.asarray(made), strict=True)
  ]


def check_samples(config: Config, texts: LMTexts) -> None:
  """Refuses samples that could not be written when training is over."""
  if not config.sample_tokens or not config.prompts:
    return
  model = texts.model
  longest = max(map(len, texts.prompt_ids())) + config.sample_tokens
  if model.positions == 'learned' and longest > model.max_positions:
    raise ValueError(
      f'sample_tokens={config.sample_tokens}: the longest of the samples has'
      f' {longest} tokens with its prompt, and the model'
      f' {model.max_positions} learned positions (model.max_positions); ask'
      ' for fewer tokens, or shorter prompts.'
    )
  whole, memory = 4 * lm_cost.num_params(model), trainer_lib.memory_of_device()
  if memory is not None and whole > memory:
    raise ValueError(
      f'sample_tokens={config.sample_tokens}: samples need the whole model on'
      f' each device, {whole / 1e9:.3g} GB of its {memory / 1e9:.3g} GB; set'
      ' it to 0.'
    )


def check_tokenizer(config: Config, texts: LMTexts) -> None:
  """Refuses to start from a model with another tokenizer."""
  name = 'pretrained' if config.pretrained else 'init_from'
  if not (start := getattr(config, name)):
    return
  local = hub.local(start) if config.pretrained else paths.fetched(start, name)
  theirs = local / tokenizer_lib.FILE_NAME
  if not theirs.is_file():
    raise FileNotFoundError(
      f'{name}={start}: it has no {tokenizer_lib.FILE_NAME}; give'
      + (' a model with one.' if config.pretrained else ' a run of train_lm.')
    )
  # Prepared texts keep a tokenizer as this version writes it.
  own = {
    tokenizer_lib.fingerprint(texts.tokenizer_file),
    texts.description['config'].get('tokenizer'),
  }
  if tokenizer_lib.fingerprint(theirs) not in own:
    raise ValueError(
      f'{name}={start} has another tokenizer than {config.data}; prepare the'
      f' texts with --tokenizer={theirs}.'
    )
