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
for launch/recommend.py the folder export. The same command goes on where a run
was stopped.
"""

import dataclasses
from typing import Annotated, Any, Literal

from antjax.ctr import tuning as tuning_lib
from antjax.ctr.llm_rec.losses import LossConfig
from antjax.ctr.llm_rec.model import VectorConfig
from antjax.jobs import job as job_lib
from antjax.jobs import training_config
from antjax.jobs.llm_rec import baselines as llm_rec_baselines
from antjax.jobs.llm_rec import export as llm_rec_export
from antjax.jobs.llm_rec import held_out as llm_rec_held_out
from antjax.jobs.llm_rec import model as llm_rec_model
from antjax.jobs.llm_rec import report as llm_rec_report
from antjax.jobs.llm_rec import sweep as llm_rec_sweep
from antjax.jobs.llm_rec.data import Sequences
from antjax.jobs.llm_rec.held_out import HeldOutConfig
from antjax.jobs.llm_rec.job import LLMRecJob
from antjax.metrics import rank_metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(training_config.LanguageTrainingConfig):
  """Training of a language model as a recommender."""

  run_dir: Annotated[
    str,
    'Folder of this run: config, logs, checkpoints, report. A second start with'
    ' the same folder goes on where the first one stopped.',
  ] = 'runs/llm_rec'
  data: Annotated[str, 'Folder that launch/prepare_data.py wrote.'] = (
    'data/ml-1m'
  )
  split: Annotated[
    Literal['last', 'source'],
    "last: each user's last event is the test target. source: the data's own"
    ' split of users.',
  ] = 'last'
  only_domain: Annotated[
    str, 'Train on the events of this domain alone; empty: all.'
  ] = ''
  without_domain: Annotated[
    str, 'Domain that training does not see, for zero-shot scores.'
  ] = ''
  train_users: Annotated[
    int, 'Users to train on, drawn once for all seeds; 0: all.'
  ] = 0
  train_users_seed: Annotated[int, 'Of that draw.'] = 0
  model: Annotated[str, 'Language model: Hugging Face folder or GGUF file.'] = (
    'data/minilm'
  )
  start: Annotated[
    Literal['pretrained', 'random'],
    "Where its weights begin; random: only its shape is the folder's.",
  ] = 'pretrained'
  published_marks: Annotated[
    bool, 'OPT without the token that its texts begin with, as in the paper.'
  ] = False
  max_history: Annotated[int, "Newest items that make a user's text."] = 10
  max_title_tokens: Annotated[int, 'Tokens taken of a title.'] = 40
  max_tokens: Annotated[
    int, "Tokens of a user's text; the newest titles that fit are in it."
  ] = 402
  max_seen: Annotated[
    int, 'Newest items of a user that are no negatives (loss.exclude=seen).'
  ] = 100
  token_cache: Annotated[
    str, "Folder of the titles' token ids; empty: tokens in the data folder."
  ] = ''
  tuning: Annotated[
    tuning_lib.Tuning, 'Of the language model: all, adapters, or nothing.'
  ] = 'full'
  lora_rank: Annotated[int, 'Width of the adapters.'] = 16
  lora_alpha: Annotated[float, 'Their scale is alpha / rank.'] = 16.0
  lora_targets: Annotated[tuple[str, ...], 'Matrices with adapters.'] = (
    'query',
    'value',
  )
  num_chunks: Annotated[
    int,
    'Parts that the texts of a micro-batch are encoded in: memory of a part,'
    ' negatives of all (gradient caching).',
  ] = 1
  num_shapes: Annotated[
    int, 'Shapes of packed texts, each compiled once; several processes: 1.'
  ] = 3
  batch_size: Annotated[int, 'Examples of a step, all devices together.'] = 96
  validation_examples: Annotated[
    int, 'Validation examples, drawn by seed; 0: all.'
  ] = 1000
  best_metric: Annotated[str, 'What better means.'] = 'validation_ndcg@10'
  export: Annotated[bool, 'Write the folder for launch/recommend.py.'] = True
  baselines: Annotated[
    tuple[str, ...],
    'Methods of launch/llm_rec_baselines.py to run too, or all.',
  ] = ()
  sweep: Annotated[
    bool, 'Compare settings, each in a run of its own, and train nothing else.'
  ] = False
  held_out: HeldOutConfig = HeldOutConfig()
  loss: LossConfig = LossConfig()
  vector: VectorConfig = VectorConfig()
  optimizer: tuning_lib.OptimizerConfig = tuning_lib.OptimizerConfig(
    lm_learning_rate=5e-5, weight_decay=1e-3
  )
  swept: llm_rec_sweep.SweepConfig = llm_rec_sweep.SweepConfig()

  def __post_init__(self) -> None:
    super().__post_init__()
    known = [f'validation_{name}' for name in rank_metrics.metric_names()]
    if self.best_metric not in known:
      raise ValueError(
        f'best_metric={self.best_metric}: use one of {", ".join(known)}.'
      )
    self.check_least(
      {
        **dict.fromkeys(('lora_rank', 'max_history', 'max_title_tokens'), 1),
        **dict.fromkeys(('num_chunks', 'num_shapes'), 1),
        **dict.fromkeys(('max_tokens', 'max_seen'), 1),
        **dict.fromkeys(('train_users', 'validation_examples'), 0),
      }
    )
    if self.only_domain and self.only_domain == self.without_domain:
      raise ValueError(
        f'only_domain and without_domain are both {self.only_domain}: nothing'
        ' is left to train on.'
      )
    if self.tuning == 'none' and not (
      self.vector.has_head or self.loss.learn_temperature
    ):
      raise ValueError(
        'tuning=none: nothing would be trained; set vector.projection_dim or'
        ' vector.word_dim, or run launch/llm_rec_baselines.py for untrained'
        ' models.'
      )
    methods = llm_rec_baselines.METHODS
    wrong = sorted({*self.baselines} - {*methods, 'all'})
    if wrong:
      raise ValueError(
        f'baselines={self.baselines}: {", ".join(wrong)} unknown; use all, or'
        f' some of {", ".join(methods)}.'
      )


def main(config: Config) -> None:
  if config.sweep:
    llm_rec_sweep.run(config)
    return
  job = job_lib.start(config)
  train(config, job)


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
  results = llm_rec_report.score(run, vectors, held_out, job)
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
      config, job, sequences, run, results, others, vectors.item_vectors()
    )
  return results


def run_baselines(config: Config, job: job_lib.Job) -> dict[str, Any]:
  """Scores of the other methods, on the same examples."""
  if not config.baselines:
    return {}
  methods = config.baselines
  if 'all' in methods:
    methods = llm_rec_baselines.METHODS
  run_dir = job.run_dir / 'baselines'
  run_dir.mkdir(exist_ok=True)
  other = llm_rec_baselines.Config(
    run_dir=str(run_dir),
    data=config.data,
    split=config.split,
    methods=methods,
    without_domain=config.without_domain,
    train_users=config.train_users,
    train_users_seed=config.train_users_seed,
    model=config.model,
    max_history=config.max_history,
    validation_examples=config.validation_examples,
    seed=config.seed,
    held_out=config.held_out,
  )
  return llm_rec_baselines.train(
    other, dataclasses.replace(job, run_dir=run_dir, config=other)
  )
