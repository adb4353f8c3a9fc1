# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Runs baselines of LLM-Rec on the same held-out examples.

  python -m launch.prepare_data --views=sequences
  python -m launch.fetch_model
  python -m launch.llm_rec_baselines --data=data/ml-1m \
    --held_out.num_examples=1000 --run_dir=runs/baselines

popularity; bm25 on titles, bm25_recency with newer ones counting more, bm25_new
also with scores of items without events chosen, as late interaction has them;
item_knn, item_knn_text also by way of the nearest titles; ease; hybrid of all
these, hybrid_lm with a language model's vectors too; last_title, mean_titles,
one_text: cosine of a language model's vectors, untrained; sasrec and gru4rec on
ids over all domains, sasrec_single and gru4rec_single with a model for each
domain; sasrec_text on frozen text vectors, unisrec with several whitenings of
them, unisrec_ids with ids too. The run folder contains METHOD.json, METHOD.npz
(ranks) and table.md. Finished methods are not run again (docs/llm_rec.md).
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np
from scipy import sparse

from antjax import paths
from antjax.ctr.bahe import encode
from antjax.ctr.llm_rec import (
  evaluation,
  hybrid,
  item_knn,
  new_items,
  next_item,
  untrained,
)
from antjax.data.sequence_data import SequenceData
from antjax.data.sequence_events import SequenceEvents
from antjax.jobs import identity as run_identity
from antjax.jobs import job as job_lib
from antjax.jobs.llm_rec import baselines_table, next_item_job
from antjax.jobs.llm_rec import held_out as llm_rec_held_out
from antjax.jobs.llm_rec import hybrid as llm_rec_hybrid
from antjax.jobs.llm_rec.config import BaselinesConfig as Config
from antjax.jobs.llm_rec.config import METHODS
from antjax.jobs.llm_rec.held_out import HeldOut
from antjax.lm import fingerprint, pretrained, pretrained_tokenizer, token_cache
from antjax.metrics import rank_metrics
from antjax.report import progress

_KINDS: dict[str, untrained.Kind] = {
  'last_title': 'last',
  'mean_titles': 'mean',
  'one_text': 'concatenated',
}
_TRAINED_OF_TEXTS = ('sasrec_text', 'unisrec', 'unisrec_ids')
_OF_TEXTS = (*_KINDS, *_TRAINED_OF_TEXTS, 'hybrid_lm')
# Chosen on validation users of food-kitchen.
_MAX_HISTORY, _HALF_LIFE = 50, 5.0  # Of bm25_recency.
_UNIT = 4.0  # Of what bm25_new may add.
_WINDOW, _POWER, _KNN_HALF_LIFE = 50, 0.3, 20.0  # Of item_knn.
Ranks = dict[str, np.ndarray]


def main(config: Config) -> None:
  train(config, job_lib.start(config))


def train(config: Config, job: job_lib.Job) -> dict[str, Any]:
  """Runs the methods that are not done; returns their scores, and prints."""
  job.check_shared('the methods')
  baselines = Baselines(config, job)
  try:
    each_made_of = {name: baselines.made_of(name) for name in config.methods}
  except FileNotFoundError as e:
    names = [name for name in config.methods if name in _OF_TEXTS]
    raise FileNotFoundError(
      f'{e} It reads texts for {", ".join(names)}; --methods={_others(names)}'
      ' do without.'
    ) from e
  job.save_config()
  found = {}
  for method, made_of in each_made_of.items():
    path = job.run_dir / f'{method}.json'
    if not path.exists():
      start, cpu = time.monotonic(), time.process_time()
      ranks, cold = baselines.ranks(method)
      if job.is_main:
        took = {
          'wall_s': round(time.monotonic() - start, 1),
          'cpu_s': round(time.process_time() - cpu, 1),
        }
        baselines_table.write_method(
          path,
          (ranks, baselines.test),
          (cold, baselines.cold),
          {'made_of': made_of, **took},
        )
      multihost_utils.sync_global_devices(f'{method} is written')
    done = json.loads(path.read_text(encoding='utf-8'))
    if done.get('made_of') != made_of:
      raise ValueError(
        f'{path} has scores of other data, users, examples, histories or'
        ' another language model than given now; use another --run_dir, or'
        ' delete the file.'
      )
    found[method] = done
  if job.is_main:
    llm_rec_held_out.show(found)
    baselines_table.write(job.run_dir, found, baselines.data, baselines.test)
  return found


def _others(names: Sequence[str]) -> str:
  """Methods beside some, as a flag has them."""
  return ','.join(name for name in METHODS if name not in names)


class TitleEncoder:
  """Texts -> the mean of a model's last layer over their tokens, untrained.

  That is how sentence encoders such as MiniLM were trained to be read.

  Attributes:
    made_of: All that determines the vectors, as JSON.
  """

  def __init__(self, model: str, max_tokens: int):
    """Reads model and tokenizer; of long texts the newest tokens are kept."""
    host = jax.local_devices(backend='cpu')[0]
    lm = pretrained.load(
      model, shardings=jax.sharding.SingleDeviceSharding(host)
    )
    inner = pretrained_tokenizer.load_tokenizer(model, lm.config.vocab_size)
    self._tokenizer = token_cache.RowTokenizer(inner, max_tokens)
    self.made_of = [
      fingerprint.of_model(model),
      fingerprint.of_tokenizer(model),
      max_tokens,
    ]
    untrained.keep_newest(inner, max_tokens)
    self._encoder = encode.Encoder(
      lm, num_low=lm.config.num_layers, max_tokens=max_tokens
    )

  def __call__(self, texts: Sequence[str], title: str = '') -> np.ndarray:
    """float32 [texts, D], zeros for one without characters; a bar if titled."""
    tokens, offsets = self._tokenizer(texts)
    if not title:
      return self._encoder(tokens, offsets)
    with progress.Progress(len(texts), name=title, unit='texts') as bar:
      return self._encoder(tokens, offsets, bar.advance_to)

  def kept(
    self, texts: Sequence[str], folder: pathlib.Path, title: str
  ) -> np.ndarray:
    """Vectors as of `__call__`, from a file in the folder if it is there.

    The file is named by model, tokenizer, length and texts: another one of them
    gets a file of its own. Process 0 writes it.
    """
    made_of = json.dumps([*self.made_of, list(texts)]).encode()
    digest = hashlib.sha256(made_of).hexdigest()
    path = folder / f'vectors-{digest[:16]}.npy'
    if path.exists():
      return np.load(path)
    vectors = self(texts, title)
    if jax.process_index() == 0:
      with paths.replaced(path) as new:
        np.save(new, vectors)
    return vectors


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
    if method.startswith('hybrid'):
      told['hybrid'] = dataclasses.asdict(self._config.hybrid)
    if method == 'bm25_new':
      told['chosen by'] = [
        self._config.validation_examples,
        self._config.hybrid.loss_of_ndcg,
      ]
    if method in _OF_TEXTS:
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
    both: list[Ranks] = []
    for held_out in (self.test, self.cold):
      if held_out is None:
        return both[0], None
      with progress.Progress(len(held_out), name=method, unit='users') as bar:
        both.append(
          evaluation.ranks(model, held_out.examples, progress=bar.advance_to)
        )
    return both[0], both[1]

  def _model(self, method: str) -> Any:
    config, data = self._config, self.data
    if method == 'popularity':
      return untrained.Popularity(self._events().count_items(data.num_items))
    if method == 'bm25':
      return untrained.BM25(data.titles, max_history=config.max_history)
    if method == 'bm25_recency':
      return untrained.BM25(
        data.titles, max_history=_MAX_HISTORY, half_life=_HALF_LIFE
      )
    if method == 'bm25_new':
      return self._raised(self._model('bm25_recency'))
    if method.startswith('item_knn'):
      return self._item_knn(with_titles=method == 'item_knn_text')
    if method == 'ease':
      return item_knn.EASE(
        *llm_rec_hybrid.flat(self._events(), data.num_items), data.num_items
      )
    if method.startswith('hybrid'):
      return llm_rec_hybrid.fit(
        config.hybrid,
        data,
        self._events(),
        vectors=self.vectors if method == 'hybrid_lm' else None,
      )
    if method in _KINDS:
      encode = self._encode if method == 'one_text' else None
      return untrained.TextCosine(
        _KINDS[method], self.vectors, config.max_history, encode
      )
    if method in _TRAINED_OF_TEXTS:
      return self._trained(method, texts=untrained.whiten(self.vectors))
    return self._trained(method)

  def _raised(self, model: evaluation.ScoreModel) -> new_items.Raised:
    """The same with items without events where validation wants them."""
    is_new = self._events().count_items(self.data.num_items) == 0
    factor, bias = llm_rec_held_out.choose_new(
      *(model, self.data, self._config, is_new),
      loss_of_ndcg=self._config.hybrid.loss_of_ndcg,
      additions=_UNIT * new_items.ADDITIONS,
    )
    return new_items.Raised(model, is_new, factor, bias)

  def _item_knn(self, *, with_titles: bool) -> item_knn.LinearModel:
    size = self.data.num_items
    users, items = llm_rec_hybrid.flat(self._events(), size)
    similar = item_knn.likeness(
      item_knn.cooccurrence(users, items, size, _WINDOW),
      np.bincount(items, minlength=size),
      _POWER,
    )
    near = None
    if with_titles:  # An item's own score counts once, that of titles once.
      words = untrained.BM25(self.data.titles)
      near = item_knn.nearest(words.of_titles, size, hybrid.NUM_NEAREST)
      near += sparse.identity(size, np.float32)
    return item_knn.LinearModel(similar, near, half_life=_KNN_HALF_LIFE)

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
    """Trains SASRec, GRU4Rec or UniSRec, on one domain or all."""
    config, examples = self._config, self.validation.examples
    if only:
      examples = self._in_domain(self.validation, only)[1]

    def ndcg(model: Any) -> float:
      """NDCG@10 among the negatives."""
      if not len(examples):
        return 0.0
      ranks = evaluation.ranks(model, examples, with_full=False)
      values = rank_metrics.by_example(ranks[evaluation.SAMPLED], [10])
      return float(values['ndcg@10'].mean())

    model = None if texts is None else self.encoder.made_of
    return next_item_job.train(
      f'{method}-{only}' if only else method,
      config.training,
      self._job,
      config.gru4rec if method.startswith('gru4rec') else config.sasrec,
      self.data.num_items,
      self._events(only),
      ndcg,
      made_of=self._data_made_of(only) | {'language model': model},
      texts=texts,
      num_experts=config.training.num_experts if 'unisrec' in method else 1,
      has_ids=method == 'unisrec_ids',
      paro=config.paro,
      seed=config.seed,
    )

  def _single(self, method: str) -> tuple[Ranks, Ranks | None]:
    """A model a domain; each ranks the targets and items of its own."""
    every = [self.test] if self.cold is None else [self.test, self.cold]
    worst = np.iinfo(np.int32).max  # Of examples that no model ranks.
    both = [
      {
        kind: np.full(len(held_out), worst, np.int32)
        for kind in (evaluation.SAMPLED, evaluation.FULL)
      }
      for held_out in every
    ]
    for domain in self.data.domain_names:
      if not self._events(domain).num_examples:
        logging.warning('%s: no training example; it is left out.', domain)
        continue
      model = self._trained(method, only=domain)
      allowed = self.data.domains == self.data.domain_id(domain)
      for held_out, ranks in zip(every, both, strict=True):
        index, examples = self._in_domain(held_out, domain)
        found = evaluation.ranks(model, examples, allowed=allowed)
        for kind, values in found.items():
          ranks[kind][index] = values
    return both[0], None if self.cold is None else both[1]

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
    return llm_rec_held_out.validation(self.data, self._config)[0]

  @functools.cached_property
  def encoder(self) -> TitleEncoder:
    return TitleEncoder(self._config.model, self._config.max_text_tokens)

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
