# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""What LLM-Rec is compared with, on the same held-out examples.

  python -m launch.prepare_data --views=sequences
  python -m launch.fetch_model
  python -m launch.llm_rec_baselines --data=data/ml-1m \
    --held_out.num_examples=1000 --run_dir=runs/baselines

popularity; bm25 on titles; last_title, mean_titles, one_text: cosine of a
language model's vectors, untrained; sasrec and gru4rec on ids over all domains,
sasrec_single and gru4rec_single with a model for each domain; sasrec_text on
frozen text vectors. The run folder gets METHOD.json and METHOD.npz (ranks); a
method that is done is not done again (docs/llm_rec.md).
"""

import dataclasses
import functools
import json
import pathlib
import time
from typing import Any

from absl import logging
from jax.experimental import multihost_utils
import numpy as np

from antjax.ctr.llm_rec import evaluation, next_item, untrained
from antjax.data.sequence_data import SequenceData
from antjax.data.sequence_events import SequenceEvents
from antjax.jobs import identity as run_identity
from antjax.jobs import job as job_lib
from antjax.jobs.llm_rec import held_out as llm_rec_held_out
from antjax.jobs.llm_rec import next_item_job
from antjax.jobs.llm_rec.config import BaselinesConfig as Config
from antjax.jobs.llm_rec.held_out import HeldOut
from antjax.jobs.llm_rec.texts import TextEncoder
from antjax.metrics import rank_metrics
from antjax.report import job_report

_KINDS: dict[str, untrained.Kind] = {
  'last_title': 'last',
  'mean_titles': 'mean',
  'one_text': 'concatenated',
}
Ranks = dict[str, np.ndarray]


def main(config: Config) -> None:
  job = job_lib.start(config)
  train(config, job)


def train(config: Config, job: job_lib.Job) -> dict[str, Any]:
  """Runs the methods that are not done; returns their scores, and prints."""
  baselines = Baselines(config, job)
  job.save_config()
  found = {}
  for method in config.methods:
    path = job.run_dir / f'{method}.json'
    if path.exists():
      done = json.loads(path.read_text(encoding='utf-8'))
      if done.get('made_of') != baselines.made_of(method):
        raise ValueError(
          f'{path} has scores of other data, users, examples, histories or'
          ' another language model than given now; use another --run_dir, or'
          ' delete the file.'
        )
    else:
      start = time.monotonic()
      ranks, cold = baselines.ranks(method)
      wall_s = round(time.monotonic() - start, 1)
      if job.is_main:
        made_of = baselines.made_of(method)
        _write(path, baselines, ranks, cold, made_of, wall_s)
      multihost_utils.sync_global_devices(f'{method} is written')
    if job.is_main:
      found[method] = json.loads(path.read_text(encoding='utf-8'))
  if job.is_main:
    llm_rec_held_out.show(found)
  return found


class Baselines:
  """Data, held-out examples and texts, made when first needed.

  Attributes:
    data: The sequences.
    test: Test examples.
    cold: Those of cold items that are drawn apart, or None.
  """

  def __init__(self, config: Config, job: job_lib.Job):
    self._config, self._job = config, job
    self.data = SequenceData.open(config.data, split=config.split)
    self.test, self.cold = llm_rec_held_out.held_out(
      self.data, 'test', config.held_out
    )

  def made_of(self, method: str) -> dict[str, Any]:
    """What a method's scores are of, JSON-able."""
    told = {
      **self._data_made_of(),
      'held out': dataclasses.asdict(self._config.held_out),
    }
    if method in _KINDS or method == 'bm25':
      told['max_history'] = self._config.max_history
    if method in _KINDS or method == 'sasrec_text':
      told['language model'] = self.encoder.made_of
    return json.loads(json.dumps(told))

  def _data_made_of(self, only: str = '') -> dict[str, Any]:
    config = self._config
    return {
      'data set': run_identity.of_data(self.data.description),
      'split': self.data.split,
      'domains': {'only': only, 'without': config.without_domain},
      'users': [config.train_users, config.train_users_seed],
    }

  def ranks(self, method: str) -> tuple[Ranks, Ranks | None]:
    """Ranks of the test examples, and of those of cold items."""
    if method.endswith('_single'):
      return self._single(method.removesuffix('_single'))
    model = self._model(method)
    return self._of(model, self.test), self._of(model, self.cold)

  def _of(self, model: Any, held_out: HeldOut | None) -> Any:
    if held_out is None:
      return None
    return evaluation.ranks(model, held_out.examples)

  def _model(self, method: str) -> Any:
    config, data = self._config, self.data
    if method == 'popularity':
      events = self._events()
      return untrained.Popularity(events.count_items(data.num_items))
    if method == 'bm25':
      return untrained.BM25(data.titles, max_history=config.max_history)
    if method in _KINDS:
      encode = self._encode if method == 'one_text' else None
      return untrained.TextCosine(
        _KINDS[method], self.vectors, config.max_history, encode
      )
    texts = None
    if method == 'sasrec_text':
      texts = next_item.whiten(self.vectors)
    return self._trained(method, texts=texts)

  def _events(self, only: str = '') -> SequenceEvents:
    """What training sees, of one domain or all."""
    config = self._config
    return self.data.training(
      only=only,
      without=config.without_domain,
      num_users=config.train_users,
      seed=config.train_users_seed,
    )

  def _trained(
    self, method: str, *, only: str = '', texts: np.ndarray | None = None
  ) -> next_item.TrainedNextItem:
    """Trains SASRec or GRU4Rec, on one domain or all."""
    config, data = self._config, self.data
    is_gru = method.startswith('gru4rec')
    encoder = config.gru4rec if is_gru else config.sasrec
    events = self._events(only)
    run = next_item_job.NextItemJob(
      config.training,
      self._job,
      next_item_job.model_of(encoder, data.num_items, config.training, texts),
      events,
      made_of=self._data_made_of(only)
      | {
        'language model': None if texts is None else self.encoder.made_of,
      },
      texts=texts,
      paro=config.paro,
      seed=config.seed,
    )
    held_out = self.validation
    examples = held_out.examples
    if only:
      examples = self._in_domain(held_out, only)[1]
    name = f'{method}-{only}' if only else method
    return run.fit(name, lambda model: _ndcg(model, examples))

  def _single(self, method: str) -> tuple[Ranks, Ranks | None]:
    """A model a domain; each ranks the targets and items of its own."""
    both = [_nothing(self.test), _nothing(self.cold)]
    for domain in self.data.domain_names:
      if not self._events(domain).num_examples:
        logging.warning('%s: no training example; it is left out.', domain)
        continue
      model = self._trained(method, only=domain)
      allowed = self.data.domains == self.data.domain_id(domain)
      for held_out, ranks in zip((self.test, self.cold), both, strict=True):
        if held_out is None or ranks is None:
          continue
        index, examples = self._in_domain(held_out, domain)
        found = evaluation.ranks(model, examples, allowed=allowed)
        for kind, values in found.items():
          ranks[kind][index] = values
    test, cold = both
    assert test is not None
    return test, cold

  def _in_domain(
    self, held_out: HeldOut, domain: str
  ) -> tuple[np.ndarray, evaluation.RankedExamples]:
    """The examples of a domain's targets, with the history in it alone."""
    number = self.data.domain_id(domain)
    index = np.flatnonzero(held_out.target_domains == number)
    is_kept = self.data.domains == number
    return index, held_out.examples.take(index, is_kept)

  @functools.cached_property
  def validation(self) -> HeldOut:
    """What trained methods are chosen by."""
    options = dataclasses.replace(
      self._config.held_out,
      num_examples=self._config.validation_examples,
      num_cold=0,
    )
    return llm_rec_held_out.held_out(self.data, 'validation', options)[0]

  @functools.cached_property
  def encoder(self) -> TextEncoder:
    return TextEncoder(self._config.model, self._config.max_text_tokens)

  @functools.cached_property
  def vectors(self) -> np.ndarray:
    """float32 [N, D], of the titles."""
    folder = pathlib.Path(self._config.text_cache or self._job.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return self.encoder.kept(self.data.titles, folder, 'titles')

  def _encode(self, rows: Any) -> np.ndarray:
    titles = self.data.titles
    return self.encoder(
      [untrained.join_titles([titles[i] for i in row]) for row in rows]
    )


def _nothing(held_out: HeldOut | None) -> Ranks | None:
  """Ranks of examples that no model ranks: the worst."""
  if held_out is None:
    return None
  worst = np.full(len(held_out), np.iinfo(np.int32).max, np.int32)
  return {kind: worst.copy() for kind in (evaluation.SAMPLED, evaluation.FULL)}


def _ndcg(model: Any, examples: evaluation.RankedExamples) -> float:
  """NDCG@10 among the negatives."""
  if not len(examples):
    return 0.0
  ranks = evaluation.ranks(model, examples, with_full=False)
  values = rank_metrics.by_example(ranks[evaluation.SAMPLED], [10])
  return float(values['ndcg@10'].mean())


def _write(
  path: pathlib.Path,
  baselines: Baselines,
  ranks: Ranks,
  cold: Ranks | None,
  made_of: dict[str, Any],
  wall_s: float,
) -> None:
  """Writes METHOD.npz, then METHOD.json: the latter says that it is done."""
  arrays: dict[str, Any] = {**ranks, 'users': baselines.test.users}
  results: dict[str, Any] = {
    'made_of': made_of,
    'wall_s': wall_s,
    'test': llm_rec_held_out.scores(ranks, baselines.test),
  }
  if cold is not None and baselines.cold is not None:
    results['cold'] = llm_rec_held_out.scores(cold, baselines.cold)
    arrays |= {f'cold_{kind}': values for kind, values in cold.items()}
  np.savez(path.with_suffix('.npz'), **arrays)
  job_report.write_json(path, results)
