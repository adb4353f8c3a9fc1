# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Steps of the jobs, as launch/compile_for_pod.py compiles them.

Each is the job's own model, loss and tables at its default settings, over data
of made-up sizes (of `dlrm`, MLPerf's) and with batches of made-up values, which
launch/accelerator_check.py runs. `lm` is a preset of `plan_models`.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.ctr import tuning
from antjax.ctr.antm2c.data_sizes import DataSizes
from antjax.ctr.antm2c.fields import FieldConfig
from antjax.ctr.antm2c.model import ScenarioModel
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
from antjax.jobs.clicks import dlrm as click_dlrm
from antjax.jobs.clicks.make_criteo import NUM_ROWS, NUM_VALUES
from antjax.jobs.plan_models import PlanModel
from antjax.layers import functional
from antjax.lm.split import HighEncoder
from antjax.lm.transformer import Transformer
from antjax.mesh.mesh import group_size, INTRA
from antjax.meta import algorithms, episodes
from antjax.meta import recommender as recommender_lib
from antjax.meta.episode_config import Bucket, EpisodeConfig
from antjax.networks.load import NetworkConfig
from antjax.plan import lm_cost, pod_target

_HISTORY = 32  # Places of a history.
_NUM_LOW = 2  # Layers of the language model below BAHE's cut.
_LM = plan_models.PRESETS['tiny']


@dataclasses.dataclass(frozen=True)
class MadeUpData:
  """Sizes of the made-up data."""

  num_rows: int = 1_000_000  # Users, or behaviors; items are a tenth.
  rows: int = 1  # Rows in a device's micro-batch of the batches' values.


_SIZES, _MLPERF = MadeUpData(), MadeUpData(max(NUM_ROWS))


def prepare(target: pod_target.Target) -> None:
  """Makes JAX compile for a pod without looking for one; before any array.

  Raises:
    RuntimeError: There is no libtpu, and it takes one.
  """
  jax.config.update('jax_platforms', 'cpu')
  if target.is_gpu:
    return
  if not pod_target.is_installed('libtpu'):
    raise RuntimeError(
      'compile_for_pod needs the TPU compiler, which is not installed: pip'
      ' install libtpu (or antjax[pod]); no TPU is needed.'
    )
  # libtpu looks for a TPU machine's metadata otherwise, for minutes.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
  # It only compiles here: another process may do so too.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')


def _ids(num_ids: int, *shape: int) -> np.ndarray:
  """Ids of which a routing is made."""
  rng = np.random.default_rng(num_ids)
  return rng.integers(0, num_ids, shape, np.int32)


def gmeta(mesh: Mesh, of: MadeUpData = _SIZES) -> PlanModel:
  """G-Meta's default algorithm, and the exchange of the tasks' rows."""
  sizes = {'user': of.num_rows, 'item': of.num_rows // 10, 'genres': 1000}
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
    # Every place of a slot is taken, where an empty one has weight 0.
    full = jax.tree.map(
      lambda x: np.ones_like(x) if x.dtype == np.float32 else x, empty
    )
    return full | {'ids': ids}

  init = made.init_params(inner)
  return PlanModel(
    jax.eval_shape(init, jax.random.key(0)),
    init_fn=init,
    loss_fn=algorithm.loss_fn(made.task_model, inner),
    batch_fn=batch,
    tables=made.tables,
  )


def clicks(mesh: Mesh, of: MadeUpData = _SIZES) -> PlanModel:
  """A click model of ids, numbers and a history, with tables over the pod."""
  sizes = DataSizes(
    num_users=of.num_rows,
    num_items=of.num_rows // 10,
    num_behaviors=of.num_rows // 10,
    num_scenarios=5,
    columns={'city': 400, 'device': 2000},
    numbers={'age': 'linear', 'price': 'autodis'},
    histories=(_HISTORY,),
  )
  model = ScenarioModel('dcnv2', FieldConfig(), NetworkConfig(), sizes)
  tops = (of.num_rows, *[of.num_rows // 10] * 2, 5, 400, 2000)
  return _of_clicks(
    *(model, mesh, tops),
    lambda rows: {'history': _ids(of.num_rows // 10, rows, 1, _HISTORY)},
  )


def dlrm(mesh: Mesh, of: MadeUpData = _MLPERF) -> PlanModel:
  """MLPerf's DLRM v2 whole: 204 million rows x 128, 214 values an example."""
  config = click_dlrm.Config()
  tables = {
    f'C{i}': (min(size, of.num_rows), most)
    for i, (size, most) in enumerate(zip(NUM_ROWS, NUM_VALUES, strict=True))
  }
  columns = {n: size for n, (size, most) in tables.items() if most == 1}
  bags = {n: found for n, found in tables.items() if n not in columns}
  sizes = DataSizes(
    num_users=1,
    num_items=1,
    num_behaviors=1,
    num_scenarios=1,
    columns=columns,
    numbers={f'I{i}': 'dense' for i in range(13)},
    bags={n: (size, 'sum') for n, (size, _) in bags.items()},
  )
  model = ScenarioModel(config.model, config.fields, config.network, sizes)
  return _of_clicks(
    *(model, mesh, (1, 1, 1, 1, *columns.values())),
    lambda rows: {f'bag_{n}': _ids(x[0], rows, x[1]) for n, x in bags.items()},
  )


def _of_clicks(
  model: ScenarioModel,
  mesh: Mesh,
  tops: Sequence[int],
  more: Callable[[int], Mapping[str, np.ndarray]],
) -> PlanModel:
  """A click model whose id columns have so many ids, and what they are with."""
  tables = model.tables(mesh, 1e-3, num_examples=1)

  def loss(params: Any, rows: Any, batch: Any, rng: Any) -> Any:
    return model.loss(params, tables.lookup(rows, batch['ids']), batch, rng)

  def batch(rows: int, length: int) -> Any:
    del length
    numbers = np.zeros((rows, len(model.data.numbers)), np.float32)
    return model.prepare(
      {
        'label': np.arange(rows, dtype=np.float32) % 2,
        'weight': np.ones(rows, np.float32),
        'numeric': numbers,
        'ids': np.stack([_ids(n, rows) for n in tops], axis=1),
        **more(rows),
      }
    )

  return PlanModel(
    jax.eval_shape(model.init_params, jax.random.key(0)),
    init_fn=model.init_params,
    loss_fn=loss,
    batch_fn=batch,
    tables=tables,
    mutable=model.mutable.__contains__ if model.mutable else None,
  )


def bahe(mesh: Mesh, of: MadeUpData = _SIZES) -> PlanModel:
  """BAHE over a store of behaviors that is split over a group's devices."""
  num, owners = of.num_rows, group_size(mesh)
  sizes = BehaviorSizes(
    history_lengths=(_HISTORY,),
    num_users=num,
    num_items=num // 10,
    num_behaviors=num,
  )
  rows_per_device = -(-num // owners)
  table = jax.ShapeDtypeStruct(
    (owners * rows_per_device, _LM.embed_dim),
    jnp.bfloat16,
    sharding=NamedSharding(mesh, P(INTRA)),
  )

  def home(max_distinct: int) -> table_lib.SplitTable:
    capacity = -(-5 * max_distinct // (4 * owners))  # As `table.place`.
    ex = Exchange((INTRA,), owners, rows_per_device, max(1, capacity))
    return table_lib.SplitTable({'behavior_rows': table}, ex, max_distinct)

  def model(rngs: nnx.Rngs, max_distinct: int = 1) -> ClickModel:
    lm = Transformer(_LM, rngs=rngs)
    tower = StoreTower(HighEncoder(lm, _NUM_LOW, 0), 1, home(max_distinct))
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
    most = table_lib.most_distinct(of.rows, sizes.history_lengths)
    history, title = _ids(num, rows, 1, _HISTORY), _ids(num, rows)
    found = {
      'label': np.arange(rows, dtype=np.float32) % 2,
      'weight': np.ones(rows, np.float32),
      'behaviors': history,
      'title': title,
      'is_there': np.ones((rows, 1, _HISTORY), np.bool_),
    }
    return home(most).prepare(found, rows // of.rows) | {
      'ids': {
        'user': _ids(num, rows),
        'item': _ids(num // 10, rows),
        'title': title,
        'history': history,
      }
    }

  return PlanModel(
    functional.params_of(shapes),
    init_fn=functional.Functional(model).init,
    scanned=trainer_lib.is_stack,
    trainable=tuning.trainable('full'),
    loss_fn=loss,
    batch_fn=batch,
    tables=tables,
    constants={'behavior_rows': table},
  )


def llm_rec(mesh: Mesh, of: MadeUpData = _SIZES) -> PlanModel:
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
    num, num_items = of.rows, 1 + num_drawn  # Of a micro-batch; of a user.
    title, places = 64 // num_items, np.arange(num)
    texts = np.arange(num * num_items)
    starts = (
      num * length + 64 * (texts // num_items) + texts % num_items * title
    )
    row = np.arange(64)[None] // title
    parts: dict[str, Any] = {
      'lanes': [
        [_ids(_LM.vocab_size, num, length), _wide(1 + places, length)],
        [
          _ids(_LM.vocab_size, num, 64),
          np.where(
            row < num_items, 1 + num + places[:, None] * num_items + row, 0
          ),
        ],
      ],
      'starts': np.append(places * length, starts),
      'lengths': np.append(np.full(num, length), np.full(len(texts), title)),
      'target': places * num_items,
      'negatives': places[:, None] * num_items + np.arange(1, num_items),
      'weight': np.ones(num, np.float32),
    }

    def repeated(x: np.ndarray) -> np.ndarray:
      x = x.astype(np.int32) if x.dtype == np.int64 else x
      return np.tile(x, (rows // num, *[1] * (x.ndim - 1)))

    return jax.tree.map(repeated, parts)

  return PlanModel(
    jax.eval_shape(made.init, jax.random.key(0)),
    init_fn=made.init,
    scanned=trainer_lib.is_stack,
    trainable=tuning.trainable('full'),
    loss_fn=lambda params, batch, rng: made.merge(params).loss(batch),
    batch_fn=batch,
    # Layers are computed again; no token's logits are.
    flops_fn=lambda rows, length: (
      (4 / 3 * rows * (length + 64))
      * (
        lm_cost.flops_per_token(_LM, length)
        - 6.0 * _LM.embed_dim * _LM.vocab_size
      )
    ),
  )


def _wide(numbers: np.ndarray, width: int) -> np.ndarray:
  return np.repeat(numbers[:, None], width, axis=1)


JOBS: Mapping[str, Callable[..., PlanModel]] = {
  'gmeta': gmeta,
  'clicks': clicks,
  'dlrm': dlrm,
  'bahe': bahe,
  'llm_rec': llm_rec,
}
