# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax's side of `benchmarks.bahe_bench`: three forms of one click model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from antjax.ctr.bahe import encode, table
from antjax.ctr.bahe.full_text import FullTextTower
from antjax.ctr.bahe.towers import (
  DedupTower,
  StoreTower,
  Tower,
)
from antjax.ctr.texts import Marks
from antjax.layers import functional
from antjax.lm import Config, pretrained, Transformer
from antjax.lm.split import HighEncoder, LowEncoder
from antjax.plan import lm_cost
from benchmarks import bahe_bench, harness, machine

_PAD = 1  # Row 0 of our tables is padding.


class Tokens:
  """A TokenCache of an array whose rows have one length."""

  def __init__(self, tokens: np.ndarray):
    self.tokens = tokens.reshape(-1)
    width = tokens.shape[1]
    self.offsets = np.concatenate([[0], np.arange(len(tokens) + 1) * width])
    self._rows = np.pad(tokens, ((_PAD, 0), (0, 0)))

  def padded(
    self, ids: np.ndarray, num_tokens: int
  ) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.where(ids > 0, num_tokens, 0).astype(np.int32)
    return self._rows[ids, :num_tokens], lengths


class Form:
  """Training of one form."""

  def __init__(
    self,
    form: str,
    case: dict[str, Any],
    folder: str,
    problem: str,
    remat: str,
    is_quick: bool,
  ):
    """Reads the model and compiles; the problem is from `bahe_bench.make`."""
    self._form, self._folder, self._is_quick = form, folder, is_quick
    config, params = pretrained.load_pretrained(folder)
    self.config = dataclasses.replace(config, remat=remat)
    lm = Transformer.of(self.config, params)
    self._case = bahe_bench.Case(**case)
    self._problem = harness.load(problem)
    self._num_low = config.num_layers // 2
    self._cache = Tokens(self._problem['tokens'])
    self._tower = self._make_tower(form, lm)
    self._merge, tower_params = functional.split(self._tower)
    # Frozen parameters keep their dtype and have no moments.
    low = tower_params.pop('low', {})
    self._dtype = jnp.dtype(self._case.dtype)
    self._frozen = jax.tree.map(lambda x: x.astype(self._dtype), low)
    self._params = {
      'tower': tower_params,
      'head': {k: jnp.asarray(self._problem[k]) for k in bahe_bench.HEAD},
    }
    self._optimizer = optax.adamw(bahe_bench.LEARNING_RATE, weight_decay=0.01)
    self._moments = jax.jit(self._optimizer.init)(self._params)
    self._sum = jax.tree.map(jnp.zeros_like, self._params)
    self.num_examples = len(self._problem['label'])
    self._batch = self._prepared(self.num_examples)
    self._gradient = self._compiled(self._batch)
    self._update = jax.jit(self._updated, donate_argnums=(0, 1, 2))

  def _make_tower(self, form: str, lm: Transformer) -> Tower:
    case, config = self._case, self.config
    width = bahe_bench.TOKENS_PER_BEHAVIOR
    if form == 'full_text':
      return FullTextTower(
        lm, 1, case.text_length, width, Marks(()), self._cache
      )
    places = case.num_behaviors if config.positions == 'learned' else 0
    high = HighEncoder(lm, self._num_low, places)
    if form == 'dedup':
      ids = self._problem['behaviors'], self._problem['title'][:, None]
      distinct = len(np.unique(np.concatenate(ids, axis=1)))
      low = LowEncoder(lm, self._num_low)
      sizes = {'capacity': distinct + _PAD, 'num_tokens': width}
      return DedupTower(low, high, 1, self._cache, **sizes)
    rng = np.random.default_rng(0)
    shape = (bahe_bench.NUM_BEHAVIORS + _PAD, config.embed_dim)
    rows = jnp.asarray(rng.normal(size=shape), case.dtype)
    return StoreTower(high, 1, table.DeviceTable({'behavior_rows': rows}))

  def _prepared(self, num_examples: int) -> dict[str, Any]:
    places = np.arange(num_examples) % self.num_examples
    batch = {
      'behaviors': self._problem['behaviors'][places, None] + _PAD,
      'title': self._problem['title'][places] + _PAD,
    }
    found = self._tower.prepare(batch, 1)
    if isinstance(self._tower, StoreTower):
      found['constants'] = self._tower.table.constants
    found['label'] = self._problem['label'][places]
    return jax.device_put(found)

  def _loss(self, params, frozen, batch):
    compute = jax.tree.map(lambda x: x.astype(self._dtype), params)
    tower = compute['tower'] | ({'low': frozen} if frozen else {})
    encoded = self._merge(tower)(batch)
    head = compute['head']
    x = jnp.concatenate([encoded.user_BF, encoded.title_BD], axis=1)
    x = jax.nn.relu(x @ head['w0'] + head['b0'][None])
    logits = (x @ head['w1'])[:, 0] + head['b1'][0]
    return optax.sigmoid_binary_cross_entropy(
      logits.astype(jnp.float32), batch['label']
    ).mean()

  def _compiled(self, batch):
    def gradient(total, params, frozen, batch):
      loss, grads = jax.value_and_grad(self._loss)(params, frozen, batch)
      return jax.tree.map(jnp.add, total, grads), loss

    return (
      jax.jit(gradient, donate_argnums=0)
      .lower(self._sum, self._params, self._frozen, batch)
      .compile()
    )

  def _updated(self, params, moments, total):
    updates, moments = self._optimizer.update(total, moments, params)
    params = optax.apply_updates(params, updates)
    return params, moments, jax.tree.map(jnp.zeros_like, total)

  def gradient(self) -> float:
    """Adds a micro-batch's gradient; returns the loss."""
    self._sum, loss = self._gradient(
      self._sum, self._params, self._frozen, self._batch
    )
    return float(jax.block_until_ready((self._sum, loss))[1])

  def update(self) -> None:
    """Runs the optimizer."""
    state = self._update(self._params, self._moments, self._sum)
    self._params, self._moments, self._sum = jax.block_until_ready(state)

  def _bytes_per_example(self) -> float:
    """Memory planned by the compiler for one more example of a micro-batch.

    Computed as a difference of two sizes, so memory that does not grow with
    examples, such as a gradient before it is added, does not count.
    """
    two = self._compiled(self._prepared(2 * self.num_examples))
    sizes = [
      x.memory_analysis().temp_size_in_bytes for x in (self._gradient, two)
    ]
    return (sizes[1] - sizes[0]) / self.num_examples

  def warm_up(self) -> dict[str, Any]:
    """Runs once; returns facts about the form."""
    dtype = self._case.dtype
    size = 128 if self._is_quick else 2048
    facts = {
      'peak_flops': machine.matmul_flops_per_s(dtype, size),
      'flops': self._flops_per_example(),
      'bytes': self._bytes_per_example(),
      'loss': self.gradient(),
      'num_examples': self.num_examples,
    }
    if self._form == 'bahe':
      facts['behaviors_per_s'] = self._behaviors_per_s()
    self.update()
    return facts

  def _behaviors_per_s(self, num_calls: int = 2) -> float:
    """Behaviors per second of the low half, without the first call."""
    tokens = self._problem['tokens'][: 64 if self._is_quick else 2048]
    encoder = encode.Encoder(
      pretrained.load(self._folder, dtype=self._dtype),
      num_low=self._num_low,
      max_tokens=tokens.shape[1],
    )
    offsets = np.arange(len(tokens) + 1) * tokens.shape[1]
    encoder(tokens.reshape(-1), offsets)
    seconds, _ = harness.timed_block(
      lambda: encoder(tokens.reshape(-1), offsets), 0.0, num_calls
    )
    return len(tokens) / min(seconds)

  def _flops_per_example(self) -> float:
    """FLOPs of forward and backward pass without recomputation, with title."""
    case, width = self._case, bahe_bench.TOKENS_PER_BEHAVIOR
    if isinstance(self._tower, FullTextTower):
      return _flops(self.config, case.text_length) + _flops(self.config, width)
    high = dataclasses.replace(
      self.config, num_layers=self.config.num_layers - self._num_low
    )
    total = _flops(high, case.num_behaviors) + _flops(high, 1)
    if isinstance(self._tower, DedupTower):
      low = dataclasses.replace(self.config, num_layers=self._num_low)
      # Forward pass only.
      total += self._tower.capacity * _flops(low, width) / 3 / self.num_examples
    return total


def _flops(config: Config, num_tokens: int) -> float:
  """FLOPs of one text through the layers."""
  total = lm_cost.flops_per_token(config, num_tokens)
  if config.causal:  # No output layer here.
    total -= 6.0 * config.embed_dim * config.vocab_size
  return total * num_tokens
