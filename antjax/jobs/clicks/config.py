# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of launch/train_clicks.py."""

import dataclasses
from typing import Annotated, Literal

from antjax import paths
from antjax.ctr.antm2c.fields import FieldConfig
from antjax.data import output_folder
from antjax.jobs.training_config import ExamplesConfig
from antjax.metrics.by_slice import ScoreConfig
from antjax.networks import load
from antjax.train.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
  """What is tried before the trainings that count."""

  num_trials: Annotated[
    int, 'Trainings to choose by; 0: the settings are taken as they are.'
  ] = 0
  learning_rate: Annotated[
    tuple[float, ...], 'Least and largest rate of the network.'
  ] = (2e-4, 5e-3)
  row_learning_rate: Annotated[
    tuple[float, ...], 'Least and largest rate of the rows.'
  ] = (2e-4, 2e-2)
  weight_decay: Annotated[
    tuple[float, ...], 'Least and largest weight decay.'
  ] = (1e-6, 1e-2)
  widths: Annotated[
    tuple[str, ...], 'Hidden widths of the deep part to choose from.'
  ] = ('256+128', '512+256', '128+64')

  def __post_init__(self) -> None:
    if self.num_trials < 0:
      raise ValueError(f'num_trials={self.num_trials}: must not be negative.')
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
    str, 'Folder that launch/prepare_data.py wrote.', paths.URL
  ] = 'data/antm2c'
  model: Annotated[
    str,
    f'One of {", ".join(load.NETWORKS)}; or one of your own, as'
    ' package.module:Class.',
  ] = 'dcnv2'
  scenario: Annotated[
    str,
    "Id column that says the scenario; empty: scene, or the schema's domain, or"
    ' else all clicks are of one, as with none.',
  ] = ''
  scenario_groups: Annotated[
    tuple[str, ...],
    'Values of that column that make a scenario each, e.g. 1+18,25,35+45.'
    ' Empty: each value is one, and the column no feature besides.',
  ] = ()
  ids: Annotated[
    Literal['train', 'global'],
    'train: users and items that training has not seen are the unknown one.'
    ' global: each has its row, which nothing has trained.',
  ] = 'train'
  history: Annotated[
    tuple[str, ...],
    'Sequences that are histories of clicks; empty: the first; or none.',
  ] = ()
  max_history: Annotated[int, 'Newest clicks taken of each.'] = 20
  labels: Annotated[
    tuple[str, ...],
    'Labels that are learned, a task each, the first being the one that is'
    ' scored by scenario; empty: all that the schema names.',
  ] = ()
  text_vectors: Annotated[
    str,
    'Store that launch/build_behavior_store.py wrote of these texts: with all'
    ' layers below the cut it has sentence vectors.',
    paths.URL,
  ] = ''
  text_dim: Annotated[int, 'Their principal components; 0: all.'] = 64
  text_sequences: Annotated[
    tuple[str, ...], 'Sequences that are texts, each a mean of its pieces.'
  ] = ()
  max_pieces: Annotated[
    int, 'Newest pieces taken of such a text, and values of a bag.'
  ] = 16
  image_vectors: Annotated[
    str, 'Folder that launch/encode_images.py wrote.', paths.URL
  ] = ''
  stream: Annotated[
    Literal['auto', 'yes', 'no'],
    'yes: rows stay in the prepared files, and are read a window at a time.'
    ' no: each host has all columns in memory, which is faster. auto: yes where'
    ' these would be more than stream_above.',
  ] = 'auto'
  stream_above: Annotated[float, 'GB of columns, for stream=auto.'] = 4.0
  shuffle_rows: Annotated[
    int,
    'Rows of a window: shuffled among each other, from blocks of 4,096 all over'
    ' the files, and held in memory.',
  ] = 1 << 18
  eval_batch_size: Annotated[int, 'Clicks scored at once.'] = 8192
  num_seeds: Annotated[int, 'Trainings, with seeds from --seed on.'] = 1
  batch_size: Annotated[int, 'Clicks of a step, all devices together.'] = 2048
  table: Annotated[
    bool, 'Train many models into one table, instead of --model.'
  ] = False
  models: Annotated[
    tuple[str, ...], 'Rows of the table; empty: all that the data allow.'
  ] = ()
  inputs: Annotated[
    tuple[str, ...],
    f'Some of {", ".join(INPUTS)}: what models of the table see; pooled: ids,'
    ' but not the scenario.',
  ] = ('id',)
  follow: Annotated[
    str,
    'Folder where files of new rows arrive: after the training, each is trained'
    ' on once, and --deltas tells a server. Empty: none.',
  ] = ''
  follow_poll_s: Annotated[float, 'Seconds between two looks into it.'] = 1.0
  deltas: Annotated[
    str, 'Folder for deltas, see launch/serve.py.', paths.URL
  ] = ''
  spare_ids: Annotated[
    int, 'Rows of tables for users, and for items, that come with --follow.'
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
    'Score the click rates of ids, without a network, beside the models in the'
    ' report.',
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
    counts = (
      *('max_history', 'max_pieces', 'eval_batch_size', 'num_seeds'),
      'shuffle_rows',
    )
    self.check_least({**dict.fromkeys(counts, 1), 'text_dim': 0})
    self.check_least({'spare_ids': 0})
    if bool(self.follow) != bool(self.deltas):
      raise ValueError('follow and deltas: give both, or none.')

  def _check_network(self, flag: str, name: str) -> None:
    network = load.load(name, flag)
    self.network.of(network)
    if 'support' in network.needs:
      raise ValueError(
        f'{flag}={name} reads the support of a task, which only'
        ' launch/train_gmeta.py has; use another model.'
      )

  def check_inputs(self) -> None:
    output_folder.load_description(
      output_folder.find_view(self.data, 'examples')
    )
