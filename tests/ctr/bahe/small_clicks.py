# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A few made-up clicks and a tiny language model, for tests."""

from flax import nnx
import jax
import numpy as np

from antjax.ctr.bahe import batches, model, table, towers
from antjax.layers.functional import Functional
from antjax.lm import split, transformer
from antjax.lm.transformer import Transformer

NUM_BEHAVIORS = 40
LENGTHS = (6, 4)
MAX_LENGTH = max(LENGTHS)
SIZES = model.BehaviorSizes(
  num_users=9,
  num_items=12,
  num_behaviors=NUM_BEHAVIORS,
  columns={'genre': 5},
  num_numeric=2,
  history_lengths=LENGTHS,
)
_SIZES = {
  'vocab_size': 31,
  'num_layers': 3,
  'embed_dim': 16,
  'num_heads': 2,
  'num_kv_heads': 2,
  'mlp_dim': 24,
  'remat': 'none',
}
LLAMA = transformer.Config(**_SIZES)
BERT = transformer.Config(
  **_SIZES,
  causal=False,
  positions='learned',
  max_positions=12,
  norm='layer',
  norm_place='post',
  embed_norm=True,
  token_types=2,
  qkv_bias=True,
  out_bias=True,
  mlp_bias=True,
  gated_mlp=False,
  activation='gelu',
)


def language_model(config=LLAMA, seed=0):
  """Its parameters, scaled so that layers matter."""
  params = Functional(Transformer, config).init(jax.random.key(seed))
  return jax.tree.map(lambda x: x * 4 if x.ndim > 2 else x, params)


def events():
  """Two flat arrays of behaviors from 1 on."""
  rng = np.random.default_rng(1)
  return [rng.integers(1, NUM_BEHAVIORS, 50).astype(np.int32) for _ in range(2)]


def records(num, seed=2):
  """Clicks whose histories are empty, short, and longer than the model's."""
  rng = np.random.default_rng(seed)
  for i in range(num):
    length = np.array([[0, 3, 9][i % 3], [2, 0, 7][i % 3]])
    start = rng.integers(0, 40, 2)
    yield {
      'user': rng.integers(0, 9),
      'item': rng.integers(0, 12),
      'title': rng.integers(1, NUM_BEHAVIORS),
      'label': float(rng.integers(0, 2)),
      'starts': start,
      'stops': start + length,
      'ids': np.array([rng.integers(0, 5)]),
      'numeric': rng.normal(size=2).astype(np.float32),
      'is_new_user': bool(i % 2),
      'is_new_item': bool(i % 3),
    }


def batch(num=16, size=None, seed=2):
  found = list(records(num, seed))
  columns = {name: np.stack([r[name] for r in found]) for name in found[0]}
  return batches.make_batch(columns, events(), LENGTHS, size=size)


def vectors(dim=16):
  """What a store would hold."""
  rng = np.random.default_rng(5)
  return rng.normal(size=(NUM_BEHAVIORS, dim)).astype(np.float32)


def whole(config=LLAMA):
  return Transformer.of(config, language_model(config))


def high(config=LLAMA, num_low=1):
  places = MAX_LENGTH + 1 if config.positions == 'learned' else 0
  return split.HighEncoder(whole(config), num_low, places)


def encoder(config=LLAMA, num_low=1, **options):
  return towers.SequenceEncoder(high(config, num_low), len(LENGTHS), **options)


def store_tower(table, **options):
  return towers.StoreTower(high(), len(LENGTHS), table, **options)


def dedup_tower(cache, capacity, config=LLAMA, num_low=1):
  return towers.DedupTower(
    split.LowEncoder(whole(config), num_low),
    high(config, num_low),
    len(LENGTHS),
    cache,
    capacity=capacity,
    num_tokens=5,
  )


def place(mesh, home, examples, **options):
  """The table of `vectors` for micro-batches of `examples` a device."""
  distinct = table.most_distinct(examples, LENGTHS)
  found, _ = table.place(
    vectors(), mesh, home=home, max_distinct=distinct, **options
  )
  return found


def click_model(tower, kind='dnn', sizes=SIZES, **ids):
  head = model.HeadConfig(
    kind=kind, widths=(8,), attention_widths=(4,), cross_rank=3
  )
  return model.ClickModel(
    tower,
    head,
    model.IdConfig(embedding_dim=4, **ids),
    sizes,
    rngs=nnx.Rngs(1),
  )


def store_model(mesh, home='device', examples=2, kind='dnn', **options):
  tower = store_tower(place(mesh, home, examples), **options)
  return click_model(tower, kind)
