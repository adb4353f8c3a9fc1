# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Continuous training of a click model on files as they arrive.

Each file of a folder is trained on once, in the order of names. A round covers
all files that have arrived. After a round what it changed is saved with the
names of its files (`patches`), and only then is the delta since the last round
written. A trainer that is killed at any time resumes from there, writes the
missing delta with the same bytes, and reads no file twice.
"""

from collections.abc import Iterator, Mapping
import contextlib
import pathlib
import time
from typing import Any

from absl import logging
import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from antjax import paths
from antjax.data.rejects import BadRow, Rejects
from antjax.data.row_writer import ROW
from antjax.data.table_columns import Kind
from antjax.embedding import rounding
from antjax.embedding import rows as rows_lib
from antjax.jobs import job as job_lib
from antjax.jobs.clicks import export, score
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.data import ScenarioData
from antjax.jobs.clicks.patches import Patches, Position
from antjax.jobs.clicks.training import ClickJob
from antjax.report import terminal
from antjax.serving import exporter, feed, loader
from antjax.serving.click_loader import ClickScorer
from antjax.serving.live import Live
from antjax.train import checkpoint
from antjax.train.state import named_leaves, TrainState

FOLDER = 'follow'
_SUFFIXES = ('.csv', '.tsv', '.parquet', '.json', '.jsonl')
_OF_NEW = {'item:title': 1}  # The unknown title; 0 in other arrays.


class FileTrainer:
  """The trainer's state beside the one that deltas have told."""

  def __init__(self, config: Config, job: job_lib.Job, click_job: ClickJob):
    """Restores the newest state, and writes the delta of it if it is missing.

    Raises:
      ValueError: The model cannot be followed, or the deltas are of another
        trainer.
    """
    if jax.process_count() > 1 or job.agent is not None:
      raise ValueError('follow: one process trains; leave the launcher out.')
    if click_job.tables.home is not None:
      raise ValueError(
        'follow: rows with a home are not followed; set fields.device_rows=0.'
      )
    if click_job.model.is_by_scenario:
      raise ValueError(
        f'follow: model={config.model} needs rows in the order of scenarios;'
        ' give another model.'
      )
    click_job.checked()
    self._config, self._click_job = config, click_job
    self._run = job.run_dir / f'seed_{config.seed}'
    folder = self._run / export.FOLDER
    self._model = ClickScorer(folder, is_live=True)
    self._live = Live(self._model, exporter.sha256(folder / loader.MANIFEST))
    self._size = job.batch_shape(config.batch_size, config.num_micro_batches)[0]
    sizes = click_job.model.data
    schema, room = click_job.schema, {}
    # Label -> least rating of a click; None: it is 0 or 1 already.
    self._labels = {
      n: schema['positive_from'] if n == schema.get('rating') else None
      for n in sizes.labels
    }
    for name, most in (('user', sizes.num_users), ('item', sizes.num_items)):
      is_own = f'frequent:{name}' not in self._model.arrays
      room[name] = most if is_own else 0
    self._room = room
    click_job.start()
    layout, digest = click_job.trainer.layout, self._live.version['digest']
    self._tables = click_job.tables
    self.patches = Patches(self._run / FOLDER, layout, self._tables, digest)
    nothing: Position = {'sequence': 0, 'files': [], 'info': {}, 'added': {}}
    self.state, self.position, touched = self.patches.restore(
      self._trained, nothing
    )
    deltas = feed.DeltaFeed(config.deltas, digest)
    while (delta := deltas.next()) is not None:
      self._live.apply(delta)
      deltas.took(delta)
    told, wanted = deltas.sequence, self.position['sequence']
    if deltas.trouble or told not in (wanted, wanted - 1):
      raise ValueError(
        f'deltas={config.deltas} ends with number {told}, and {self._run} is at'
        f' {wanted}. {deltas.trouble} Give the folder of this run, or train'
        ' another run_dir.'
      )
    if told < wanted:
      self._publish(self._rows(touched))

  def _trained(self) -> TrainState:
    """The state that was exported."""
    with checkpoint.Checkpointer(
      paths.origin(self._run / paths.CHECKPOINTS),
      self._click_job.trainer.layout,
    ) as saver:
      return saver.restore(self._model.manifest['step'])[0]

  def new_files(self) -> list[pathlib.Path]:
    """Files that were not trained on, by name."""
    done = {*self.position['files']}
    folder = pathlib.Path(self._config.follow)
    return sorted(
      path
      for path in (folder.iterdir() if folder.is_dir() else ())
      if path.suffix in _SUFFIXES
      and path.name[0] not in '._'
      and path.name not in done
    )

  def round(self, files: list[pathlib.Path]) -> None:
    """Trains on files, saves, and tells."""
    start, num_rows, losses = time.monotonic(), 0, list[Any]()
    touched: dict[str, list[np.ndarray]] = {}
    self.position['added'] = {}
    times = [_time(path) for path in files]
    for path in files:
      for rows in self._read(path):
        self._admit(rows)
        for batch in self._batches(rows):
          for name, ids in rows_lib.touched(self._tables, batch['ids']).items():
            touched.setdefault(name, []).append(ids)
          self.state, metrics = self._click_job.trainer.step(self.state, batch)
          losses.append(metrics['loss'])
        num_rows += len(rows[next(iter(self._labels))])
    if not num_rows:  # There is no new state to save and to tell.
      self.position['files'] += [path.name for path in files]
      terminal.show(f'No row of {len(files)} files could be trained on.')
      return
    if not np.isfinite(mean := float(np.mean(losses))):
      raise ValueError(
        f'follow: the loss on {", ".join(p.name for p in files)} is {mean};'
        ' nothing of them is saved or told. Take the file at fault away.'
      )
    there = {p.name for p in pathlib.Path(self._config.follow).iterdir()}
    kept = [n for n in self.position['files'] if n in there]
    self.position |= {
      'files': [*kept, *(path.name for path in files)],
      'sequence': self.position['sequence'] + 1,
      'info': {
        'files': [path.name for path in files],
        'rows': num_rows,
        'step': int(self.state.step),
        'event_s': max(times),
      },
    }
    found = self._rows(rows_lib.joined(touched))
    self.patches.append(self.state, found, self.position)
    self._publish(found)
    terminal.show(
      f'Delta {self.position["sequence"]}: {num_rows:,} rows of'
      f' {len(files)} files, loss {mean:.4f},'
      f' {time.monotonic() - start:.1f} s'
    )
    self.patches.compact(self.state, self.position)

  def _read(self, path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Columns of a file's good rows; bad ones are counted by column.

    A file that cannot be read is left.
    """
    rejects = Rejects(self._run / f'{FOLDER}.rejected.csv', 1.0)
    try:
      kinds: dict[str, Kind] = {
        n: 'int32' if least is None else 'float32'
        for n, least in self._labels.items()
      }
      for table in score.tables(self._model, str(path), rejects, kinds):
        for name, least in self._labels.items():
          table = _with_clicks(table, name, least, path, rejects)
        if len(table):
          yield score.columns(table.drop_columns(ROW))
    except Exception as error:  # Whatever it holds, it must not stop the rest.
      logging.error('%s is in quarantine, not trained on: %s', path, error)

  def _batches(self, rows: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Batches of a step; lacking rows repeat the last one with weight 0."""
    found, _ = self._model.batch(rows)
    labels = np.stack([rows[n] for n in self._labels], axis=1, dtype=np.float32)
    found |= {'label': labels[:, 0]}
    if labels.shape[1] > 1:
      found['labels'] = labels[:, 1:]
    for start in range(0, len(labels), self._size):
      place = np.arange(start, start + self._size)
      batch = jax.tree.map(
        lambda x: x[np.minimum(place, len(labels) - 1)], found
      )
      yield batch | {'weight': (place < len(labels)).astype(np.float32)}

  def _admit(self, rows: Mapping[str, Any]) -> None:
    """Gives rows of tables to users and items that have none yet."""
    model, every = self._model, self.position['added']
    for name in ('user', 'item'):
      if not (column := model.clicks[name]):
        continue
      known = model.arrays[f'known:{name}']
      texts = np.unique(model.texts(rows[column], column))
      ids = model.ids(name, texts)
      room = self._room[name] - len(known)
      added = every.setdefault(
        name, {'first': len(known), 'old': [], 'new': []}
      )
      added['old'] += ids[(ids > 0) & (known[ids] == 0)].tolist()
      added['new'] += texts[ids == 0][: max(0, room)].tolist()
      self._live.take(self._vocabularies())

  def _vocabularies(self) -> dict[str, np.ndarray]:
    """Arrays of the delta that tell of users and items of this round."""
    found: dict[str, np.ndarray] = {}
    for name, added in self.position['added'].items():
      count = len(added['new'])
      ids = added['first'] + np.arange(count)
      if count:
        found[f'keys/{name}'] = np.strings.encode(
          np.array(added['new']), 'utf-8'
        )
        found[f'ids/{name}'] = ids.astype(np.int32)
      for full, array in self._model.arrays.items():
        kind = full.partition(':')[0]
        fill: float = _OF_NEW.get(full, 0)
        if full.startswith('item:number:'):
          fill = np.nan
        if count and kind == ('item' if name == 'item' else 'history'):
          shape = count, *array.shape[1:]
          found[f'at/{full}'] = ids
          found[f'to/{full}'] = np.full(shape, fill, array.dtype)
      every = np.concatenate([np.array(added['old'], np.int64), ids])
      if len(every):
        found[f'at/known:{name}'] = every
        found[f'to/known:{name}'] = every.astype(np.int32)
    return found

  def _rows(self, ids: rows_lib.Ids) -> dict[str, Any]:
    """Table -> ids of rows, and what is kept of them."""
    found = rows_lib.read(self._tables, self.state.tables, ids)
    return {n: (ids[n], found[n]) for n in found}

  def _publish(self, rows: dict[str, Any]) -> None:
    """Writes the delta to the state, and takes it into the model."""
    by_path, _ = jax.tree.flatten_with_path(
      self._click_job.trainer.params(self.state)
    )
    params = {n: np.asarray(x) for n, x in named_leaves(by_path)}
    new = {
      n: [(ids, np.asarray(rounding.to_float(x['table'])))]
      for n, (ids, x) in rows.items()
    }
    arrays = self._live.changes(params, new)
    delta = feed.write(
      self._config.deltas,
      self.position['sequence'],
      self._live.version['digest'],
      arrays | self._vocabularies(),
      self.position['info'],
    )
    self._live.apply(delta)


def _with_clicks(
  table: pa.Table,
  name: str,
  least: float | None,
  path: pathlib.Path,
  rejects: Rejects,
) -> pa.Table:
  """The rows whose label is 0 or 1; the others are listed.

  A rating is 1 if it is at least `least`.
  """
  if least is not None:
    liked = pc.cast(pc.greater_equal(table[name], least), pa.int32())
    table = table.set_column(table.column_names.index(name), name, liked)
  is_good = pc.is_in(table[name], pa.array([0, 1], table[name].type))
  bad = table.filter(pc.invert(is_good))
  if not len(bad):
    return table
  rows = zip(bad[ROW].to_pylist(), bad[name].to_pylist(), strict=True)
  found = [
    BadRow(row + 1, name, 'label', f'{label} is not 0 or 1')
    for row, label in rows
  ]
  rejects.add(path, found)
  logging.warning(
    '%s: %d rows with another label %r than 0 or 1 are in quarantine, listed'
    ' in %s.',
    *(path, len(bad), name, rejects.path),
  )
  return table.filter(is_good)


def _time(path: pathlib.Path) -> float:
  """When a file was written, in seconds; 0: it has gone."""
  try:
    return path.stat().st_mtime
  except OSError:
    return 0.0


def is_trained(config: Config, job: job_lib.Job) -> bool:
  """Whether the training that is followed has ended."""
  folder = job.run_dir / f'seed_{config.seed}' / export.FOLDER
  return (folder / loader.MANIFEST).is_file()


def run(config: Config, job: job_lib.Job) -> None:
  """Follows a folder until it is asked to stop."""
  data = ScenarioData(config, job)
  click_job = ClickJob(config, job, data, seed=config.seed)
  trainer = FileTrainer(config, job, click_job)
  terminal.show(f'Following {config.follow}; deltas go to {config.deltas}.')
  with contextlib.closing(trainer.patches), job.should_stop.deferred():
    while not job.should_stop():
      if files := trainer.new_files():
        trainer.round(files)
      else:
        time.sleep(config.follow_poll_s)
