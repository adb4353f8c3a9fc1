# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains LLM-Rec: one language model that recommends in all domains.

  python -m launch.prepare_data --views=sequences
  python -m launch.fetch_model
  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
    launch/train_llm_rec.py --flagfile=launch/recipes/llm_rec_ml1m.flags

A user is represented by the titles of their last items, an item by its title.
All layers, adapters or only a head are trained, under any PaRO code.
--baselines adds baselines on the same examples; --sweep compares language
models, tunings and history lengths (docs/llm_rec.md). The run folder contains
checkpoints, metrics.jsonl, TensorBoard events, results.json, report.html, and
the folder export for launch/recommend.py. The same command resumes a stopped
run.
"""

from collections.abc import Callable, Mapping
import dataclasses
import time
from typing import Any

import jax
import numpy as np

from antjax.ctr import tuning
from antjax.ctr.llm_rec import evaluation
from antjax.jobs import job as job_lib
from antjax.jobs import run as run_lib
from antjax.jobs import trainer as trainer_lib
from antjax.jobs.llm_rec import baselines as llm_rec_baselines
from antjax.jobs.llm_rec import baselines_table
from antjax.jobs.llm_rec import export as llm_rec_export
from antjax.jobs.llm_rec import held_out as llm_rec_held_out
from antjax.jobs.llm_rec import hybrid as llm_rec_hybrid
from antjax.jobs.llm_rec import model as llm_rec_model
from antjax.jobs.llm_rec import report as llm_rec_report
from antjax.jobs.llm_rec import stored as llm_rec_stored
from antjax.jobs.llm_rec import sweep as llm_rec_sweep
from antjax.jobs.llm_rec.config import (
  BaselinesConfig,
  Config,
  METHODS,
  SequencesConfig,
)
from antjax.jobs.llm_rec.data import StoredSequences, TrainingSequences
from antjax.jobs.llm_rec.held_out import HeldOut
from antjax.mesh.gather import gather_bytes
from antjax.metrics import rank_metrics
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer


def main(config: Config) -> None:
  if config.sweep:
    for model in config.swept.models or (config.model,):
      dataclasses.replace(config, model=model).check_inputs()
    llm_rec_sweep.run(config)
    return
  train(config, job_lib.start(config))


def train(config: Config, job: job_lib.Job) -> dict[str, Any]:
  """Trains, scores, exports and reports; returns the test scores."""
  if job.agent is not None and config.loss.across == 'all':
    raise ValueError(
      'loss.across=all under agents: groups do their own number of'
      ' micro-batches, so they cannot wait for each other in each; use group or'
      ' device.'
    )
  sequences, built, activations = _prepared(config, job)
  num_steps = config.steps_for(len(sequences.source))
  trainer = _trainer(config, job, built, num_steps, activations)
  ranker = Ranker(config, trainer, sequences, built)
  run = run_lib.Run(
    'llm_rec',
    config,
    job,
    built.made_of,
    num_steps=num_steps,
    best_mode='max',  # Recall and NDCG.
  )
  params = built.params
  if config.stage1_steps and not run.start:
    params = _of_pairs(config, job, sequences, built, activations)
  state = trainer.init(params, seed=config.seed)
  account = trainer_lib.account(
    trainer,
    state,
    job,
    activations=activations,
    frozen_share=tuning.frozen_share(built.params, _trainable(config)),
    batch_fn=sequences.example if config.check_memory else None,
  )
  state = run.fit(trainer, state, sequences.training(), ranker.validate)
  model = ranker.model(state)
  if config.user.is_late:
    ranker.raise_new(model)
  results, arrays = ranker.score(model)
  others, mixed = {}, None
  ranks = {llm_rec_report.NAME: _of_drawn(arrays, 'test_')}
  events = llm_rec_hybrid.flat(sequences.events, sequences.data.num_items)
  if config.with_hybrid:
    rows = None if built.stored is None else built.stored[0]
    mixed = llm_rec_hybrid.fit(
      config.hybrid,
      sequences.data,
      sequences.events,
      vectors=rows,
      model=model,
    )
    others[llm_rec_report.HYBRID], of_hybrid = ranker.score(mixed)
    ranks[llm_rec_report.HYBRID] = _of_drawn(of_hybrid, 'test_')
    arrays |= {f'hybrid_{name}': x for name, x in of_hybrid.items()}
  if job.is_main:  # Differences between models are paired by examples.
    np.savez(job.run_dir / 'ranks.npz', **arrays)
  if config.tuning == 'lora' and job.is_main and not config.store:
    tuning.save_adapter(job.run_dir / 'adapter', model.model, config.model)
  if config.export and job.is_main:
    llm_rec_export.write(
      job.run_dir,
      config,
      sequences.data,
      built,
      model.model,
      model.item_vectors(),
      None if mixed is None else (mixed, events),
    )
  if config.baselines:
    found = run_baselines(config, job)
    others = found | others
    read = baselines_table.read_ranks(job.run_dir / 'baselines', found)
    ranks |= {method: _of_drawn(mine) for method, mine in read.items()}
  if job.is_main:
    llm_rec_report.write(
      config,
      job,
      sequences,
      trainer,
      results,
      others,
      model.item_vectors(),
      ranks,
      account=account,
      speed=ranker.speed,
      num_steps=num_steps,
    )
  return results


def _of_drawn(
  arrays: Mapping[str, np.ndarray], prefix: str = ''
) -> dict[str, np.ndarray]:
  """Ranks among drawn items, by 'test' and 'cold'."""
  names = {'test': f'{prefix}sampled', 'cold': 'cold_sampled'}
  return {split: arrays[n] for split, n in names.items() if n in arrays}


def _prepared(
  config: Config, job: job_lib.Job
) -> tuple[TrainingSequences, llm_rec_model.BuiltRecommender, int]:
  """Data, model, and the bytes of activations."""
  built: Any  # Of either kind, with inputs of its kind.
  inputs: Any
  if config.store:
    sequences = StoredSequences(config, job)
    built = llm_rec_stored.build(config, job, sequences.data)
    inputs = sequences.make_stored_inputs(*built.stored)
    return (
      sequences,
      built,
      llm_rec_stored.activation_bytes(config, built.model, inputs),
    )
  texts = TrainingSequences(config, job)
  built = llm_rec_model.build(config, texts.data)
  inputs = texts.make_inputs(built.texts)
  return (
    texts,
    built,
    llm_rec_model.activation_bytes(config, built.model, inputs),
  )


def _trainer(
  config: Config,
  job: job_lib.Job,
  built: llm_rec_model.BuiltRecommender,
  num_steps: int,
  activations: int,
) -> Trainer:
  return trainer_lib.make_trainer(
    config,
    job,
    lambda params, batch, rng: built.merge(params).loss(batch),
    config.optimizer.build(num_steps, tuning.is_lm),
    built.params,
    compute_dtype=config.compute_dtype,
    trainable=_trainable(config),
    scanned=trainer_lib.is_stack,
    **config.layer_options(),
    activation_bytes=activations,
  )


def _of_pairs(
  config: Config,
  job: job_lib.Job,
  sequences: TrainingSequences,
  built: llm_rec_model.BuiltRecommender,
  activations: int,
) -> Any:
  """Parameters after the first stage, in a folder of its own."""
  assert isinstance(sequences, StoredSequences)
  trainer = _trainer(config, job, built, config.stage1_steps, activations)
  run = run_lib.Run(
    'pairs',
    config,
    job,
    built.made_of,
    num_steps=config.stage1_steps,
    folder=job.run_dir / 'stage1',
  )
  batches = sequences.of_pairs().training('pairs')
  state = run.fit(trainer, trainer.init(built.params), batches)
  return _whole(trainer, state)


def _whole(trainer: Trainer, state: TrainState) -> Any:
  """A state's parameters on this host."""
  return jax.tree.map(
    lambda x: np.asarray(x.addressable_data(0)), trainer.params(state)
  )


def _trainable(config: Config) -> Callable[[str], bool]:
  """Whether a leaf is trained, by name."""
  is_trained, words = tuning.trainable(config.tuning), config.vector.train_words
  frozen = ('head.whitening.', *(() if words else ('head.words.',)))
  return lambda name: is_trained(name) and not name.startswith(frozen)


def run_baselines(config: Config, job: job_lib.Job) -> dict[str, Any]:
  """Scores of the other methods, on the same examples."""
  run_dir = job.run_dir / 'baselines'
  run_dir.mkdir(exist_ok=True)
  shared = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(SequencesConfig)
  }
  other = BaselinesConfig(
    **shared
    | {'run_dir': str(run_dir), 'model': config.model, 'seed': config.seed},
    methods=METHODS if 'all' in config.baselines else config.baselines,
  )
  return llm_rec_baselines.train(
    other, dataclasses.replace(job, run_dir=run_dir, config=other)
  )


class Ranker:
  """Ranks held-out examples with a state; each process does its share.

  Attributes:
    speed: Rates, for the report.
  """

  def __init__(
    self,
    config: Config,
    trainer: Trainer,
    sequences: TrainingSequences,
    built: llm_rec_model.BuiltRecommender,
  ):
    self._config, self._trainer = config, trainer
    self._data, self._built = sequences.data, built
    self._events = sequences.events
    self._model: Any = None
    self._step = -1  # Of the state that it holds.
    self._validation, _ = llm_rec_held_out.validation(self._data, config)
    self.speed: dict[str, float] = {}

  def model(self, state: TrainState) -> Any:
    """The model of a state with the vectors of all items.

    Those of the last state asked for are kept.
    """
    if self._model is not None and int(state.step) == self._step:
      return self._model
    trained = self._built.merge(_whole(self._trainer, state))
    if self._model is None:
      self._model = self._built.encoder(trained, self._config)
    else:
      self._model.hold(trained)
    start, encoder = time.perf_counter(), self._model
    num_items = self._data.num_items
    vectors = _gathered(encoder.items(_share(num_items)), num_items)
    encoder.hold_items(vectors)
    self._step = int(state.step)
    self.speed['items/s'] = num_items / (time.perf_counter() - start)
    return encoder

  def raise_new(self, model: Any) -> None:
    """Ranks items without training events as high as validation allows."""
    is_new = self._events.count_items(self._data.num_items) == 0
    is_new[0] = False  # The padding.

    def with_words(words: float) -> Any:
      model.raise_new(is_new, 0.0, words)
      return model

    words, bias = llm_rec_held_out.choose_new(
      *(with_words(1.0), self._data, self._config, is_new),
      loss_of_ndcg=self._config.user.loss_of_ndcg,
      with_factor=with_words,
    )
    model.raise_new(is_new, bias, words)

  def validate(self, state: TrainState) -> dict[str, float]:
    """Scores among drawn items, named 'validation_ndcg@10' and so on."""
    ranks = self._ranks(self.model(state), self._validation, with_full=False)
    parts = rank_metrics.scores(
      ranks[evaluation.SAMPLED], self._validation.parts
    )
    return {
      f'validation_{name}': value
      for name, value in parts[rank_metrics.ALL].items()
      if '@' in name and not name.endswith(rank_metrics.ERROR)
    }

  def _ranks(
    self, model: Any, held_out: HeldOut, *, with_full: bool = True
  ) -> dict[str, np.ndarray]:
    start, size = time.perf_counter(), len(held_out)
    mine = held_out.examples.take(_share(size))
    found = evaluation.ranks(model, mine, with_full=with_full)
    whole = {kind: _gathered(ranks, size) for kind, ranks in found.items()}
    if model is self._model:
      self.speed['ranked users/s'] = size / (time.perf_counter() - start)
    return whole

  def score(self, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of the test examples, and of those of cold items.

    Returns:
      {'test' or 'cold': {'sampled' or 'full': {part: {metric: value}}}}, and
      the ranks by name.
    """
    found: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    held_out = llm_rec_held_out.held_out(
      self._data, 'test', self._config.held_out
    )
    for name, examples in zip(('test', 'cold'), held_out, strict=True):
      if examples is None:
        continue
      ranks = self._ranks(model, examples)
      found[name] = llm_rec_held_out.scores(ranks, examples)
      arrays |= {f'{name}_{kind}': values for kind, values in ranks.items()}
      arrays[f'{name}_users'] = examples.users
    return found, arrays


def _share(size: int) -> np.ndarray:
  """Numbers that this process works on."""
  return np.arange(jax.process_index(), size, jax.process_count())


def _gathered(mine: np.ndarray, size: int) -> np.ndarray:
  """Rows of all processes' shares, in order; a collective call."""
  whole = np.zeros((size, *mine.shape[1:]), mine.dtype)
  for i, part in enumerate(gather_bytes(mine.tobytes())):
    rows = np.frombuffer(part, mine.dtype)
    whole[i :: jax.process_count()] = rows.reshape(-1, *mine.shape[1:])
  return whole
