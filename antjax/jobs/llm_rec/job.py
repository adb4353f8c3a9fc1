# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains LLM-Rec: one language model that recommends in all domains.

  python -m launch.prepare_data --views=sequences
  python -m launch.fetch_model
  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
    launch/train_llm_rec.py --flagfile=launch/recipes/llm_rec_ml1m.flags

A user is the titles of their last items, an item is its title; all layers,
adapters or nothing but a head are trained, under any PaRO code. --baselines
adds what it is compared with, on the same examples; --sweep compares language
models, tunings and lengths of history (docs/llm_rec.md). The run folder gets
checkpoints, metrics.jsonl, TensorBoard events, results.json, report.html, and
for launch/recommend.py the folder export. The same command resumes a stopped
run.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from antjax.ctr import tuning
from antjax.ctr.llm_rec import evaluation
from antjax.ctr.llm_rec.recommender import VectorEncoder
from antjax.ctr.tuning import frozen_share
from antjax.jobs import job as job_lib
from antjax.jobs import memory_table
from antjax.jobs import run as run_lib
from antjax.jobs.llm_rec import baselines as llm_rec_baselines
from antjax.jobs.llm_rec import export as llm_rec_export
from antjax.jobs.llm_rec import held_out as llm_rec_held_out
from antjax.jobs.llm_rec import memory as llm_rec_memory
from antjax.jobs.llm_rec import model as llm_rec_model
from antjax.jobs.llm_rec import report as llm_rec_report
from antjax.jobs.llm_rec import sweep as llm_rec_sweep
from antjax.jobs.llm_rec.config import (
  BaselinesConfig,
  Config,
  METHODS,
  SequencesConfig,
)
from antjax.jobs.llm_rec.data import Sequences
from antjax.jobs.llm_rec.held_out import HeldOut
from antjax.jobs.llm_rec.model import Built
from antjax.mesh.gather import gather_bytes
from antjax.metrics import rank_metrics
from antjax.train.state import TrainState

Ranks = dict[str, np.ndarray]


def main(config: Config) -> None:
  if config.sweep:
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
  sequences = Sequences(config, job)
  built = llm_rec_model.build(config, sequences.data)
  sequences.make_inputs(built.texts)
  run = LLMRecJob(config, job, sequences, built)
  state = run.fit()
  vectors = run.vectors(state)
  held_out = llm_rec_held_out.held_out(sequences.data, 'test', config.held_out)
  results = score(run, vectors, held_out, job)
  if config.export and job.is_main:
    llm_rec_export.write(
      job.run_dir,
      config,
      sequences.data,
      built,
      vectors.params,
      vectors.item_vectors(),
    )
  others = run_baselines(config, job)
  if job.is_main:
    llm_rec_report.write(
      config,
      job,
      sequences,
      run.trainer,
      results,
      others,
      vectors.item_vectors(),
      memory=run.memory,
      speed=run.speed,
      num_steps=run.num_steps,
    )
  return results


def run_baselines(config: Config, job: job_lib.Job) -> dict[str, Any]:
  """Scores of the other methods, on the same examples."""
  if not config.baselines:
    return {}
  methods = config.baselines
  if 'all' in methods:
    methods = METHODS
  run_dir = job.run_dir / 'baselines'
  run_dir.mkdir(exist_ok=True)
  shared = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(SequencesConfig)
  }
  other = BaselinesConfig(
    **shared
    | {'run_dir': str(run_dir), 'model': config.model, 'seed': config.seed},
    methods=methods,
  )
  return llm_rec_baselines.train(
    other, dataclasses.replace(job, run_dir=run_dir, config=other)
  )


class LLMRecJob:
  """One run: a model, its trainer, and the loops.

  Attributes:
    num_steps: Steps of the run, if it does not stop early.
    memory: Planned and compiled memory, for the report.
    speed: Rates of evaluation, for the report.
  """

  def __init__(
    self,
    config: Config,
    job: job_lib.Job,
    sequences: Sequences,
    built: Built,
  ):
    self._config, self._job = config, job
    self._sequences, self._built = sequences, built
    self.num_steps = config.steps_for(len(sequences.source))
    self._activation_bytes = llm_rec_memory.activation_bytes(
      config, built.model, sequences.inputs
    )
    self.trainer = run_lib.make_trainer(
      config,
      job,
      lambda params, batch, rng: built.model.loss(params, batch),
      config.optimizer.build(self.num_steps, tuning.is_lm),
      built.params,
      compute_dtype=config.compute_dtype,
      trainable=tuning.trainable(config.tuning),
      scanned=run_lib.is_stack,
      activation_bytes=self._activation_bytes,
    )
    self._encoder: VectorEncoder | None = None
    self._encoded_step = -1
    validation = dataclasses.replace(
      config.held_out, num_examples=config.validation_examples, num_cold=0
    )
    self._validation, _ = llm_rec_held_out.held_out(
      sequences.data, 'validation', validation
    )
    self.memory: dict[str, Any] = {}
    self.speed: dict[str, float] = {}

  def fit(self) -> TrainState:
    """Trains or resumes; the state is the best one."""
    run = run_lib.Run(
      'llm_rec',
      self._config,
      self._job,
      self._built.made_of,
      num_steps=self.num_steps,
      best_mode='max',  # Recall and NDCG.
    )
    state = self.trainer.init(self._built.params, seed=self._config.seed)
    sequences = self._sequences
    is_checked = self._config.check_memory and not sequences.is_elastic
    self.memory = memory_table.account(
      self.trainer,
      state,
      activations=self._activation_bytes,
      frozen_share=frozen_share(
        self._built.params, tuning.trainable(self._config.tuning)
      ),
      batch_fn=sequences.example if is_checked else None,
    )
    if self._job.is_main:
      memory_table.print_table(self.memory)
    return run.fit(
      self.trainer, state, self._sequences.training(), self.validate
    )

  # Scores.

  def vectors(self, state: TrainState) -> VectorEncoder:
    """The model of a state with the vectors of all items.

    Each process encodes its share of the items; all get all of them. Those of
    the last state asked for are kept.
    """
    step = int(state.step)
    if self._encoder is not None and step == self._encoded_step:
      return self._encoder
    params = jax.tree.map(_host, self.trainer.params(state))
    if self._encoder is None:
      self._encoder = VectorEncoder(
        self._built.model,
        params,
        self._built.texts,
        max_history=self._config.max_history,
        compute_dtype=jnp.dtype(self._config.compute_dtype),
      )
    else:
      self._encoder.hold(params)
    num_items = self._sequences.data.num_items
    start = time.perf_counter()
    mine = np.arange(jax.process_index(), num_items, jax.process_count())
    found = self._encoder.items(mine)
    vectors = np.zeros((num_items, self._encoder.dim), np.float32)
    for i, part in enumerate(gather_bytes(found.tobytes())):
      rows = np.frombuffer(part, np.float32).reshape(-1, self._encoder.dim)
      vectors[i :: jax.process_count()] = rows
    self._encoder.hold_items(vectors)
    self._encoded_step = step
    self.speed['items/s'] = num_items / (time.perf_counter() - start)
    return self._encoder

  def validate(self, state: TrainState) -> dict[str, float]:
    """Scores among drawn items, named 'validation_ndcg@10' and so on."""
    ranks = self.ranks(self.vectors(state), self._validation, with_full=False)
    parts = rank_metrics.scores(
      ranks[evaluation.SAMPLED], self._validation.parts
    )
    return {
      f'validation_{name}': value
      for name, value in parts[rank_metrics.ALL].items()
      if '@' in name and not name.endswith(rank_metrics.ERROR)
    }

  def ranks(
    self, model: VectorEncoder, held_out: HeldOut, *, with_full: bool = True
  ) -> Ranks:
    """Ranks of all examples; each process ranks its share of them."""
    start = time.perf_counter()
    index, count = jax.process_index(), jax.process_count()
    mine = np.arange(index, len(held_out), count)
    found = evaluation.ranks(
      model, held_out.examples.take(mine), with_full=with_full
    )
    whole = {}
    for kind, values in found.items():
      whole[kind] = np.zeros(len(held_out), np.int32)
      for i, part in enumerate(gather_bytes(values.tobytes())):
        whole[kind][i::count] = np.frombuffer(part, np.int32)
    self.speed['ranked users/s'] = len(held_out) / (time.perf_counter() - start)
    return whole


def score(
  run: LLMRecJob,
  vectors: VectorEncoder,
  held_out: tuple[HeldOut, HeldOut | None],
  job: job_lib.Job,
) -> dict[str, Any]:
  """Scores of the test examples, and of those of cold items.

  Ranks go to ranks.npz in the run folder: differences between models are paired
  by examples.

  Args:
    run: The run.
    vectors: Its model, with the vectors of all items.
    held_out: Result of `llm_rec_held_out.held_out`.
    job: The job; all processes call this.

  Returns:
    {'test' or 'cold': {'sampled' or 'full': {part: {metric: value}}}}.
  """
  found: dict[str, Any] = {}
  arrays: dict[str, Any] = {}
  for name, examples in zip(('test', 'cold'), held_out, strict=True):
    if examples is None:
      continue
    found[name] = {}
    for kind, ranks in run.ranks(vectors, examples).items():
      scores = rank_metrics.scores(ranks, examples.parts)
      found[name][kind] = llm_rec_held_out.as_json(scores)
      arrays[f'{name}_{kind}'] = ranks
    arrays[f'{name}_users'] = examples.users
  if job.is_main:
    np.savez(job.run_dir / 'ranks.npz', **arrays)
  return found


def _host(x: jax.Array) -> np.ndarray:
  """An array that every device has whole."""
  return np.asarray(x.addressable_data(0))
