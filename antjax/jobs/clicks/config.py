# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of launch/train_clicks.py."""

import dataclasses
from typing import Annotated, Literal

from antjax import config_values, paths
from antjax.ctr.antm2c.fields import FieldConfig
from antjax.data import output_folder
from antjax.jobs.training_config import ExamplesConfig
from antjax.metrics.by_slice import ScoreConfig
from antjax.networks import load
from antjax.train.optimizer import OptimizerConfig

_KAFKA = 'kafka://'


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
  """What is tried before the trainings that count."""

  num_trials: Annotated[
    int, 'Number of trials of the hyperparameter search. 0: no search.'
  ] = 0
  learning_rate: Annotated[
    tuple[float, ...], 'Minimum and maximum learning rate of the network.'
  ] = (2e-4, 5e-3)
  row_learning_rate: Annotated[
    tuple[float, ...], 'Minimum and maximum learning rate of the rows.'
  ] = (2e-4, 2e-2)
  weight_decay: Annotated[
    tuple[float, ...], 'Minimum and maximum weight decay.'
  ] = (1e-6, 1e-2)
  widths: Annotated[
    tuple[str, ...], 'Choices for the hidden widths of the deep part.'
  ] = ('256+128', '512+256', '128+64')

  def __post_init__(self) -> None:
    config_values.check_least(self, {'num_trials': 0}, 'search.')
    for name in ('learning_rate', 'row_learning_rate', 'weight_decay'):
      low, *rest = getattr(self, name) or (0.0,)
      if len(rest) != 1 or not 0 < low <= rest[0]:
        raise ValueError(
          f'search.{name}={getattr(self, name)}: needed: the least and the'
          ' largest value, positive.'
        )
    if not self.widths:
      raise ValueError('search.widths: give one or more.')
    for text in self.widths:
      if not all(part.isdecimal() and int(part) for part in text.split('+')):
        raise ValueError(f'search.widths={text}: needed: widths as 256+128.')


# Name in the table -> kinds of vectors that the models see.
POOLED = 'pooled'  # Ids, but not the scenario.
INPUTS = {
  POOLED: (),
  'id': (),
  'id+text': ('text',),
  'id+image': ('image',),
  'all': ('text', 'image'),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ExamplesConfig):
  """Training of a click model of several scenarios."""

  run_dir: str = 'runs/clicks'
  data: Annotated[
    str, 'Folder written by launch/prepare_data.py.', paths.URL
  ] = 'data/antm2c'
  model: Annotated[
    str,
    f'Network to train: one of {", ".join(load.NETWORKS)}, or your own as'
    ' package.module:Class.',
  ] = 'dcnv2'
  scenario: Annotated[
    str,
    'Id column with the scenario. none: all clicks have the same scenario.'
    ' Empty: scene or the domain of the schema if there is one, else as none.',
  ] = ''
  scenario_groups: Annotated[
    tuple[str, ...],
    'Groups of values of that column that form a scenario each, e.g.'
    ' 1+18,25,35+45. Empty: each value is one, and no other feature.',
  ] = ()
  ids: Annotated[
    Literal['train', 'global'],
    'Ids of users and items that training has not seen. train: the unknown id.'
    ' global: their own untrained rows.',
  ] = 'train'
  history: Annotated[
    tuple[str, ...],
    'Sequences to use as click histories, or none. Empty: the first sequence.',
  ] = ()
  max_history: Annotated[int, 'Maximum clicks per history, the newest.'] = 20
  labels: Annotated[
    tuple[str, ...],
    'Labels to learn, one task each. The first one is scored by scenario.'
    ' Empty: all labels of the schema.',
  ] = ()
  text_vectors: Annotated[
    str,
    'Store written by launch/build_behavior_store.py for these texts. With all'
    ' layers below the cut it holds sentence vectors. Empty: no text vectors.',
    paths.URL,
  ] = ''
  text_dim: Annotated[int, 'Principal components to use of them. 0: all.'] = 64
  text_sequences: Annotated[
    tuple[str, ...], 'Sequences used as texts, each the mean of its pieces.'
  ] = ()
  max_pieces: Annotated[
    int, 'Maximum pieces per text, the newest ones, and values per bag.'
  ] = 16
  image_vectors: Annotated[
    str, 'Folder written by launch/encode_images.py. Empty: none.', paths.URL
  ] = ''
  stream: Annotated[
    Literal['auto', 'yes', 'no'],
    'yes: read rows from the prepared files, one window at a time. no: keep'
    ' all columns in memory on each host, which is faster. auto: yes if the'
    ' columns take more than stream_above.',
  ] = 'auto'
  stream_above: Annotated[float, 'GB of columns, for stream=auto.'] = 4.0
  shuffle_rows: Annotated[
    int,
    'Rows of a streamed window, which is held in memory and shuffled. They'
    ' come from blocks of 4,096 throughout the files.',
  ] = 1 << 18
  eval_batch_size: Annotated[int, 'Number of clicks scored at once.'] = 8192
  num_seeds: Annotated[int, 'Trainings, with seeds from --seed on.'] = 1
  batch_size: Annotated[int, 'Clicks per step, over all devices.'] = 2048
  table: Annotated[
    bool, 'Train and compare several models in one table, instead of --model.'
  ] = False
  models: Annotated[
    tuple[str, ...], 'Models of the table. Empty: all that the data allow.'
  ] = ()
  inputs: Annotated[
    tuple[str, ...],
    f'Inputs of the models in the table, any of {", ".join(INPUTS)}. pooled:'
    ' ids without the scenario.',
  ] = ('id',)
  follow: Annotated[
    str,
    'Folder of incoming files of new rows, or kafka://HOST:PORT/TOPIC. After'
    ' training, each file or message is trained on once, and --deltas receives'
    ' the changes. Empty: none.',
    paths.TOPIC,
  ] = ''
  follow_config: Annotated[
    str,
    'File of lines name=value for the Kafka client (librdkafka), such as those'
    ' for TLS and SASL. Empty: none.',
  ] = ''
  follow_poll_s: Annotated[
    float,
    'Seconds between checks for files, and in which messages are collected.',
  ] = 1.0
  deltas: Annotated[
    str, 'Folder for deltas; see launch/serve.py.', paths.URL
  ] = ''
  spare_ids: Annotated[
    int, 'Table rows reserved for new users, and for items, of --follow.'
  ] = 0
  best_metric: str = 'validation_auc'
  paro: str = 'NNN'
  network: load.NetworkConfig = load.NetworkConfig()
  fields: FieldConfig = FieldConfig()
  optimizer: OptimizerConfig = OptimizerConfig(
    warmup_steps=0,
    decay='none',
    weight_decay=0.0,
    decay_norms=True,
    clip_norm=0.0,
  )
  rates: Annotated[
    bool,
    'Add a baseline to the report that scores by the click rates of ids,'
    ' without a network.',
  ] = True
  score: ScoreConfig = ScoreConfig()
  search: SearchConfig = SearchConfig()

  def __post_init__(self) -> None:
    super().__post_init__()
    self._check_network('model', self.model)
    for name in self.models:
      self._check_network('models', name)
    if unknown := sorted(set(self.inputs) - set(INPUTS)):
      raise ValueError(
        f'inputs: {", ".join(unknown)} unknown; use some of'
        f' {", ".join(INPUTS)}.'
      )
    if not self.inputs:
      raise ValueError('inputs: give at least one.')
    is_pooled = POOLED in self.inputs or not self.fields.knows_scenario
    if is_pooled and self.scenario_groups and 'columns' in self.fields.use:
      raise ValueError(
        f'fields.use={self.fields.use}: the column {self.scenario} of the'
        ' groups is one of columns and tells the scenario; leave columns out,'
        ' or --scenario_groups.'
      )
    counts = 'max_history max_pieces eval_batch_size num_seeds shuffle_rows'
    self.check_least(dict.fromkeys(counts.split(), 1))
    self.check_least({'text_dim': 0, 'spare_ids': 0})
    if bool(self.follow) != bool(self.deltas):
      raise ValueError('follow and deltas: give both, or none.')
    if self.follows_topic:
      topic_of(self.follow)
    elif self.follow_config:
      raise ValueError('follow_config is for follow=kafka://HOST:PORT/TOPIC.')

  @property
  def follows_topic(self) -> bool:
    """Whether events are messages, not files."""
    return self.follow.startswith(_KAFKA)

  def _check_network(self, flag: str, name: str) -> None:
    network = load.load(name, flag)
    self.network.of(network)
    if 'support' in network.needs:
      raise ValueError(
        f'{flag}={name} reads the support of a task, which only'
        ' launch/train_gmeta.py has; use another model.'
      )

  def check_inputs(self) -> None:
    super().check_inputs()
    paths.check_there(self.text_vectors, 'text_vectors')
    paths.check_there(self.image_vectors, 'image_vectors')
    output_folder.open_view(self.data, 'examples')


def topic_of(url: str) -> tuple[str, str]:
  """Brokers and topic of kafka://HOST:PORT,HOST:PORT/TOPIC.

  Raises:
    ValueError: It lacks a part.
  """
  brokers, _, topic = url.removeprefix(_KAFKA).partition('/')
  if not brokers or not topic or '/' in topic:
    raise ValueError(f'follow={url}: needed is kafka://HOST:PORT/TOPIC.')
  return brokers, topic
