# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data, model and loop of launch/train_lm.py."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import shutil
from typing import Any

from absl import logging
import grain
import jax
import jax.numpy as jnp
import numpy as np

from antjax.collectives import choose
from antjax.data import output_folder, records, text
from antjax.jobs import auto_paro
from antjax.jobs import job as job_lib
from antjax.jobs import speed as lm_speed
from antjax.jobs.lm import paro as lm_paro
from antjax.jobs.lm.config import Config
from antjax.lm import attention, cost, generate, transformer
from antjax.lm import tokenizer as tokenizer_lib
from antjax.metrics import means as metrics
from antjax.report import progress
from antjax.shards import dataset
from antjax.train import checkpoint, warm_start
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

_DATA_FILE = 'data.json'  # In the run folder: what it was trained on.


class LMJob:
  """One run: its texts, its model, and the loops over them.

  Attributes:
    description: Content of the data folder's dataset.json.
    tokenizer: The tokenizer of the texts.
    model: The model's config, with the vocabulary filled in.
    paro: The PaRO code, also where `auto` chose it.
    peak_flops: Peak of one device, FLOP/s; see `peak_name`.
    peak_name: Where the peak is from.
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
    self.tokenizer = tokenizer_lib.load(folder / tokenizer_lib.FILE_NAME)
    self.model = self._model()
    self._sources = {
      split: self._source(folder / self.description['files'][split]['path'])
      for split in ('train', 'validation')
    }
    self._check_sizes()
    self._check_run_dir()
    self.peak_flops = config.peak_tflops * 1e12
    self.peak_name = 'given by --peak_tflops'
    if not self.peak_flops:
      self.peak_flops = lm_speed.matmul_flops(self._dtype)
      self.peak_name = 'measured on a large matrix product'
    self.paro = config.paro
    self._validated: tuple[int, dict[str, float]] | None = None

  def _source(self, path: pathlib.Path) -> text.PackedSource:
    return text.PackedSource(
      records.open_source(path, text.SCHEMA),
      self._config.seq_len,
      lengths=records.open_source(path, text.LENGTHS_SCHEMA),
    )

  # The model.

  @property
  def _dtype(self) -> Any:
    return jnp.dtype(self._config.compute_dtype)

  def _model(self) -> transformer.Config:
    model, size = self._config.model, self.tokenizer.vocab_size
    if model.vocab_size and model.vocab_size < size:
      raise ValueError(
        f'model.vocab_size={model.vocab_size}, but the tokenizer of'
        f' {self._config.data} has {size} tokens; set it to 0 or higher.'
      )
    return dataclasses.replace(model, vocab_size=model.vocab_size or size)

  def trainer(self) -> Trainer:
    """The trainer; with `--paro=auto` the planner's code."""
    config, model = self._config, self.model
    options: dict[str, Any] = {
      'num_micro_batches': config.num_micro_batches,
      'compute_dtype': None if self._dtype == jnp.float32 else self._dtype,
      'trainable': self._trainable if config.train_on else None,
      'scanned': lambda name: name.startswith('layers'),
      'regather': config.regather,
      'min_shard_size': config.min_shard_size,
    }
    mesh, links = self._job.mesh, None
    if config.collectives == 'auto':
      links = auto_paro.links_of(mesh, config.links)
    optimizer = config.optimizer.build(config.num_steps)
    self.paro = lm_paro.choose(
      config, self._job, model, optimizer, options, self.peak_flops
    )
    return Trainer(
      lambda params, batch, rng: transformer.loss(model, params, batch),
      optimizer,
      mesh=mesh,
      paro=self.paro,
      collectives=choose.for_mesh(config.collectives, mesh, links=links),
      loss_scale='dynamic' if self._dtype == jnp.float16 else None,
      check_vma=attention.check_vma(mesh),
      **options,
    )

  def _trainable(self, name: str) -> bool:
    return re.search(self._config.train_on, name) is not None

  # Training.

  def fit(self, trainer: Trainer) -> TrainState:
    """Trains, or goes on, in the run folder."""
    config, run_dir = self._config, self._job.run_dir
    checkpoints = (run_dir / 'checkpoints').absolute()
    start = checkpoint.latest_step(checkpoints) or 0
    state = trainer.init(
      functools.partial(transformer.init, self.model), seed=config.seed
    )
    if config.init_from and not start:
      folder = pathlib.Path(config.init_from).absolute() / 'checkpoints'
      state = warm_start.warm_start(trainer, state, folder)
    flops = cost.flops_per_token(self.model, config.seq_len)
    num_devices = jax.device_count()
    with contextlib.ExitStack() as stack:
      bar = stack.enter_context(
        progress.Progress(
          config.num_steps, start_step=start, name='lm', unit='tokens'
        )
      )
      stack.enter_context(self._job.should_stop.deferred())
      log: progress.RunLog | None = None

      def on_step(step: int, values: Mapping[str, float]) -> None:
        nonlocal log
        if log is None:  # The checkpoint, if any, fits: now files may change.
          self._save_run_dir()
          log = stack.enter_context(progress.RunLog(run_dir, resume_step=start))
        bar.update(
          step,
          num_examples=values.get('num_examples', 0),  # None with a validation
          loss=values.get('loss'),  # after the last step.
        )
        line = dict(values)
        tokens_per_s = line.pop('examples_per_s', None)
        if tokens_per_s is not None:
          line['tokens_per_s'] = tokens_per_s
          line['tokens_per_s_per_device'] = tokens_per_s / num_devices
          line['mfu'] = tokens_per_s * flops / (self.peak_flops * num_devices)
        log.write(step - 1, line)

      return trainer.fit(
        state,
        self._batches(),
        config.num_steps,
        checkpoint_dir=str(checkpoints),
        checkpoint_every=config.checkpoint_every,
        evaluate_fn=lambda state: self.validate(trainer, state),
        evaluate_every=config.evaluate_every,
        config=dataclasses.asdict(config),
        merge_input_states=dataset.merge_states,
        count_examples=lambda batch: int(np.sum(batch['segment_ids'] > 0)),
        on_step=on_step,
        should_stop=self._job.should_stop,
        elastic=self._job.agent,
      )

  def _batches(self) -> grain.IterDataset:
    """Endless training batches of this process: a plain Grain data set."""
    config, job = self._config, self._job
    data = job.dataset(
      self._sources['train'], shard_size=config.shard_size, seed=config.seed
    )
    if job.agent is None:
      return data.batch(config.batch_size // jax.process_count())
    rows = job.rows_of_micro_batch(config.batch_size, config.num_micro_batches)
    return data.batch(rows)

  # What comes of it.

  def validate(self, trainer: Trainer, state: TrainState) -> dict[str, float]:
    """Loss, perplexity and bits per character of the held-out documents."""
    step = int(state.step)
    if self._validated is not None and self._validated[0] == step:
      return self._validated[1]
    result = trainer.evaluate(
      state,
      self._validation_batches(),
      self._validation_losses,
      # A cross-entropy is never negative: its distance from 0 is itself.
      {'loss': metrics.MAE()},  # type: ignore[no-untyped-call]
    )
    loss = result['loss']
    part = self.description['splits']['validation']
    found = {
      'validation_loss': loss,
      'validation_perplexity': math.exp(min(loss, 700.0)),
      'validation_bits_per_character': loss
      / math.log(2)
      * part['tokens']
      / part['characters'],
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
    source = self._sources['validation']
    size = self._config.batch_size // self._config.num_micro_batches
    # Other hosts may have come since the batch was a multiple of theirs.
    num_local = jax.local_device_count()
    size = -(-size // jax.process_count() // num_local) * num_local
    start = jax.process_index() * size
    for first in range(start, len(source), size * jax.process_count()):
      found = source.read(first, min(first + size, len(source)))
      full = text.pad_sequences(found, size)
      yield {name: np.stack([r[name] for r in full]) for name in full[0]}

  def samples(self, trainer: Trainer, state: TrainState) -> list[str]:
    """Texts that the model writes; a collective call, drawn on process 0."""
    config = self._config
    if not config.sample_tokens or not config.prompts:
      return []
    params = trainer.params(state)
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
    self._check_samples()
    if self._job.agent is None:
      job_lib.check_batch_size(config.batch_size, config.num_micro_batches)
    num_shards = -(-len(self._sources['train']) // config.shard_size)
    if num_shards < jax.process_count():
      raise ValueError(
        f'{config.data} makes {len(self._sources["train"])} sequences, that is'
        f' {num_shards} DataShards, for {jax.process_count()} processes; make'
        ' --shard_size or --seq_len smaller.'
      )

  def _check_samples(self) -> None:
    """Refuses samples that could not be written when training is over."""
    config, model = self._config, self.model
    if not config.sample_tokens or not config.prompts:
      return
    longest = max(map(len, self._prompt_ids())) + config.sample_tokens
    if model.positions == 'learned' and longest > model.max_positions:
      raise ValueError(
        f'sample_tokens={config.sample_tokens}: the longest of the samples has'
        f' {longest} tokens with its prompt, and the model'
        f' {model.max_positions} learned positions (model.max_positions); ask'
        ' for fewer tokens, or shorter prompts.'
      )
    whole, memory = 4 * cost.num_params(model), auto_paro.memory_of_device()
    if memory is not None and whole > memory:
      raise ValueError(
        f'sample_tokens={config.sample_tokens}: samples need the whole model on'
        f' each device, {whole / 1e9:.3g} GB of its {memory / 1e9:.3g} GB; set'
        ' it to 0.'
      )

  def _fingerprint(self) -> dict[str, Any]:
    """What ids and positions in the text depend on."""
    path = pathlib.Path(self._config.data) / tokenizer_lib.FILE_NAME
    return {
      'tokenizer': tokenizer_lib.fingerprint(path),
      'texts': self.description['config'],
      'seq_len': self._config.seq_len,
    }

  def _check_run_dir(self) -> None:
    """Refuses to go on with other texts than those of the run so far."""
    path = self._job.run_dir / _DATA_FILE
    here = self._fingerprint()
    if path.exists():
      there = json.loads(path.read_text(encoding='utf-8'))
      changed = [k for k in here if there.get(k) != here[k]]
      if changed:
        raise ValueError(
          f'{self._job.run_dir} was trained with another'
          f' {" and ".join(changed)} than --data={self._config.data} and'
          ' --seq_len give now; use those of the run, or another run folder'
          ' (with --init_from for the same tokenizer).'
        )
    elif self._config.init_from:
      folder = pathlib.Path(self._config.init_from)
      theirs = folder / tokenizer_lib.FILE_NAME
      if not theirs.is_file():
        raise FileNotFoundError(
          f'init_from={folder} is no run folder of train_lm: it has no'
          f' {tokenizer_lib.FILE_NAME}.'
        )
      if tokenizer_lib.fingerprint(theirs) != here['tokenizer']:
        raise ValueError(
          f'init_from={folder} has another tokenizer than {self._config.data};'
          f' prepare the texts with --tokenizer={theirs}.'
        )

  def _save_run_dir(self) -> None:
    """Keeps config and tokenizer beside what they made."""
    self._job.save_config()
    if not self._job.is_main:
      return
    run_dir = self._job.run_dir
    name = tokenizer_lib.FILE_NAME
    shutil.copyfile(pathlib.Path(self._config.data) / name, run_dir / name)
    temporary = run_dir / f'.{_DATA_FILE}'
    temporary.write_text(json.dumps(self._fingerprint()), encoding='utf-8')
    os.replace(temporary, run_dir / _DATA_FILE)
    logging.info(
      'PaRO %s; %s parameters; peak of a device %.3g TFLOP/s, %s.',
      self.paro,
      f'{cost.num_params(self.model):,}',
      self.peak_flops / 1e12,
      self.peak_name,
    )
