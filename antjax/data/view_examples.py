# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes events as examples with textual histories.

The folder gets

  behaviors/          the vocabulary of texts, see `behavior_vocabulary`
  events/NAME.npy     int32 [E]: behaviors of all users, each user's in time
  train.arrow, validation.arrow, test.arrow    `example_records.RECORDS`, or
                      where they are many train-00000-of-00008.arrow, ...
  ids_NAME.parquet    users, items and categories -> ids
  dataset.json        what is in it

History n of an example is the part starts[n]:stops[n] of the n-th sequence of
`dataset.json`, oldest first.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any, ClassVar

from absl import logging
import ibis
from ibis.expr import types as ir
import numpy as np

from antjax.data import (
  behavior_examples,
  behavior_pieces,
  behavior_rows,
  behavior_text,
  behavior_vocabulary,
  example_records,
  output_folder,
  prepare,
  record_schema,
  view,
)
from antjax.data.behavior_examples import ExampleConfig
from antjax.data.behavior_rows import RowLayout
from antjax.data.events import Events
from antjax.data.record_schema import Field
from antjax.data.schema import Schema, SPLITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class BehaviorConfig:
  """How events become examples."""

  normalizer: behavior_text.Normalizer = behavior_text.Normalizer()
  splitter: behavior_text.Splitter = behavior_text.Splitter()
  examples: ExampleConfig = ExampleConfig()


@dataclasses.dataclass(frozen=True)
class ExampleView:
  """Examples with textual histories, as a `view.View`."""

  config: BehaviorConfig = BehaviorConfig()  # Settings of the examples.
  # Folder of a vocabulary to append to, made where there is none; the view gets
  # a copy of its state then. '' makes one for the view alone.
  vocabulary: str | os.PathLike[str] = ''
  # Examples of an earlier day: their users, items and categories keep their
  # ids, and new ones follow. '' numbers those of the events alone.
  ids_from: str | os.PathLike[str] = ''
  version: ClassVar[int] = 4

  def check(self, schema: Schema) -> None:
    """Refuses a schema that says too little for the examples."""
    examples = self.config.examples
    split = examples.split_for(schema)
    if split == 'time' and not schema.time:
      raise ValueError(
        f'schema of {schema.name} names no time: only --examples.split=last and'
        ' random are possible, or splits that the schema gives: split, a column'
        ' of train, valid and test, or files, the files of each.'
      )
    if split == 'given' and not schema.split_column:
      raise ValueError(
        f'schema of {schema.name} gives no splits, which examples.split=given'
        ' needs: name their column with split, or the files of each with files.'
      )
    if examples.min_history and schema.histories == 'none':
      raise ValueError(
        f'schema of {schema.name} has histories: none, so that no example has'
        f' min_history={examples.min_history} past events.'
      )
    if schema.rating and schema.positive_from is None:
      raise ValueError(
        f'schema of {schema.name}: a rating is no label of 0 and 1; add'
        ' positive_from, the least rating that was liked.'
      )

  def settings(
    self, out: str | os.PathLike[str], schema: Schema
  ) -> dict[str, Any]:
    """The configuration, where texts go, and which ids are known.

    Raises:
      ValueError: The vocabulary or the earlier day is in a folder of data.
      FileNotFoundError: No such examples of an earlier day.
    """
    if self.ids_from:
      made = pathlib.Path(os.path.realpath(out))
      if pathlib.Path(os.path.realpath(self.ids_from)) in (made, made.parent):
        raise ValueError(
          f'ids_from={self.ids_from} is the folder to make; name another.'
        )
    known = self._known_ids()
    shared = pathlib.Path(os.path.abspath(self.vocabulary))
    if self.vocabulary and shared.is_relative_to(os.path.abspath(out)):
      raise ValueError(
        f'vocabulary={self.vocabulary} is inside of out={out}, which is'
        ' replaced as a whole and gets a copy; choose a folder beside it.'
      )
    told = shared.parent / output_folder.DESCRIPTION
    if self.vocabulary and told.exists():
      raise ValueError(
        f'vocabulary={self.vocabulary} belongs to the data in {shared.parent},'
        f' which do not change; copy it (cp -r {self.vocabulary} FOLDER) and'
        ' append to the copy.'
      )
    return {
      'vocabulary': str(shared) if self.vocabulary else '',
      'ids_from': prepare.fingerprint([*known.values()]) if known else '',
      **dataclasses.asdict(self._config_for(schema)),
    }

  def _config_for(self, schema: Schema) -> BehaviorConfig:
    examples = self.config.examples
    split: Any = examples.split_for(schema)
    return dataclasses.replace(
      self.config, examples=dataclasses.replace(examples, split=split)
    )

  def _known_ids(self) -> dict[str, pathlib.Path]:
    """Name, as in `Examples.id_maps`, -> file of an earlier day."""
    if not self.ids_from:
      return {}
    folder = output_folder.find_view(self.ids_from, 'examples')
    about = output_folder.load_description(folder)
    if about.get('kind') != 'behaviors':
      raise ValueError(
        f'ids_from={folder} holds {about.get("kind")!r}; needed: a folder of'
        ' launch/prepare_data --views=examples.'
      )
    names = ['user', 'item', *(f'id:{x["name"]}' for x in about['ids'])]
    output_folder.check_files(folder, about, 'ids_')
    files = _id_files(len(names))
    return {n: folder / file for n, file in zip(names, files, strict=True)}

  def build(self, job: view.ViewJob) -> dict[str, Any]:
    """Writes all files.

    Raises:
      RuntimeError: Another process appends to the vocabulary.
    """
    with job.opened() as events:
      return self._build(job, events)

  def _build(self, job: view.ViewJob, events: Events) -> dict[str, Any]:
    config, con, stage = self._config_for(job.schema), events.con, job.stage
    steps = prepare.Steps(con, job.work / 'steps')
    rows, layout = behavior_rows.of_events(events)
    job.progress('normalising and splitting texts')
    texts = behavior_pieces.collect(
      steps, rows, layout, config.normalizer, config.splitter
    )
    job.progress('appending to the vocabulary')
    state = behavior_vocabulary.append(
      con,
      self.vocabulary or job.work / 'vocabulary',
      texts.distinct,
      normalizer=config.normalizer.name,
      source=_digest_of(job, config),
    ).copy_to(stage / 'behaviors')
    ids = state.table(con)
    examples = behavior_examples.build(
      steps,
      texts.with_titles(rows, ids).drop('text', *texts.columns),
      layout,
      config.examples,
      job.progress,
      {n: prepare.read_parquet(con, p) for n, p in self._known_ids().items()},
    )
    (stage / 'events').mkdir()
    histories = dict(examples.events)
    for i, name in enumerate(layout.parted):
      histories[name] = texts.events(i, examples.table, ids)
    sequences: list[dict[str, Any]] = []
    for name, table in histories.items():
      job.progress(f'writing the events {name}')
      path = stage / 'events' / f'{name}.npy'
      size = prepare.write_int32(
        path, table, 'behavior', job.work, threads=job.engine.num_threads
      )
      sequences.append({'name': name, 'events': size})
      if name in layout.parted:  # A separator that is none shows here.
        sequences[-1]['texts'] = texts.lengths(layout.parted.index(name))
      if name in layout.bags:
        sequences[-1]['is_bag'] = True
    splits, unknown = _write_splits(
      texts.with_lengths(examples.table), layout, job
    )
    num_ids = _write_ids(examples.id_maps, stage)
    counts = {
      'examples': sum(split['examples'] for split in splits.values()),
      'users': num_ids['user'] - 1,
      'items': num_ids['item'] - 1,
      'behaviors': len(state),
      **texts.counts,
    }
    labels = 'as in the source'
    if not layout.is_labelled:
      counts['negatives_lacking'] = examples.num_short
      labels = (
        "events 1, drawn items 0: uniform in the domain, never the user's"
      )
    return {
      'kind': 'behaviors',
      'labels': labels,
      'label_names': list(events.schema.label_names),
      'domain': events.schema.domain,  # The scenario of click models.
      'normalizer': state.normalizer,
      'sequences': sequences,
      'ids': [
        {'name': name, 'num_ids': num_ids[f'id:{name}']} for name in layout.ids
      ],
      'numeric': list(layout.numeric),
      'num_users': num_ids['user'],
      'num_items': num_ids['item'],
      'num_behaviors': len(state),
      'counts': counts,
      'schema': record_schema.schema_to_json(example_records.RECORDS),
      'splits': splits,
      'unknown_ids': unknown,
      'files': output_folder.list_files(stage, splits),
    }

  def tables(self, description: Mapping[str, Any]) -> list[view.Table]:
    heading = 'split,examples,label 1,new user,new item,empty,unknown ids'
    return [view.split_counts(heading, description)]


def _digest_of(job: view.ViewJob, config: BehaviorConfig) -> str:
  """Names the texts of a run: the same again are not counted twice."""
  made_of = dataclasses.asdict(config) | {'events': job.about['config']}
  del made_of['examples']
  text = json.dumps(made_of, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _write_splits(
  table: ir.Table, layout: RowLayout, job: view.ViewJob
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
  """Writes the examples.

  Returns:
    Split -> counts; split -> id column -> examples of a value unknown to train.
  """
  unknown = {n: table[f'id_{i}'] == 0 for i, n in enumerate(layout.ids)}
  past = [table[f'before_{i}'] for i in range(len(layout.histories))]
  past += [table[f'length_{i}'] for i in range(len(layout.texts))]
  counts = table.group_by('split').agg(
    examples=table.count(),
    positives=(table.label > 0).sum(),
    new_user=table.is_new_user.sum(),
    new_item=table.is_new_item.sum(),
    no_history=(sum(past, ibis.literal(0)) == 0).sum(),
    unknown=sum((x.sum() for x in unknown.values()), ibis.literal(0)),
    **{f'unknown_{i}': x.sum() for i, x in enumerate(unknown.values())},
  )
  found = {row.pop('split'): row for row in counts.to_pyarrow().to_pylist()}
  if not found:
    raise ValueError('examples: the events give no example at all.')
  splits, by_column = {}, {}
  # Long texts' events come in the order of the examples, all splits in one.
  ends = np.zeros(len(layout.parted), np.int64)
  for number, split in enumerate(SPLITS):
    if number not in found:
      logging.warning('No example for the split %s: it is left out.', split)
      continue
    job.progress(f'writing {split}')
    ordered = table.filter(table.split == number)
    ordered = ordered.order_by(behavior_examples.ORDER)
    with prepare.computed(ordered, job.work) as rows:
      ends = example_records.write(rows, split, layout, job, ends)
    counted = {name: int(n) for name, n in found[number].items()}
    by_column[split] = {
      name: counted.pop(f'unknown_{i}') for i, name in enumerate(layout.ids)
    }
    splits[split] = counted
  return splits, by_column


def _write_ids(
  id_maps: Mapping[str, ir.Table], stage: pathlib.Path
) -> dict[str, int]:
  """Writes (value, id) files; returns name -> number of ids, with 0."""
  num_ids: dict[str, int] = {}
  schema = {'value': Field('str'), 'id': Field('int32')}
  files = _id_files(len(id_maps))
  for file, (name, table) in zip(files, id_maps.items(), strict=True):
    value = next(column for column in table.columns if column != 'id')
    ordered = table.select(value=table[value], id='id').order_by('id')
    num_ids[name] = 1 + prepare.write_records(ordered, stage / file, schema)
  return num_ids


def _id_files(num: int) -> list[str]:
  # The two first are users and items; names of features may be any text.
  features = [f'feature_{i}' for i in range(num - 2)]
  return [f'ids_{name}.parquet' for name in ('user', 'item', *features)]
