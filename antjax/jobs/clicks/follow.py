# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Continuous training of a click model on files or messages as they arrive.

Each file of a folder is trained on once, in the order of names; each message of
a topic (`stream`) in the order of partitions and offsets. A round covers all
that have arrived. After a round what it changed is saved with the names of its
files, or the offsets (`patches`), and only then is the delta since the last
round written. A trainer that is killed at any time resumes from there, writes
the missing delta with the same bytes, and reads nothing twice.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import pathlib
import time
from typing import Any, NamedTuple

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
from antjax.jobs.clicks import export, score, stream
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.data import ScenarioData
from antjax.jobs.clicks.messages import Messages
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


class _File(NamedTuple):
  """A file that has arrived; see `messages.Messages`."""

  path: pathlib.Path
  event_s: float

  @property
  def name(self) -> str:
    return self.path.name

  @property
  def where(self) -> str:
    return str(self.path)

  def tables(
    self, model: ClickScorer, rejects: Rejects, labels: Mapping[str, Kind]
  ) -> Iterator[pa.Table]:
    return score.tables(model, str(self.path), rejects, labels)


_Arrived = _File | Messages


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
    self._topic: stream.Topic | None = None
    if config.follows_topic:
      about = self.position.get('stream', {})
      self._topic = stream.Topic(
        *(config.follow, config.follow_config),
        about.get('offsets', {}),
        about.get('cluster', ''),
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

  def close(self) -> None:
    """Ends what is being written, and leaves the topic."""
    self.patches.close()
    if self._topic is not None:
      self._topic.close()

  def new(self) -> Sequence[_Arrived]:
    """Files that were not trained on, by name, or messages."""
    if self._topic is not None:
      return self._topic.new(self._config.follow_poll_s)
    done = {*self.position['files']}
    folder = pathlib.Path(self._config.follow)
    return [
      _File(path, _time(path))
      for path in sorted(folder.iterdir() if folder.is_dir() else ())
      if path.suffix in _SUFFIXES
      and path.name[0] not in '._'
      and path.name not in done
    ]

  def round(self, arrived: Sequence[_Arrived]) -> None:
    """Trains on files or messages, saves, and tells."""
    start, num_rows, losses = time.monotonic(), 0, list[Any]()
    touched: dict[str, list[np.ndarray]] = {}
    self.position['added'] = {}
    for one in arrived:
      for rows in self._read(one):
        self._admit(rows)
        for batch in self._batches(rows):
          for name, ids in rows_lib.touched(self._tables, batch['ids']).items():
            touched.setdefault(name, []).append(ids)
          self.state, metrics = self._click_job.trainer.step(self.state, batch)
          losses.append(metrics['loss'])
        num_rows += len(rows[next(iter(self._labels))])
    names = [one.name for one in arrived]
    if not num_rows and self._topic is None:  # Nothing is to be saved and told.
      self.position['files'] += names
      terminal.show(f'No row of {len(names)} files could be trained on.')
      return
    mean = float(np.mean(losses)) if losses else 0.0
    if not np.isfinite(mean):
      raise ValueError(
        f'follow: the loss on {", ".join(names)} is {mean};'
        ' nothing of them is saved or told. Take what is at fault away.'
      )
    self._advance(names)
    self.position |= {
      'sequence': self.position['sequence'] + 1,
      'info': {
        'files': names,
        'rows': num_rows,
        'step': int(self.state.step),
        'event_s': max(one.event_s for one in arrived),
      },
    }
    found = self._rows(rows_lib.joined(touched))
    self.patches.append(self.state, found, self.position)
    self._publish(found)
    terminal.show(
      f'Delta {self.position["sequence"]}: {num_rows:,} rows of'
      f' {", ".join(names[:9])}, loss {mean:.4f},'
      f' {time.monotonic() - start:.1f} s'
    )
    self.patches.compact(self.state, self.position)

  def _advance(self, names: list[str]) -> None:
    """Notes what needs not be read again."""
    if self._topic is not None:
      before = self.position.get('stream', {}).get('offsets', {})
      self.position['stream'] = {
        'cluster': self._topic.cluster,
        'offsets': before | self._topic.offsets,  # Other topics' as well.
      }
      return
    there = {p.name for p in pathlib.Path(self._config.follow).iterdir()}
    kept = [n for n in self.position['files'] if n in there]
    self.position['files'] = [*kept, *names]

  def _read(self, one: _Arrived) -> Iterator[dict[str, Any]]:
    """Columns of the good rows; bad ones are listed by line or offset.

    A file that cannot be read is left.
    """
    rejects = Rejects(self._run / f'{FOLDER}.rejected.csv', 1.0)
    try:
      kinds: dict[str, Kind] = {
        n: 'int32' if least is None else 'float32'
        for n, least in self._labels.items()
      }
      for table in one.tables(self._model, rejects, kinds):
        for name, least in self._labels.items():
          table = _with_clicks(table, name, least, one.where, rejects)
        if len(table):
          yield score.columns(table.drop_columns(ROW))
    except Exception as error:  # Whatever it holds, it must not stop the rest.
      if self._topic is not None:  # Messages are listed one by one.
        raise
      logging.error('%s is in quarantine, not trained on: %s', one.where, error)

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
  path: str,
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
  """Follows a folder or a topic until it is asked to stop."""
  data = ScenarioData(config, job)
  click_job = ClickJob(config, job, data, seed=config.seed)
  trainer = FileTrainer(config, job, click_job)
  terminal.show(f'Following {config.follow}; deltas go to {config.deltas}.')
  with contextlib.closing(trainer), job.should_stop.deferred():
    while not job.should_stop():
      if arrived := trainer.new():
        trainer.round(arrived)
      elif not config.follows_topic:  # It has waited.
        time.sleep(config.follow_poll_s)
