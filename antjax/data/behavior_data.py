# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes a log of textual behaviour as examples with histories.

The folder gets

  behaviors/          the vocabulary of texts, see `behavior_vocabulary`
  events/NAME.npy     int32 [E]: behaviours of all users, each user's in time
  train.arrow, validation.arrow, test.arrow    records of `SCHEMA`
  ids_NAME.parquet    users, items and categories -> ids
  dataset.json        what is in it

History n of an example is the part starts[n]:stops[n] of the n-th sequence of
`dataset.json`, oldest first.
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any, Literal

import ibis

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
  table_files,
)
from antjax.data import engine as engine_lib
from antjax.data.behavior_examples import ExampleConfig, RowLayout

_FORMAT_VERSION = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class BehaviorConfig:
  """How a log becomes a folder of data."""

  normalizer: behavior_text.Normalizer = behavior_text.Normalizer()
  splitter: behavior_text.Splitter = behavior_text.Splitter()
  examples: ExampleConfig = ExampleConfig()


@dataclasses.dataclass(frozen=True)
class Source:
  """Rows of a log, as a reader has written them.

  Attributes:
    rows: Folder of Parquet files: row int64, user, item, domain, history, text
      (texts), time int64, label float32, and the columns of `layout`.
    layout: What they hold.
    about: Entries for `dataset.json`: name, where from, counts.
  """

  rows: pathlib.Path
  layout: RowLayout
  about: Mapping[str, Any]


# Writes the rows to a folder: (work, rejected file) -> Source.
Reader = Callable[[pathlib.Path, pathlib.Path], Source]


def prepare_behaviors(
  out: str | os.PathLike[str],
  read: Reader,
  made_of: Mapping[str, Any],
  config: BehaviorConfig,
  *,
  vocabulary: str | os.PathLike[str] = '',
  ids_from: str | os.PathLike[str] = '',
  engine: engine_lib.Engine | None = None,
  file_format: Literal['arrow', 'parquet'] = 'arrow',
  overwrite: bool = False,
  progress: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], bool]:
  """Makes the folder of the module's docstring.

  Args:
    out: Folder to make; intermediate files are beside it.
    read: Reads the source.
    made_of: JSON-able: what decides the rows, with a fingerprint of the data.
    config: How rows become examples.
    vocabulary: Folder of a vocabulary to append to, made where there is none;
      `out` gets a copy of its state then. '' makes one for `out` alone.
    ids_from: Folder of an earlier day: its users, items and categories keep
      their ids, and new ones follow. '' numbers those of `read` alone.
    engine: What does the work; the files do not depend on it.
    file_format: Format of the record files.
    overwrite: Replace data made with another configuration.
    progress: Called with a text at the start of each step.

  Returns:
    The content of `dataset.json`, and whether it was made now.

  Raises:
    ValueError: `out` holds something else, or the source is not as it must be.
    FileNotFoundError: No such source.
    RuntimeError: Another process appends to the vocabulary.
  """
  engine = engine or engine_lib.Engine()
  if ids_from and os.path.realpath(ids_from) == os.path.realpath(out):
    raise ValueError(
      f'ids_from={ids_from} is the folder to make; name another.'
    )
  known = behavior_files.find_ids(ids_from) if ids_from else {}
  made_of = {
    'format_version': _FORMAT_VERSION,
    **made_of,
    'format': file_format,
    'vocabulary': os.path.abspath(vocabulary) if vocabulary else '',
    'ids_from': table_files.fingerprint(list(known.values())) if known else '',
    **json.loads(json.dumps(dataclasses.asdict(config))),
  }
  _check_shared(vocabulary, out)

  def write(stage: pathlib.Path, work: pathlib.Path) -> dict[str, Any]:
    for name in ('raw', 'steps', 'spill'):
      (work / name).mkdir()
    source = read(work, work / output_folder.REJECTED)
    with engine_lib.backend(work, engine) as con:
      return _make(
        con,
        stage,
        work,
        source,
        config,
        pathlib.Path(vocabulary or work / 'vocabulary'),
        known,
        made_of,
        file_format,
        progress,
      )

  return output_folder.make(out, made_of, write, overwrite=overwrite)


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


def _make(
  con: ibis.BaseBackend,
  stage: pathlib.Path,
  work: pathlib.Path,
  source: Source,
  config: BehaviorConfig,
  vocabulary: pathlib.Path,
  known_ids: Mapping[str, pathlib.Path],
  made_of: Mapping[str, Any],
  file_format: str,
  progress: Callable[[str], None],
) -> dict[str, Any]:
  """Writes all files; returns the description."""
  layout = source.layout
  rows = prepare.read_parquet(con, source.rows, '*.parquet')
  progress('normalising and splitting texts')
  texts = behavior_pieces.collect(
    con, rows, layout, config.normalizer, config.splitter, work / 'steps'
  )
  progress('appending to the vocabulary')
  state = behavior_vocabulary.append(
    con,
    vocabulary,
    texts.distinct,
    normalizer=config.normalizer.name,
    source=_digest_of(made_of),
  ).copy_to(stage / 'behaviors')
  ids = state.table(con)
  examples = behavior_examples.build(
    con,
    texts.with_titles(rows, ids).drop('text', *texts.columns),
    layout,
    config.examples,
    work / 'steps',
    progress,
    {n: prepare.read_parquet(con, path) for n, path in known_ids.items()},
  )
  (stage / 'events').mkdir()
  events = dict(examples.events)
  for i, name in enumerate(layout.texts):
    events[name] = texts.events(i, examples.table, ids)
  sequences: list[dict[str, Any]] = []
  for name, table in events.items():
    progress(f'writing the events {name}')
    path = stage / 'events' / f'{name}.npy'
    size = column_file.write_int32(path, table, 'behavior', work)
    sequences.append({'name': name, 'events': size})
    if name in layout.texts:  # A separator that is none shows here.
      sequences[-1]['texts'] = texts.lengths(layout.texts.index(name))
  splits = behavior_files.write_splits(
    texts.with_lengths(examples.table),
    layout,
    stage,
    work,
    file_format,
    progress,
  )
  num_ids = behavior_files.write_ids(examples.id_maps, stage)
  about = dict(source.about)
  counts = {
    **about.pop('counts'),
    'examples': sum(split['examples'] for split in splits.values()),
    'users': num_ids['user'] - 1,
    'items': num_ids['item'] - 1,
    'behaviors': len(state),
    **texts.counts,
  }
  if not layout.is_labelled:
    counts['negatives_lacking'] = examples.num_short
  return {
    **about,
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
    'format': file_format,
    'schema': record_schema.schema_to_json(behavior_files.SCHEMA),
    'splits': splits,
    'files': behavior_files.list_files(stage, splits),
  }


def _digest_of(made_of: Mapping[str, Any]) -> str:
  """Names the texts of a run: the same again are not counted twice."""
  other = ('vocabulary', 'ids_from', 'format', 'examples')
  rest = {name: x for name, x in made_of.items() if name not in other}
  text = json.dumps(rest, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def counts_table(description: Mapping[str, Any]) -> list[list[str]]:
  """Returns the counts of each split, the first row is the heading."""
  heading = ['split', 'examples', 'label 1', 'new user', 'new item', 'empty']
  table = [heading]
  for split, counts in description['splits'].items():
    table.append([split, *(f'{n:,}' for n in counts.values())])
  return table
