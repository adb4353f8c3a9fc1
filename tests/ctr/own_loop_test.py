# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""BAHE and LLM-Rec as modules in a loop that knows nothing of antjax."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.ctr.bahe.model import (
  BehaviorSizes,
  ClickModel,
  HeadConfig,
  IdConfig,
)
from antjax.ctr.bahe.towers import DedupTower
from antjax.ctr.llm_rec.model import LLMRec, VectorConfig
from antjax.layers.functional import params_of
from antjax.lm import Config, Transformer
from antjax.lm.split import HighEncoder, LowEncoder

CONFIG = Config(
  vocab_size=23,
  num_layers=2,
  embed_dim=16,
  num_heads=2,
  num_kv_heads=2,
  mlp_dim=24,
  remat='none',
)


def train(model, batch, loss_fn, num_steps=8):
  """Somebody else's loop; (losses, parameters that moved and that did not)."""
  before = jax.tree.map(np.asarray, params_of(model))
  optimizer = nnx.Optimizer(model, optax.adam(0.02), wrt=nnx.Param)

  @nnx.jit
  def step(model, optimizer, batch):
    loss, grads = nnx.value_and_grad(loss_fn)(model, batch)
    optimizer.update(model, grads)
    return loss

  losses = [float(step(model, optimizer, batch)) for _ in range(num_steps)]
  changed = jax.tree.map(
    lambda a, b: bool((np.asarray(a) != b).any()), params_of(model), before
  )
  moved = {True: set(), False: set()}
  for path, is_moved in jax.tree.leaves_with_path(changed):
    moved[is_moved].add(jax.tree_util.keystr(path, simple=True, separator='.'))
  return losses, moved


@pytest.mark.slow
def test_bahe():
  lm = Transformer(CONFIG, rngs=nnx.Rngs(0))
  model = ClickModel(
    DedupTower(LowEncoder(lm, 1), HighEncoder(lm, 1), num_sequences=1),
    HeadConfig(widths=(8,)),
    IdConfig(use=()),
    BehaviorSizes(history_lengths=(3,)),
    rngs=nnx.Rngs(1),
  )
  rng = np.random.default_rng(0)
  history = rng.integers(0, 6, (8, 1, 3))
  batch = {
    'distinct_tokens': rng.integers(1, 23, (6, 4)),  # 6 behaviors.
    'distinct_lengths': np.array([0, 4, 2, 3, 1, 4]),  # The first is padding.
    'behaviors': history,  # Which of them, oldest first.
    'is_there': history > 0,
    'title': rng.integers(1, 6, 8),
    'label': rng.integers(0, 2, 8).astype(np.float32),
    'weight': np.ones(8, np.float32),
  }
  losses, moved = train(model, batch, lambda m, batch: m.loss(batch)[0].mean())
  assert losses[-1] < 0.9 * losses[0]
  low = {name for name in moved[False] if name.startswith('tower.low.')}
  assert low and moved[False] - low <= {'tower.null'}  # No history is empty.
  _, trained, frozen = nnx.split(model, nnx.Param, ...)
  assert set(trained['tower']) == {'high', 'null'}
  assert set(frozen) == {'tower'} and set(frozen['tower']) == {'low'}


@pytest.mark.slow
def test_llm_rec():
  lm = Transformer(CONFIG, rngs=nnx.Rngs(0))
  vector = VectorConfig(projection_dim=8, normalize=True)
  model = LLMRec(lm, 'last', vector, rngs=nnx.Rngs(1))
  rng = np.random.default_rng(0)
  batch = [
    (rng.integers(1, 23, (8, 6)), rng.integers(1, 7, 8))
    for _ in range(2)  # Histories, and the item that each user took.
  ]

  def loss_fn(model, batch):
    scores_BB = 10 * model(*batch)
    own = jnp.arange(len(scores_BB))
    return optax.softmax_cross_entropy_with_integer_labels(
      scores_BB, own
    ).mean()

  losses, moved = train(model, batch, loss_fn)
  assert losses[-1] < 0.8 * losses[0]
  assert {'lm.embed', 'head.projection.kernel'} <= moved[True]
