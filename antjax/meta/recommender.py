# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A complete meta-learned model for data sets with described features.

It combines parts of `antjax.meta`, `antjax.embedding` and `antjax.train`; see
docs/data.md.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import pathlib
from typing import Annotated, Any, Literal, TypeVar

from flax import nnx
import jax
from jax.sharding import Mesh
import optax

from antjax.embedding import rounding
from antjax.embedding.home import HomeConfig
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam, RowWiseAdagrad
from antjax.embedding.table import EmbeddingTables
from antjax.layers.functional import Functional
from antjax.layers.pooling import Pooling
from antjax.meta import algorithms, maml, meta_loss
from antjax.meta.task_network import LabelKind, TaskNetwork
from antjax.networks import load
from antjax.train.trainer import Trainer

PyTree = Any
_T = TypeVar('_T')

_ROW_OPTIMIZERS = {'adam': Adam, 'rowwise_adagrad': RowWiseAdagrad}
_WAYS: Mapping[str, Pooling] = {'mean': 'mean', 'sum': 'sum'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(load.NetworkConfig):
  """The network and its tables."""

  kind: Annotated[
    str,
    'Network. dlrm: pairwise dot products and a top MLP. melu: decision layers'
    ' on the concatenated vectors. cbml: decision layers gated by soft'
    f' clusters of tasks. Other click networks: {", ".join(load.CLICK)}. Your'
    ' own: package.module:Class.',
  ] = 'dlrm'
  features: Annotated[
    tuple[str, ...], 'Features to use. Empty: all features of the data set.'
  ] = ()
  embedding_dim: Annotated[int, 'Width of an embedding.'] = 16
  embedding_dims: Annotated[
    tuple[str, ...],
    'Other widths, e.g. gender=4,age=4; projected to embedding_dim.',
  ] = ()
  pooling: Annotated[
    tuple[str, ...],
    'Pooling of multi-hot features, e.g. genres=sum. The default is the mean.',
  ] = ()
  table_level: Annotated[
    Literal['auto', 'plan', 'none', 'intra', 'global'],
    'Sharding of the tables: a copy on every device (none), or rows sharded'
    ' over a group (intra) or all devices (global). auto decides by size. plan'
    ' compares the distinct rows of a few batches with the link speeds.',
  ] = 'auto'
  table_payload: Annotated[
    Literal['float32', 'bfloat16'],
    'Dtype in which rows and their gradients are sent between devices.',
  ] = 'float32'
  table_dtype: Annotated[
    rounding.Dtype,
    'Dtype of the embedding rows. bfloat16 takes half the memory, int8 (with a'
    ' unit per row) a quarter; updates are rounded stochastically.',
  ] = 'float32'
  table_optimizer: Annotated[
    Literal['adam', 'rowwise_adagrad'],
    'Optimizer of the touched embedding rows.',
  ] = 'adam'
  device_rows: Annotated[
    int,
    'Rows of each table on all devices together. Further ones, in float32, are'
    ' in files on a local disk, and those of the next steps, support and query,'
    ' are brought ahead: so tables may be larger than the memory. 0: all rows.',
  ] = 0
  home: Annotated[
    str, 'Folder of the files of device_rows. Empty: the run folder.'
  ] = ''
  table_learning_rate: Annotated[
    float, 'Peak rate of the embedding rows; follows the dense schedule.'
  ] = 0.006
  id_dropout: Annotated[
    float,
    'Share of training rows whose id of each of dropout_features is replaced'
    ' by the unknown id, so that the model learns to do without.',
  ] = 0.1
  task_id_dropout: Annotated[
    float,
    'Share of training tasks that lose all ids of dropout_features, like a'
    ' task with only new items.',
  ] = 0.3
  dropout_features: Annotated[
    tuple[str, ...],
    'Features for id_dropout and task_id_dropout. Empty: the item, as named by'
    ' the data set.',
  ] = ()

  def __post_init__(self) -> None:
    super().__post_init__()
    self.of(load.load(self.kind, 'model.kind'))
    if self.embedding_dim < 1:
      raise ValueError(f'embedding_dim={self.embedding_dim} must be positive.')
    if self.home and not self.device_rows:
      raise ValueError(
        f'model.home={self.home}: nothing is there; say how many rows of a'
        ' table stay on the devices, as in model.device_rows=1000000.'
      )
    if self.device_rows and self.table_level == 'plan':
      raise ValueError(
        f'model.device_rows={self.device_rows} and model.table_level=plan: a'
        ' plan is of whole tables; use auto, intra or global.'
      )
    for name in ('id_dropout', 'task_id_dropout'):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)} must be in [0, 1).')

  def chosen(self, features: Mapping[str, _T]) -> dict[str, _T]:
    """The features of a data set that the model uses."""
    if unknown := set(self.features) - set(features):
      raise ValueError(
        f'model.features={self.features}: the data set has no'
        f' {sorted(unknown)}; it has {sorted(features)}.'
      )
    return {name: features[name] for name in self.features or features}

  def home_of(self, run_dir: pathlib.Path, name: str) -> HomeConfig | None:
    """Where the rows are of a model of a run that are not on the devices."""
    if not self.device_rows:
      return None
    folder = pathlib.Path(self.home or run_dir) / name / 'rows'
    return HomeConfig(folder=str(folder), device_rows=self.device_rows)

  def dims(self, features: Sequence[str]) -> dict[str, int]:
    """Feature -> width of its embedding."""
    chosen = dict.fromkeys(features, self.embedding_dim)
    for name, value in _pairs(self.embedding_dims, 'embedding_dims', features):
      if not value.isdecimal() or int(value) < 1:
        raise ValueError(
          f'embedding_dims: {name}={value} is no positive width.'
        )
      chosen[name] = int(value)
    return chosen

  def ways(self, features: Sequence[str]) -> dict[str, Pooling]:
    """Feature -> its pooling, if it is not the mean."""
    chosen: dict[str, Pooling] = {}
    for name, value in _pairs(self.pooling, 'pooling', features):
      if value not in _WAYS:
        raise ValueError(f'pooling: {name}={value}; use mean or sum.')
      chosen[name] = _WAYS[value]
    return chosen


def _pairs(
  texts: Sequence[str], flag: str, features: Sequence[str]
) -> Iterator[tuple[str, str]]:
  """Splits 'feature=value'."""
  for text in texts:
    name, equals, value = text.partition('=')
    if not equals or name not in features:
      raise ValueError(
        f'{flag}={text}: say feature=value with one of the features'
        f' {", ".join(features)}.'
      )
    yield name, value


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerConfig:
  """Settings of adaptation to a support; see `antjax.meta.maml.InnerLoop`.

  None: the algorithm's setting.
  """

  num_steps: Annotated[int | None, 'Gradient steps on the support.'] = None
  learning_rate: Annotated[
    float | None, 'Inner learning rate; the initial value if rates are learned.'
  ] = None
  learn_rates: Annotated[
    bool | None, 'Learn the inner rates in the outer loop (Meta-SGD).'
  ] = None
  rates: Annotated[
    Literal['leaf', 'step', 'element'] | None,
    'Granularity of learned rates: one per leaf, per leaf and step (MAML++),'
    ' or per element of a leaf (Meta-SGD as published).',
  ] = None
  order: Annotated[
    int | None, '2 differentiates through the inner steps; 1 does not (FOMAML).'
  ] = None
  adapt: Annotated[
    Literal['all', 'mlp', 'decision', 'head'] | None,
    'Parameters that adapt: all with the embedding rows (MAML), all but the'
    ' rows (mlp), the decision layers (MeLU), or the head (ANIL).',
  ] = None
  derivative: Annotated[
    Literal['reverse', 'mixed'] | None,
    'For order 2: differentiate inner gradients reverse over reverse, or'
    ' mixed, forward over reverse, with a copy of the weights per task.',
  ] = None
  remat: Annotated[bool, 'Recompute inner steps in the backward pass.'] = False
  task_axis: Annotated[
    Literal['auto', 'vmap', 'map', 'blocks'],
    'How the tasks of a bucket run: all at once (vmap), one by one (map), or'
    ' block_size at once (blocks). auto: the fastest as measured on the'
    ' backend.',
  ] = 'auto'
  block_size: Annotated[int, 'Tasks at once with task_axis=blocks.'] = 8

  def __post_init__(self) -> None:
    self.loop(maml.InnerLoop())  # Checks the values.
    if self.block_size < 1:
      raise ValueError(f'block_size={self.block_size}: must be at least 1.')

  def loop(self, preset: maml.InnerLoop | None = None) -> maml.InnerLoop:
    """An algorithm's inner loop, changed by the settings made here.

    Args:
      preset: Loop of the algorithm; None: that of the default algorithm.
    """
    changes = dict(vars(self))
    # Measured on CPU only: all tasks at once is fastest.
    sizes = {'auto': 0, 'vmap': 0, 'map': 1, 'blocks': changes['block_size']}
    map_size = sizes[changes.pop('task_axis')]
    del changes['block_size']
    return dataclasses.replace(
      preset or algorithms.ALGORITHMS['default'].inner,
      map_size=map_size,
      **{name: x for name, x in changes.items() if x is not None},
    )


@dataclasses.dataclass(frozen=True)
class MetaRecommender:
  """A rating model over embedding tables."""

  tables: EmbeddingTables  # The tables.
  task_model: meta_loss.TaskModel  # Task model of the network.
  # Random key -> parameters of the network.
  init_fn: Callable[[jax.Array], PyTree]
  features: Mapping[str, int]  # Feature -> maximum number of its values.
  # Function from a learning rate and a home to the same tables with these.
  tables_fn: Callable[
    [float | optax.Schedule, HomeConfig | None], EmbeddingTables
  ]

  def at_table_rate(
    self, rate: float | optax.Schedule, home: HomeConfig | None = None
  ) -> 'MetaRecommender':
    """The same model with another learning rate, and home, of its rows."""
    tables = self.tables_fn(rate, home)
    model = dataclasses.replace(self.task_model, tables=tables)
    return dataclasses.replace(self, tables=tables, task_model=model)

  def trainer(
    self,
    loss_fn: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    **kwargs: Any,
  ) -> Trainer:
    """A Trainer of this model; `kwargs` are passed to it."""
    return Trainer(
      loss_fn, optimizer, mesh=self.tables.mesh, tables=self.tables, **kwargs
    )

  def init_params(self, inner: maml.InnerLoop) -> Callable[..., PyTree]:
    """Function key -> parameters, including inner rates if learned."""
    if not inner.learn_rates:
      return self.init_fn
    names = tuple(self.features)
    return lambda key: maml.init_rates(self.init_fn(key), inner, names)


def build(
  features: Mapping[str, Mapping[str, int]],
  config: ModelConfig,
  mesh: Mesh,
  table_rate: float | optax.Schedule | None = None,
  place_fn: Callable[[list[TableSpec]], list[TableSpec]] | None = None,
  *,
  label_kind: str = 'rating',
  num_numeric: int = 0,
  home: HomeConfig | None = None,
) -> MetaRecommender:
  """Makes a model for the features that a data set describes.

  Args:
    features: Feature -> {'num_ids': V, 'max_values': k}.
    config: Configuration of the model.
    mesh: Mesh from `make_mesh`.
    table_rate: Rate of the tables' optimizer; the config's by default.
    place_fn: Chooses the level of each table, for table_level='plan'; e.g. by
      `antjax.embedding.planner.plan_tables`.
    label_kind: 'rating' or 'click'.
    num_numeric: Number of numeric inputs per row.
    home: Where rows are that are not on the devices, by `config.home_of`.

  Raises:
    ValueError: The config names an unknown feature, asks for a plan without
      `place_fn` or for rows in files without `home`, or the labels are of
      another kind.
  """
  if config.device_rows and home is None:
    raise ValueError(
      f'build(device_rows={config.device_rows}): pass the home of the rows.'
    )
  features = config.chosen(features)
  names = tuple(features)
  dims, ways = config.dims(names), config.ways(names)
  optimizer = _ROW_OPTIMIZERS[config.table_optimizer]
  specs = [
    TableSpec(
      name,
      facts['num_ids'],
      dims[name],
      'auto' if config.table_level == 'plan' else config.table_level,
      optimizer(),
      init_scale=0.1,
      dtype=config.table_dtype,
    )
    for name, facts in features.items()
  ]
  if config.table_level == 'plan':
    if place_fn is None:
      raise ValueError("build(table_level='plan'): pass a place_fn.")
    specs = place_fn(specs)

  def tables_fn(
    rate: float | optax.Schedule, home: HomeConfig | None
  ) -> EmbeddingTables:
    return EmbeddingTables(
      [dataclasses.replace(spec, optimizer=optimizer(rate)) for spec in specs],
      {name: name for name in names},
      mesh=mesh,
      payload_dtype=config.table_payload,
      home=home,
    )

  label = LabelKind.of(label_kind)

  def make(rngs: nnx.Rngs) -> TaskNetwork:
    return TaskNetwork(
      config.kind,
      config,
      dims,
      embedding_dim=config.embedding_dim,
      num_numeric=num_numeric,
      num_outputs=label.num_outputs,
      rngs=rngs,
    )

  network = Functional(make)
  tables = tables_fn(
    config.table_learning_rate if table_rate is None else table_rate, home
  )
  has_context = 'support' in load.load(config.kind).needs
  task_model = meta_loss.TaskModel(
    apply_fn=TaskNetwork.__call__,
    loss_fn=label.loss_fn,
    output_fn=label.output_fn,
    context_fn=TaskNetwork.context if has_context else None,
    merge_fn=network.merge,
    tables=tables,
    pooling=ways,
  )
  max_values = {name: facts['max_values'] for name, facts in features.items()}
  return MetaRecommender(
    tables, task_model, network.init, max_values, tables_fn
  )
