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

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any, Literal

from absl import logging
import ibis
from ibis.expr import types as ir
import numpy as np
import pyarrow as pa

from antjax.input import (
  behavior_examples,
  behavior_pieces,
  behavior_text,
  behavior_vocabulary,
  output_folder,
  prepare,
  record_writer,
  records,
)
from antjax.input import (
  engine as engine_lib,
)
from antjax.input.behavior_examples import ExampleConfig, RowLayout, SPLITS
from antjax.input.records import Field

_FORMAT_VERSION = 1
SCHEMA: Mapping[str, Field] = {
  'user': Field('int64'),
  'title': Field('int32'),
  'item': Field('int64'),
  'label': Field('float32'),
  'time': Field('int64'),
  'starts': Field('int64', 1),
  'stops': Field('int64', 1),
  'ids': Field('int64', 1),
  'numeric': Field('float32', 1),
  'is_new_user': Field('bool'),
  'is_new_item': Field('bool'),
}


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
  made_of = {
    'format_version': _FORMAT_VERSION,
    **made_of,
    'format': file_format,
    'vocabulary': os.path.abspath(vocabulary) if vocabulary else '',
    **json.loads(json.dumps(dataclasses.asdict(config))),
  }
  _check_shared(vocabulary)
  if output_folder.is_current(out, made_of, overwrite=overwrite):
    return output_folder.load_description(out), False
  parent = pathlib.Path(os.path.abspath(out)).parent
  parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=parent, prefix='.prepare-') as temporary:
    work = pathlib.Path(temporary)
    rejected = work / output_folder.REJECTED
    for name in ('raw', 'steps', 'spill'):
      (work / name).mkdir()
    try:
      with output_folder.staged(out) as stage:
        source = read(work, rejected)
        with engine_lib.backend(work, engine) as con:
          description = _make(
            con,
            stage,
            work,
            source,
            config,
            pathlib.Path(vocabulary or work / 'vocabulary'),
            made_of,
            file_format,
            progress,
          )
        description['config'] = made_of
        if rejected.exists():
          shutil.copy(rejected, stage / output_folder.REJECTED)
        text = json.dumps(description, indent=2, ensure_ascii=False)
        (stage / output_folder.DESCRIPTION).write_text(
          text + '\n', encoding='utf-8'
        )
    except ValueError as e:
      message = output_folder.keep_rejected(str(e), rejected, out)
      raise ValueError(message) from e
  return description, True


def _check_shared(vocabulary: str | os.PathLike[str]) -> None:
  """Refuses to change the vocabulary of a finished folder of data."""
  if not vocabulary:
    return
  parent = pathlib.Path(os.path.abspath(vocabulary)).parent
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
  made_of: Mapping[str, Any],
  file_format: str,
  progress: Callable[[str], None],
) -> dict[str, Any]:
  """Writes all files; returns the description."""
  layout = source.layout
  rows = con.read_parquet(str(source.rows / '*.parquet'))
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
  )
  (stage / 'events').mkdir()
  sequences = []
  for name, table in examples.events.items():
    progress(f'writing the events {name}')
    path = stage / 'events' / f'{name}.npy'
    sequences.append({'name': name, 'events': _write_events(path, table, work)})
  for i, name in enumerate(layout.texts):
    progress(f'writing the events {name}')
    path = stage / 'events' / f'{name}.npy'
    table = texts.events(i, examples.table, ids)
    sequences.append({'name': name, 'events': _write_events(path, table, work)})
  written = _write_splits(
    texts.with_lengths(examples.table),
    layout,
    stage,
    work,
    file_format,
    progress,
  )
  features = _write_ids(examples.id_maps, stage)
  kept = sum(split['examples'] for split in written['splits'].values())
  about = dict(source.about)
  counts = {
    **about.pop('counts'),
    'examples': kept,
    'users': features['user']['num_ids'] - 1,
    'items': features['item']['num_ids'] - 1,
    'behaviors': len(state),
    **texts.counts,
  }
  if not layout.is_labelled:
    counts['negatives_lacking'] = examples.num_short
    if examples.num_short:
      logging.warning(
        '%d of the negatives are lacking: their users have nearly all items of'
        ' the domain.',
        examples.num_short,
      )
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
      {'name': n, 'num_ids': features[f'id:{n}']['num_ids']} for n in layout.ids
    ],
    'numeric': list(layout.numeric),
    'num_users': features['user']['num_ids'],
    'num_items': features['item']['num_ids'],
    'num_behaviors': len(state),
    'counts': counts,
    'format': file_format,
    'schema': records.schema_to_json(SCHEMA),
    'splits': written['splits'],
    'files': {
      str(p.relative_to(stage)): output_folder.file_entry(stage, p)
      for p in sorted(stage.rglob('*'))
      if p.is_file()
    }
    | written['files'],
  }


def _digest_of(made_of: Mapping[str, Any]) -> str:
  """Names the texts of a run: the same again are not counted twice."""
  import hashlib

  rest = {k: v for k, v in made_of.items() if k not in ('vocabulary', 'format')}
  text = json.dumps(rest, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _write_events(
  path: pathlib.Path, table: ir.Table, work: pathlib.Path
) -> int:
  """Writes a column of behaviours as a .npy file; returns its length."""
  size = int(table.count().to_pyarrow().as_py())
  events = np.lib.format.open_memmap(path, 'w+', np.int32, (max(size, 1),))
  at = 0
  for batch in prepare.stream(table, work, ['behavior'], batch_rows=65_536):
    part = batch['behavior'].to_numpy(zero_copy_only=False)
    events[at : at + len(part)] = part
    at += len(part)
  assert at == size, (path, at, size)
  events.flush()
  return size


def _write_splits(
  table: ir.Table,
  layout: RowLayout,
  stage: pathlib.Path,
  work: pathlib.Path,
  file_format: str,
  progress: Callable[[str], None],
) -> dict[str, Any]:
  """Writes the examples; returns 'splits' and 'files'."""
  splits, files = {}, {}
  # Long texts' events come in the order of the examples, all splits in one.
  ends = np.zeros(len(layout.texts), np.int64)
  for number, split in enumerate(SPLITS):
    progress(f'writing {split}')
    path = stage / f'{split}.{file_format}'
    counter = _Counter()
    ordered = table.filter(table.split == number).order_by(
      behavior_examples.ORDER
    )

    def batches() -> Iterator[pa.RecordBatch]:
      for batch in prepare.stream(
        ordered, work, ordered.columns, batch_rows=8192
      ):
        made = _records(batch, layout, ends)
        counter(made)
        yield made

    if not record_writer.write(path, batches(), SCHEMA):
      logging.warning('No example for the split %s: it is left out.', split)
      path.unlink()
      continue
    splits[split] = counter.counts
    files[split] = output_folder.file_entry(stage, path)
  if not splits:
    raise ValueError('prepare_behaviors: the source gives no example at all.')
  return {'splits': splits, 'files': files}


def _records(
  batch: pa.RecordBatch, layout: RowLayout, ends: np.ndarray
) -> pa.RecordBatch:
  """Makes records of rows; `ends` says how many pieces came before, [T]."""

  def column(name: str) -> np.ndarray:
    return batch[name].to_numpy(zero_copy_only=False)

  size = batch.num_rows
  starts, stops = [], []
  for i in range(len(layout.histories)):
    starts.append(column(f'first_{i}'))
    stops.append(starts[-1] + column(f'before_{i}'))
  is_event = column('draw') == 0  # Drawn items share the pieces of the event.
  for i in range(len(layout.texts)):
    length = column(f'length_{i}')
    stop = ends[i] + np.cumsum(np.where(is_event, length, 0))
    starts.append(stop - length)
    stops.append(stop)
    if size:
      ends[i] = stop[-1]
  lists = {
    'starts': (starts, np.int64),
    'stops': (stops, np.int64),
    'ids': ([column(f'id_{i}') for i in range(len(layout.ids))], np.int64),
    'numeric': (
      [column(f'numeric_{i}') for i in range(len(layout.numeric))],
      np.float32,
    ),
  }
  columns = {}
  for name in SCHEMA:
    if name not in lists:
      columns[name] = batch[name]
      continue
    values, dtype = lists[name]
    flat = np.stack(values, 1) if values else np.zeros((size, 0))
    columns[name] = pa.ListArray.from_arrays(
      pa.array(np.arange(size + 1, dtype=np.int32) * flat.shape[1]),
      pa.array(flat.reshape(-1).astype(dtype)),
    )
  return pa.RecordBatch.from_pydict(columns)


class _Counter:
  """Counts the examples of a split."""

  def __init__(self) -> None:
    self.counts = dict.fromkeys(
      ('examples', 'positives', 'new_user', 'new_item', 'no_history'), 0
    )

  def __call__(self, batch: pa.RecordBatch) -> None:
    def add(name: str, values: np.ndarray) -> None:
      self.counts[name] += int(values.sum())

    self.counts['examples'] += batch.num_rows
    add('positives', batch['label'].to_numpy() > 0)
    add('new_user', batch['is_new_user'].to_numpy(zero_copy_only=False))
    add('new_item', batch['is_new_item'].to_numpy(zero_copy_only=False))
    flat = [batch[n].flatten().to_numpy() for n in ('starts', 'stops')]
    length = (flat[1] - flat[0]).reshape(batch.num_rows, -1).sum(1)
    add('no_history', length == 0)


def _write_ids(
  id_maps: Mapping[str, ir.Table], stage: pathlib.Path
) -> dict[str, dict[str, int]]:
  """Writes (value, id) files; returns name -> number of ids, with 0."""
  features = {}
  for name, table in id_maps.items():
    value = next(c for c in table.columns if c != 'id')
    number = len(features)
    file = name if name in ('user', 'item') else f'feature_{number - 2}'
    path = stage / f'ids_{file}.parquet'
    schema = {'value': Field('str'), 'id': Field('int32')}
    ordered = table.select(value=table[value], id='id').order_by('id')
    num = prepare.write_records(ordered, path, schema)
    features[name] = {'num_ids': num + 1}
  return features


def counts_table(description: Mapping[str, Any]) -> list[list[str]]:
  """Returns the counts of each split, the first row is the heading."""
  heading = ['split', 'examples', 'label 1', 'new user', 'new item', 'empty']
  table = [heading]
  for split, counts in description['splits'].items():
    table.append([split, *(f'{n:,}' for n in counts.values())])
  return table
