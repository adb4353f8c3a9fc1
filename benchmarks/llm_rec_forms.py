# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax's side of `benchmarks.llm_rec_bench`, with the step of users."""

import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import antjax
from antjax.ctr.bahe.encode import Encoder
from antjax.ctr.llm_rec import packing, ranking, stored, texts, untrained
from antjax.ctr.llm_rec.inputs import TrainingInputs
from antjax.ctr.llm_rec.late import UserConfig
from antjax.ctr.llm_rec.losses import LossConfig
from antjax.ctr.llm_rec.model import LLMRec, VectorConfig
from antjax.ctr.llm_rec.negatives import NegativeSampler
from antjax.ctr.llm_rec.recommender import VectorEncoder
from antjax.ctr.llm_rec.stored_inputs import StoredInputs
from antjax.ctr.texts import Marks, TextMaker
from antjax.layers import functional
from antjax.lm import pretrained, Transformer
from benchmarks import harness
from benchmarks import llm_rec_bench as problem_lib

TOP = 20  # Number of items recommended to a user.
# From launch/recipes/llm_rec_store.flags.
_STORE_TOKENS = 24
_STORE_VECTOR = VectorConfig(
  normalize=True,
  half_life=2.0,
  token_vectors=True,
  whiten=True,
  word_dim=1024,
  train_words=False,
  word_weight=0.5,
)


class Tokens:
  """A TokenCache of arrays."""

  def __init__(self, problem: dict[str, np.ndarray]):
    self.tokens, self.offsets = problem['tokens'], problem['offsets']


class Given(NegativeSampler):
  """A sampler that returns the problem's negatives."""

  def __init__(self, problem: dict[str, np.ndarray]):
    super().__init__(problem['domains'])
    self._own, self._shared = problem['negatives'], problem['shared']

  def draw(self, keys, domain, forbidden, num):
    return self._own[keys]

  def draw_shared(self, key, domain, num):
    return self._shared[key // problem_lib.BATCH]


class Form:
  """Training and evaluation, for one kind of negatives."""

  def __init__(
    self, form: str, case: dict[str, Any], folder: str, problem: str
  ):
    """Reads the model; `form` is the kind of negatives, 'own' or 'shared'."""
    config, params = pretrained.load_pretrained(folder)
    config = dataclasses.replace(config, remat='none')
    lm = Transformer.of(config, params)
    self._problem = arrays = harness.load(problem)
    loss = LossConfig(
      negatives=form,  # type: ignore[arg-type]
      num_negatives=problem_lib.NUM_NEGATIVES,
      log_q=False,
    )
    longest = int(np.diff(arrays['offsets']).max())
    self._texts = TextMaker(
      Tokens(arrays),
      Marks((problem_lib.CLS,), (), 'first'),
      max_tokens=1 + arrays['history'].shape[1] * longest,
    )
    model = LLMRec(lm, 'first', loss_config=loss, rngs=nnx.Rngs(0))
    merge, params = functional.split(model)
    counts = np.ones(len(arrays['domains']), np.int64)
    counts[0] = 0
    self._inputs = TrainingInputs(
      self._texts,
      loss,
      arrays['domains'],
      counts,
      examples_per_part=problem_lib.BATCH,
      sampler=Given(arrays),
    )
    self._batches = [self._batch(i) for i in range(case['num_batches'])]
    self._inputs.fit(self._batches)
    dtype = jnp.dtype(case['dtype'])
    self._trainer = antjax.Trainer(
      lambda params, batch, rng: merge(params).loss(batch),
      optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(problem_lib.LEARNING_RATE, weight_decay=1e-3),
      ),
      mesh=antjax.make_mesh(intra=1),
      compute_dtype=None if dtype == jnp.float32 else dtype,
      scanned=lambda name: '.layers.' in name,
    )
    self._state = self._trainer.init(jax.tree.map(np.asarray, params))
    self._encoder = VectorEncoder(model, self._texts, compute_dtype=dtype)
    self._catalogue = (
      np.random.default_rng(0)
      .normal(size=(len(arrays['domains']), self._encoder.dim))
      .astype(np.float32)
    )
    self._next = 0

  def _batch(self, i: int) -> dict[str, np.ndarray]:
    span = slice(i * problem_lib.BATCH, (i + 1) * problem_lib.BATCH)
    target = self._problem['target'][span]
    return {
      'history': self._problem['history'][span],
      'seen': self._problem['history'][span],
      'target': target,
      'domain': self._problem['domains'][target],
      'key': np.arange(span.start, span.stop, dtype=np.int64),
      'weight': np.ones(len(target), np.float32),
    }

  def step(self) -> float:
    """A whole step: packing, gradient, optimizer; returns the loss."""
    batch = self._batches[self._next % len(self._batches)]
    self._next += 1
    inputs = self._inputs(batch, 1)
    self._state, metrics = self._trainer.step(self._state, inputs)
    return float(metrics['loss'])

  def warm_up(self) -> dict[str, Any]:
    """Compiles all shapes; returns the first loss and facts."""
    losses = [self.step() for _ in self._batches]
    self.users()
    self.items()
    shape = self._inputs.shapes[-1]
    lengths = [self._inputs(b, 1)['lengths'].sum() for b in self._batches]
    facts = {
      'rows': {str(width): rows for width, rows in shape},
      'tokens_per_batch': round(float(np.mean(lengths))),
      'slots_per_batch': packing.num_slots(shape),
    }
    return {'loss': losses[0], 'facts': facts}

  def users(self) -> None:
    """Encodes and ranks users."""
    history = self._problem['history'][: problem_lib.NUM_USERS]
    np.asarray(_top(self._encoder.user_vectors(history), self._catalogue))

  def items(self) -> None:
    """Encodes items."""
    num = min(problem_lib.NUM_ITEMS, len(self._problem['domains']) - 1)
    self._encoder.items(np.arange(1, 1 + num))


class StoreForm(Form):
  """Training and evaluation over a store of titles, as in the recipe.

  All layers are in the store; its rows are random.
  """

  def __init__(
    self, form: str, case: dict[str, Any], folder: str, problem: str
  ):
    """Reads the model; see `Form`."""
    del form
    config, params = pretrained.load_pretrained(folder)
    lm = Transformer.of(config, params)
    self._problem = arrays = harness.load(problem)
    num_items, rng = len(arrays['domains']), np.random.default_rng(0)
    rows = rng.normal(size=(num_items, config.embed_dim)).astype(np.float16)
    tokens = texts.title_tokens(
      arrays['tokens'], arrays['offsets'], _STORE_TOKENS
    )
    loss = LossConfig(negatives='shared', num_negatives=512, temperature=0.07)
    # A target follows its history.
    target = arrays['target'][:, None]
    events = np.concatenate([arrays['history'], 0 * target], axis=1)
    ends = (events > 0).sum(axis=1, keepdims=True)
    np.put_along_axis(events, ends, target, axis=1)
    self._sizes = {'max_history': arrays['history'].shape[1]}
    model = stored.StoredRec(
      lm,
      config.num_layers,
      'mean',
      dataclasses.replace(_STORE_VECTOR, projection_dim=config.embed_dim),
      loss,
      user=UserConfig(interaction='late'),
      **self._sizes,
      whitening=untrained.whitening(rows),
      rarity_V=np.ones(config.vocab_size),
      rngs=nnx.Rngs(0),
    )
    size = min(problem_lib.STORE_BATCH, len(events))
    self._inputs = StoredInputs(
      rows,
      tokens,
      loss,
      arrays['domains'],
      np.bincount(arrays['target'], minlength=num_items) + 1,
      histories_per_part=size,
      **self._sizes,
    )
    self._batches = np.split(events, len(events) // size)
    self._inputs.fit(self._batches)
    merge, params = functional.split(model)
    dtype = jnp.dtype(case['dtype'])
    self._trainer = antjax.Trainer(
      lambda params, batch, rng: merge(params).loss(batch),
      optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(2e-3, weight_decay=1e-3)
      ),
      mesh=antjax.make_mesh(intra=1),
      compute_dtype=None if dtype == jnp.float32 else dtype,
      trainable=lambda name: (
        not name.startswith(('head.words.', 'head.whitening.'))
      ),
    )
    self._state = self._trainer.init(jax.tree.map(np.asarray, params))
    self._encoder = stored.StoredEncoder(
      model, rows, tokens, compute_dtype=dtype, **self._sizes
    )
    self._low = Encoder(
      lm, num_low=config.num_layers, max_tokens=problem_lib.MAX_TITLE_TOKENS
    )
    self._catalogue = rng.normal(size=(num_items, model.dim)).astype(np.float32)
    self._next = 0

  def step(self) -> float:
    """A whole step: gather of rows, gradient, optimizer; returns the loss."""
    batch = self._batches[self._next % len(self._batches)]
    self._next += 1
    inputs = self._inputs(batch, np.full(len(batch), self._next), 1)
    self._state, metrics = self._trainer.step(self._state, inputs)
    return float(metrics['loss'])

  def warm_up(self) -> dict[str, Any]:
    """Compiles all; returns the first loss and facts."""
    losses = [self.step() for _ in self._batches]
    self.users()
    self.items()
    num_examples = [int((x > 0).sum()) - len(x) for x in self._batches]
    return {
      'loss': losses[0],
      'batch': len(self._batches[0]),
      'examples': float(np.mean(num_examples)),
      'facts': {'titles_per_batch': self._inputs.num_titles},
    }

  def items(self) -> None:
    """Encodes titles to rows of the store, by the whole language model."""
    num = min(problem_lib.NUM_ITEMS, len(self._problem['domains']) - 1)
    offsets = self._problem['offsets'][1 : num + 2]
    self._low(self._problem['tokens'][: offsets[-1]], offsets)


@jax.jit
def _top(users, catalogue):
  scores = ranking.scores(users, catalogue)
  return jax.lax.top_k(scores, min(TOP, len(catalogue)))[1]
