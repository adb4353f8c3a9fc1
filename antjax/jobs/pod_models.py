# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Steps of the jobs, as launch/compile_for_pod.py compiles them.

Each is the job's own model, loss and tables at its default settings, over data
of made-up sizes and with batches of their shapes. `lm` is a preset of
`plan_models`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.ctr import tuning
from antjax.ctr.antm2c.fields import FieldConfig
from antjax.ctr.antm2c.model import DataSizes, ScenarioModel
from antjax.ctr.bahe import table as table_lib
from antjax.ctr.bahe.model import (
  BehaviorSizes,
  ClickModel,
  HeadConfig,
  IdConfig,
)
from antjax.ctr.bahe.towers import StoreTower
from antjax.ctr.llm_rec.losses import LossConfig
from antjax.ctr.llm_rec.model import LLMRec, VectorConfig
from antjax.embedding.exchange import Exchange
from antjax.jobs import plan_models
from antjax.jobs import trainer as trainer_lib
from antjax.jobs.plan_models import PlanModel
from antjax.layers import functional
from antjax.lm.split import HighEncoder
from antjax.lm.transformer import Transformer
from antjax.mesh.mesh import group_size, INTRA
from antjax.meta import algorithms, episodes
from antjax.meta import recommender as recommender_lib
from antjax.meta.episode_config import Bucket, EpisodeConfig
from antjax.networks.load import NetworkConfig

_NUM_ROWS = 1_000_000  # Users; items and titles are a tenth.
_HISTORY = 32  # Places of a history.
_NUM_LOW = 2  # Layers of the language model below BAHE's cut.
_LM = plan_models.PRESETS['tiny']


def _shape(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype)


def _ids(num_ids: int, *shape: int) -> np.ndarray:
  """Ids of which a routing is made."""
  rng = np.random.default_rng(num_ids)
  return rng.integers(0, num_ids, shape, np.int32)


def gmeta(mesh: Mesh) -> PlanModel:
  """G-Meta's default algorithm, and the exchange of the tasks' rows."""
  sizes = {'user': _NUM_ROWS, 'item': _NUM_ROWS // 10, 'genres': 1000}
  features = {
    name: {'num_ids': n, 'max_values': 3 if name == 'genres' else 1}
    for name, n in sizes.items()
  }
  made = recommender_lib.build(
    features, recommender_lib.ModelConfig(table_level='global'), mesh
  )
  algorithm = algorithms.ALGORITHMS['default']
  inner = recommender_lib.InnerConfig().loop(algorithm.inner)

  def batch(rows: int, length: int) -> Any:
    del length
    config = EpisodeConfig(buckets=(Bucket(16, rows),), features=made.features)
    empty = episodes.make_batch({}, config)
    ids = jax.tree.map_with_path(
      lambda path, x: _ids(sizes[path[-1].key], *x.shape), empty['ids']
    )
    return empty | {'ids': ids}

  init = made.init_params(inner)
  return PlanModel(
    jax.eval_shape(init, jax.random.key(0)),
    loss_fn=algorithm.loss_fn(made.task_model, inner),
    batch_fn=batch,
    tables=made.tables,
  )


def clicks(mesh: Mesh) -> PlanModel:
  """A click model of ids, numbers and a history, with tables over the pod."""
  sizes = DataSizes(
    num_users=_NUM_ROWS,
    num_items=_NUM_ROWS // 10,
    num_behaviors=_NUM_ROWS // 10,
    num_scenarios=5,
    columns={'city': 400, 'device': 2000},
    numbers={'age': 'linear', 'price': 'autodis'},
    histories=(_HISTORY,),
  )
  model = ScenarioModel('dcnv2', FieldConfig(), NetworkConfig(), sizes)
  tables = model.tables(mesh, 1e-3, _NUM_ROWS)

  def loss(params: Any, rows: Any, batch: Any, rng: Any) -> Any:
    return model.loss(params, tables.lookup(rows, batch['ids']), batch, rng)

  def batch(rows: int, length: int) -> Any:
    del length
    tops = (_NUM_ROWS, *[_NUM_ROWS // 10] * 2, 5, 400, 2000)
    return model.prepare(
      {
        'label': np.zeros(rows, np.float32),
        'weight': np.ones(rows, np.float32),
        'numeric': np.zeros((rows, 2), np.float32),
        'ids': np.stack([_ids(n, rows) for n in tops], axis=1),
        'history': _ids(_NUM_ROWS // 10, rows, 1, _HISTORY),
      }
    )

  return PlanModel(
    jax.eval_shape(model.init_params, jax.random.key(0)),
    loss_fn=loss,
    batch_fn=batch,
    tables=tables,
    mutable=model.mutable.__contains__ if model.mutable else None,
  )


def bahe(mesh: Mesh) -> PlanModel:
  """BAHE over a store of behaviors that is split over a group's devices."""
  num, owners = _NUM_ROWS, group_size(mesh)
  sizes = BehaviorSizes(
    history_lengths=(_HISTORY,),
    num_users=_NUM_ROWS,
    num_items=_NUM_ROWS // 10,
    num_behaviors=num,
  )
  rows_per_device = -(-num // owners)
  table = jax.ShapeDtypeStruct(
    (owners * rows_per_device, _LM.embed_dim),
    jnp.bfloat16,
    sharding=NamedSharding(mesh, P(INTRA)),
  )

  def model(rngs: nnx.Rngs, max_distinct: int = 1) -> ClickModel:
    lm = Transformer(_LM, rngs=rngs)
    capacity = -(-5 * max_distinct // (4 * owners))  # As `table.place`.
    home = table_lib.SplitTable(
      {'behavior_rows': table},
      Exchange((INTRA,), owners, rows_per_device, max(1, capacity)),
      max_distinct,
    )
    tower = StoreTower(HighEncoder(lm, _NUM_LOW, 0), 1, home)
    return ClickModel(tower, HeadConfig(), IdConfig(), sizes, rngs=rngs)

  shapes = nnx.eval_shape(lambda: model(nnx.Rngs(0)))
  tables = shapes.tables(mesh)
  assert tables is not None

  def loss(params: Any, rows: Any, batch: Any, rng: Any) -> Any:
    del rng
    most = batch['behavior_positions'].shape[0]
    made = functional.Functional(lambda rngs: model(rngs, most))
    vectors = tables.lookup(rows, batch['ids'])
    return made.merge(params).loss(batch, vectors)

  def batch(rows: int, length: int) -> Any:
    del length
    # As of micro-batches of one row, whose distinct behaviors never exceed it.
    most = table_lib.most_distinct(1, sizes.history_lengths)
    history = _ids(num, rows, 1, _HISTORY)
    title = _ids(num, rows)
    positions = _shape(rows * most, dtype=jnp.int32)
    return {
      'label': _shape(rows),
      'weight': _shape(rows),
      'behaviors': _shape(rows, 1, _HISTORY, dtype=jnp.int32),
      'title': _shape(rows, dtype=jnp.int32),
      'is_there': _shape(rows, 1, _HISTORY, dtype=jnp.bool_),
      'behavior_positions': positions,
      'behavior_halvings': _shape(rows, dtype=jnp.int32),
      'ids': {
        'user': _ids(_NUM_ROWS, rows),
        'item': _ids(_NUM_ROWS // 10, rows),
        'title': title,
        'history': history,
      },
    }

  return PlanModel(
    functional.params_of(shapes),
    scanned=trainer_lib.is_stack,
    trainable=tuning.trainable('full'),
    loss_fn=loss,
    batch_fn=batch,
    tables=tables,
    constants={'behavior_rows': table},
    stack_runs=2,  # Histories, and titles.
  )


def llm_rec(mesh: Mesh) -> PlanModel:
  """LLM-Rec: packed texts of users and of distinct items."""
  del mesh
  loss_config = LossConfig()
  num_drawn = loss_config.num_negatives

  def model(rngs: nnx.Rngs) -> LLMRec:
    lm = Transformer(_LM, rngs=rngs)
    return LLMRec(lm, 'last', VectorConfig(), loss_config, rngs=rngs)

  made = functional.Functional(model)

  def batch(rows: int, length: int) -> Any:
    # A user's texts fill a row, the items' titles fit into one of 64 tokens.
    texts = rows * (2 + num_drawn)

    def lane(width: int) -> Any:
      return [_shape(rows, width, dtype=jnp.int32)] * 2

    return {
      'lanes': [lane(length), lane(64)],
      'starts': _shape(texts, dtype=jnp.int32),
      'lengths': _shape(texts, dtype=jnp.int32),
      'target': _shape(rows, dtype=jnp.int32),
      'negatives': _shape(rows, num_drawn, dtype=jnp.int32),
      'weight': _shape(rows),
    }

  return PlanModel(
    jax.eval_shape(made.init, jax.random.key(0)),
    scanned=trainer_lib.is_stack,
    trainable=tuning.trainable('full'),
    loss_fn=lambda params, batch, rng: made.merge(params).loss(batch),
    batch_fn=batch,
  )


JOBS: Mapping[str, Callable[[Mesh], PlanModel]] = {
  'gmeta': gmeta,
  'clicks': clicks,
  'bahe': bahe,
  'llm_rec': llm_rec,
}
