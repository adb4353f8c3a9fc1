# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meta-learning on the keys of a vocabulary equals that on its ids."""

import jax
import numpy as np
import optax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adagrad
from antjax.embedding.table import EmbeddingTables
from antjax.embedding.vocabulary import Vocabulary, VocabularyConfig
from antjax.mesh.mesh import make_mesh
from antjax.meta import episode_config, episodes, maml, meta_io, meta_loss
from antjax.train.trainer import Trainer
from tests.meta import small_tasks

NUM_IDS = small_tasks.NUM_IDS | {'item': 10}  # 0 stands for no key.
INNER = maml.InnerLoop(adapt='all', learning_rate=0.03, order=1)


def make_trainer(**options):
  tables = EmbeddingTables(
    [
      TableSpec(name, num_ids, small_tasks.DIM, 'global', Adagrad(0.1))
      for name, num_ids in NUM_IDS.items()
    ],
    {name: name for name in NUM_IDS},
    mesh=make_mesh(intra=1, devices=jax.devices()[:1]),
  )
  model, params, _ = small_tasks.make_model(tables=tables)
  loss_fn = meta_loss.meta_loss_fn(model, INNER)
  trainer = Trainer(
    loss_fn, optax.sgd(0.1), mesh=tables.mesh, tables=tables, **options
  )
  return trainer, trainer.init(params)


def make_batch(item_fn, **options):
  """The small tasks, their items changed."""
  records = [
    {**record, 'item': item_fn(record['item'])}
    for record in small_tasks.make_records()
  ]
  config = episode_config.EpisodeConfig(
    buckets=(episode_config.Bucket(8, 4),),
    features=small_tasks.FEATURES,
    query_size=3,
    **options,
  )
  (batch,) = meta_io.iter_episode_batches(records, config)
  return episodes.with_task_rows(batch)


def keys_of(item):
  return (7 - item) * 2**40 + 2**50  # Beyond int32, in another order.


@pytest.mark.slow
def test_episodes_of_keys_are_learned_as_those_of_their_ids():
  vocabulary = Vocabulary(VocabularyConfig(num_ids=NUM_IDS['item']))
  keyed, state = make_trainer(vocabularies={'item': vocabulary})
  plain, other = make_trainer()
  for _ in range(2):
    batch = make_batch(keys_of, with_keys=True)
    state, metrics = keyed.step(state, batch)
    lookup = keyed.vocabularies['item'].lookup
    batch = make_batch(lambda item, lookup=lookup: lookup(keys_of(item)))
    other, expected = plain.step(other, batch)
    np.testing.assert_allclose(metrics['loss'], expected['loss'], rtol=1e-6)
  used = lookup(keys_of(np.arange(small_tasks.NUM_IDS['item'])))
  assert len(set(used)) > 5 and not np.array_equal(used, np.sort(used))
  for mine, same in zip(
    jax.tree.leaves((state.params, state.tables)),
    jax.tree.leaves((other.params, other.tables)),
    strict=True,
  ):
    np.testing.assert_allclose(mine, same, rtol=1e-5, atol=1e-6)
