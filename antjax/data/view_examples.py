# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes events as examples with textual histories.

The folder gets

  behaviors/          the vocabulary of texts, see `behavior_vocabulary`
  events/NAME.npy     int32 [E]: behaviors of all users, each user's in time
  train.arrow, validation.arrow, test.arrow    records of `SCHEMA`
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
import re
from typing import Any

from absl import logging
import ibis
from ibis.expr import types as ir

from antjax.data import (
  behavior_examples,
  behavior_files,
  behavior_pieces,
  behavior_text,
  behavior_vocabulary,
  column_file,
  output_folder,
  prepare,
  record_schema,
  view,
)
from antjax.data.behavior_examples import ExampleConfig, RowLayout
from antjax.data.events import Events
from antjax.data.schema import Schema

_VERSION = 3
_MAX_DOMAINS = 32  # Each is a sequence of its own.


@dataclasses.dataclass(frozen=True, kw_only=True)
class BehaviorConfig:
  """How events become examples."""

  normalizer: behavior_text.Normalizer = behavior_text.Normalizer()
  splitter: behavior_text.Splitter = behavior_text.Splitter()
  examples: ExampleConfig = ExampleConfig()


def write_examples(
  out: str | os.PathLike[str],
  events: str | os.PathLike[str],
  schema: Schema,
  config: BehaviorConfig,
  *,
  vocabulary: str | os.PathLike[str] = '',
  ids_from: str | os.PathLike[str] = '',
  **options: Any,
) -> tuple[dict[str, Any], bool]:
  """Makes the folder of the module's docstring.

  Args:
    out: Folder to make.
    events: Folder of the events.
    schema: Schema of their columns.
    config: Settings of the examples.
    vocabulary: Folder of a vocabulary to append to, made where there is none;
      `out` gets a copy of its state then. '' makes one for `out` alone.
    ids_from: Examples of an earlier day: their users, items and categories keep
      their ids, and new ones follow. '' numbers those of the events alone.
    **options: See `view.make`.

  Returns:
    The content of `dataset.json`, and whether it was made now.

  Raises:
    ValueError: `out` holds something else, or the schema says too little.
    FileNotFoundError: No such examples of an earlier day.
    RuntimeError: Another process appends to the vocabulary.
  """
  check(schema, config)
  known: Mapping[str, pathlib.Path] = {}
  if ids_from:
    made = pathlib.Path(os.path.realpath(out))
    if pathlib.Path(os.path.realpath(ids_from)) in (made, made.parent):
      raise ValueError(
        f'ids_from={ids_from} is the folder to make; name another.'
      )
    known = behavior_files.find_ids(
      output_folder.find_view(ids_from, 'examples')
    )
  _check_shared(vocabulary, out)
  settings = {
    'vocabulary': os.path.abspath(vocabulary) if vocabulary else '',
    'ids_from': prepare.fingerprint([*known.values()]) if known else '',
    **dataclasses.asdict(config),
  }

  def build(job: view.ViewWork) -> dict[str, Any]:
    folder = pathlib.Path(vocabulary or job.work / 'vocabulary')
    with job.opened() as events:
      return _build(job, events, config, folder, known)

  return view.make(out, events, schema, _VERSION, settings, build, **options)


def check(schema: Schema, config: BehaviorConfig) -> None:
  """Refuses a schema that says too little for the examples.

  Raises:
    ValueError: Something is missing; the message says what.
  """
  if config.examples.split == 'time' and not schema.time:
    raise ValueError(
      f'schema of {schema.name} names no time: only --examples.split=last and'
      ' random are possible.'
    )
  if config.examples.min_history and schema.histories == 'none':
    raise ValueError(
      f'schema of {schema.name} has histories: none, so that no example has'
      f' min_history={config.examples.min_history} past events.'
    )
  if schema.rating and schema.positive_from is None:
    raise ValueError(
      f'schema of {schema.name}: a rating is no label of 0 and 1; add'
      ' positive_from, the least rating that was liked.'
    )


def _check_shared(
  vocabulary: str | os.PathLike[str], out: str | os.PathLike[str]
) -> None:
  """Refuses the vocabulary of a folder of data, finished or to be made."""
  if not vocabulary:
    return
  path = pathlib.Path(os.path.abspath(vocabulary))
  if path.is_relative_to(os.path.abspath(out)):
    raise ValueError(
      f'vocabulary={vocabulary} is inside of out={out}, which is replaced as a'
      ' whole and gets a copy; choose a folder beside it.'
    )
  parent = path.parent
  if (parent / output_folder.DESCRIPTION).exists():
    raise ValueError(
      f'vocabulary={vocabulary} belongs to the data in {parent}, which do not'
      f' change; copy it (cp -r {vocabulary} FOLDER) and append to the copy.'
    )


def _build(
  job: view.ViewWork,
  events: Events,
  config: BehaviorConfig,
  vocabulary: pathlib.Path,
  known_ids: Mapping[str, pathlib.Path],
) -> dict[str, Any]:
  """Writes all files; returns the description."""
  con, stage, steps = events.con, job.stage, job.work / 'steps'
  rows, layout = standard_rows(events)
  job.progress('normalising and splitting texts')
  texts = behavior_pieces.collect(
    con, rows, layout, config.normalizer, config.splitter, steps
  )
  job.progress('appending to the vocabulary')
  state = behavior_vocabulary.append(
    con,
    vocabulary,
    texts.distinct,
    normalizer=config.normalizer.name,
    source=_digest_of(job, config),
  ).copy_to(stage / 'behaviors')
  ids = state.table(con)
  examples = behavior_examples.build(
    con,
    texts.with_titles(rows, ids).drop('text', *texts.columns),
    layout,
    config.examples,
    steps,
    job.progress,
    {n: prepare.read_parquet(con, path) for n, path in known_ids.items()},
  )
  (stage / 'events').mkdir()
  histories = dict(examples.events)
  for i, name in enumerate(layout.texts):
    histories[name] = texts.events(i, examples.table, ids)
  sequences: list[dict[str, Any]] = []
  for name, table in histories.items():
    job.progress(f'writing the events {name}')
    path = stage / 'events' / f'{name}.npy'
    size = column_file.write_int32(path, table, 'behavior', job.work)
    sequences.append({'name': name, 'events': size})
    if name in layout.texts:  # A separator that is none shows here.
      sequences[-1]['texts'] = texts.lengths(layout.texts.index(name))
  splits = behavior_files.write_splits(
    texts.with_lengths(examples.table),
    layout,
    stage,
    job.work,
    job.file_format,
    job.progress,
  )
  num_ids = behavior_files.write_ids(examples.id_maps, stage)
  counts = {
    'examples': sum(split['examples'] for split in splits.values()),
    'users': num_ids['user'] - 1,
    'items': num_ids['item'] - 1,
    'behaviors': len(state),
    **texts.counts,
  }
  if not layout.is_labelled:
    counts['negatives_lacking'] = examples.num_short
  return {
    'kind': 'behaviors',
    'labels': (
      'as in the source'
      if layout.is_labelled
      else "events 1, drawn items 0: uniform in the domain, never the user's"
    ),
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
    'schema': record_schema.schema_to_json(behavior_files.SCHEMA),
    'splits': splits,
    'files': output_folder.list_files(stage, splits),
  }


def standard_rows(events: Events) -> tuple[ir.Table, RowLayout]:
  """Returns the rows of examples, and what they hold.

  Returns:
    row int64, user, item, domain, history, text, time int64, label float32, and
    the columns of the layout.
  """
  schema, table = events.schema, events.joined()
  lists = {n for n in schema.ids if table[n].type().is_array()}
  if lists:
    logging.warning(
      '%s: examples hold one value of a feature; left out, as they have many:'
      ' %s.',
      schema.name,
      ', '.join(sorted(lists)),
    )
  ids = tuple(n for n in schema.all_ids if n not in lists)
  numeric = schema.all_numeric
  of_item = events.of_item(table)
  rows = table.select(
    **events.of_event(table),
    text=of_item['text'],
    domain=of_item['domain'],
    **{f'text_{i}': table[n] for i, n in enumerate(schema.texts)},
    **{f'id_{i}': table[n].cast('string') for i, n in enumerate(ids)},
    **{f'numeric_{i}': events.number(table, n) for i, n in enumerate(numeric)},
  )
  rows, histories = _with_history(rows, schema)
  names = [*histories, *schema.texts]
  for name in names:
    if not re.fullmatch(r'[\w-]+', name) or names.count(name) > 1:
      raise ValueError(
        f'schema of {schema.name}: the sequence {name!r} needs a name of its'
        ' own, of letters, digits, _ and -; rename the column.'
      )
  return rows, RowLayout(
    tuple(histories),
    schema.texts,
    ids,
    numeric,
    schema.all_item_columns,
    bool(schema.label_column),
  )


def _with_history(rows: ir.Table, schema: Schema) -> tuple[ir.Table, list[str]]:
  """Adds `history`, the sequence that an event joins; '' for none."""
  is_positive = rows.label > 0
  given = list(schema.history_names)
  if schema.histories == 'none':
    return rows.mutate(history=ibis.literal('')), []
  if schema.histories == 'all':
    (name,) = given or ['history']
    return rows.mutate(history=is_positive.ifelse(name, '')), [name]
  if schema.histories == 'outcome':
    positive, negative = given or ['positive', 'negative']
    history = is_positive.ifelse(positive, negative)
    return rows.mutate(history=history), [positive, negative]
  found = rows.select('domain').distinct().order_by('domain').limit(1000)
  domains = found.to_pyarrow()['domain'].to_pylist()
  if len(domains) > _MAX_DOMAINS:
    raise ValueError(
      f'schema of {schema.name}: {schema.domain!r} has {len(domains)} values or'
      f' more; histories=domain makes a sequence of each, at most'
      f' {_MAX_DOMAINS}. Use histories: all.'
    )
  names = [re.sub(r'\W+', '_', domain) for domain in domains]
  cases = [
    (is_positive & (rows.domain == domain), name)
    for domain, name in zip(domains, names)
  ]
  return rows.mutate(history=ibis.cases(*cases, else_='')), names


def _digest_of(job: view.ViewWork, config: BehaviorConfig) -> str:
  """Names the texts of a run: the same again are not counted twice."""
  made_of = dataclasses.asdict(config) | {'events': job.about['config']}
  del made_of['examples']
  text = json.dumps(made_of, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def counts_table(description: Mapping[str, Any]) -> list[list[str]]:
  """Returns the counts of each split, the first row is the heading."""
  heading = ['split', 'examples', 'label 1', 'new user', 'new item', 'empty']
  table = [heading]
  for split, counts in description['splits'].items():
    table.append([split, *(f'{n:,}' for n in counts.values())])
  return table
