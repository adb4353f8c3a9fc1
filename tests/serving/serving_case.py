# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A small recommender, batches for it, and the trainer's own predictions."""

import dataclasses

import jax
import numpy as np

from antjax.mesh.mesh import make_mesh
from antjax.meta import episode_config, episodes, maml, meta_io, meta_loss
from antjax.meta import recommender as recommender_lib
from antjax.serving import functions as serving
from antjax.train import predict
from antjax.train.optimizer import OptimizerConfig

FEATURES = {
  'gender': {'num_ids': 3, 'max_values': 1},
  'item': {'num_ids': 40, 'max_values': 1},
  'genres': {'num_ids': 9, 'max_values': 3},
}
SUPPORT_SIZES = (4, 8)
QUERY_SIZE = 4
TITLES = np.array([f'Amélie {i}' for i in range(1, 40)])


class Case:
  """A recommender and its state."""

  def __init__(
    self,
    kind='dlrm',
    adapt='decision',
    num_items=40,
    seed=0,
    inner=None,
    numeric=(),
    **options,
  ):
    features = FEATURES | {'item': {'num_ids': num_items, 'max_values': 1}}
    config = recommender_lib.ModelConfig(
      kind=kind,
      embedding_dim=8,
      widths=(16,),
      embedding_dims=('gender=4',) if kind == 'dlrm' else (),
      table_level='global',
      **options,
    )
    self.recommender = recommender_lib.build(
      features,
      config,
      make_mesh(intra=1, devices=jax.devices()[:1]),
      num_numeric=len(numeric),
    )
    self.numeric = numeric
    self.inner = inner or maml.InnerLoop(
      adapt=adapt, num_steps=2, learning_rate=0.1, learn_rates=True
    )
    self.has_task_rows = self.inner.adapt == 'all'
    self.trainer = self.recommender.trainer(
      meta_loss.meta_loss_fn(self.recommender.task_model, self.inner),
      OptimizerConfig().build(10),
      min_shard_size=64,
    )
    state = self.trainer.init(
      self.recommender.init_params(self.inner), seed=seed
    )
    # As if trained: rows are told apart.
    self.state = dataclasses.replace(
      state, tables=jax.tree.map(lambda x: 10 * x, state.tables)
    )

  def batches(self, num_tasks=8, seed=0, first_item=0):
    rng = np.random.default_rng(seed)
    num_items = self.recommender.tables.specs['item'].num_embeddings

    def record(task):
      n = int(rng.integers(QUERY_SIZE + 2, QUERY_SIZE + 9))
      genres = rng.integers(0, 9, (n, 3))
      genres[:, 1:][rng.random((n, 2)) < 0.5] = -1
      return {
        'task': task,
        'num_query': QUERY_SIZE,
        'gender': int(rng.integers(0, 3)),
        'item': rng.integers(first_item, num_items, n),
        'genres': genres,
        'rating': rng.integers(1, 6, n).astype(np.float32),
        **{name: rng.normal(size=n) for name in self.numeric},
      }

    config = episode_config.EpisodeConfig(
      buckets=tuple(episode_config.Bucket(s, 4) for s in SUPPORT_SIZES),
      features=self.recommender.features,
      numeric=self.numeric,
      query_size=QUERY_SIZE,
      min_support=1,
    )
    records = [record(task) for task in range(num_tasks)]
    for batch in meta_io.iter_episode_batches(records, config):
      yield episodes.with_task_rows(batch) if self.has_task_rows else batch

  def predictions(self, batches, inner=None):
    """The trainer's: one dict of columns a batch, [tasks * rows]."""
    fn = predict.make_predict(
      self.trainer.step_spec(),
      meta_loss.predict_fn(self.recommender.task_model, inner or self.inner),
    )
    return [
      jax.tree.map(np.asarray, fn(self.state, self.trainer.step_inputs(b))[0])
      for b in batches
    ]

  def exported(self, vocabularies=None, **info):
    return serving.exported(
      self.recommender,
      self.inner,
      self.trainer.params(self.state),
      serving.table_rows(self.recommender.tables, self.state.tables),
      vocabularies={'item': (TITLES, np.arange(1, 40))} | (vocabularies or {}),
      support_sizes=SUPPORT_SIZES,
      query_size=QUERY_SIZE,
      numeric=self.numeric,
      info=info,
    )


def loader_inputs(case, seed=0):
  """What a loader is to be asked, for each bucket, and the trainer's answer."""
  columns = case.predictions(case.batches(seed=seed))
  # Ids as they were before with_task_rows.
  has_task_rows, case.has_task_rows = case.has_task_rows, False
  batches = list(case.batches(seed=seed))
  case.has_task_rows = has_task_rows
  asked = []
  for batch, column in zip(batches, columns, strict=True):
    start = 0
    for bucket, parts in batch['ids'].items():
      episode = batch['episodes'][bucket]
      tasks, rows = episode['query']['label'].shape
      numeric = {
        part: {
          name: episode[part]['numeric'][..., i]
          for i, name in enumerate(case.numeric)
        }
        for part in ('support', 'query')
      }
      stop = start + tasks * rows
      asked.append(
        {
          'support': parts['support'] | numeric['support'],
          'labels': episode['support']['label'],
          'mask': episode['support']['mask'],
          'query': parts['query'] | numeric['query'],
          'shown': column['weight'][start:stop].reshape(tasks, rows) > 0,
          'expected': {
            name: x[start:stop].reshape(tasks, rows)
            for name, x in column.items()
            if name in ('prediction', 'median')
          },
        }
      )
      start = stop
  return asked
