# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The distinct behaviors of all days: text <-> dense id, append-only.

Row 0 is padding, row 1 is any unknown text; texts follow from row 2. An
append adds the texts that are new, those that occur most first, equal ones in
the order of their UTF-8 bytes; an id never changes. Texts are compared
exactly, not by a hash.

A folder holds, for each append n, `texts-n.parquet` (id, text: the new ones)
and `counts-n.parquet` (id, count: of all texts seen then). `vocabulary.json`
names the files that count. It is replaced last, in one step: a reader sees the
state before an append or after it, and a killed append leaves nothing behind
that is read.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
from typing import Any

import ibis
from ibis.expr import types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from antjax import paths
from antjax.data import behavior_text, prepare, record_writer
from antjax.data.record_schema import Field

PAD, UNK = 0, 1
SPECIAL_TEXTS = ('', '[UNK]')  # Texts of rows 0 and 1; no file holds them.
MANIFEST = 'vocabulary.json'
_FORMAT_VERSION = 1
_ROW_GROUP = 16_384
_TEXTS = {'id': Field('int32'), 'text': Field('str')}
_COUNTS = {'id': Field('int32'), 'count': Field('int64')}


@dataclasses.dataclass(frozen=True)
class Append:
  """What one append did."""

  source: str  # Fingerprint of the data; data with the same one are added once.
  number: int  # Number in the names of the files.
  first: int  # First id that is new.
  num_new: int  # Texts that are new.
  num_events: int  # Occurrences that were counted.
  num_bytes: tuple[int, int]  # Size of both files.

  @property
  def files(self) -> tuple[str, str]:
    """Names of the files with texts and with counts."""
    return (
      f'texts-{self.number:05d}.parquet',
      f'counts-{self.number:05d}.parquet',
    )


class BehaviorVocabulary:
  """One state of a vocabulary, whatever is appended later."""

  def __init__(
    self, folder: pathlib.Path, normalizer: str, appends: tuple[Append, ...]
  ):
    """Use `open` instead; a normalizer's name has its version."""
    self.folder, self.normalizer, self.appends = folder, normalizer, appends

  @classmethod
  def open(cls, folder: str | os.PathLike[str]) -> 'BehaviorVocabulary':
    """Opens the newest state; reads no texts.

    Raises:
      FileNotFoundError: No vocabulary there.
      ValueError: Damaged, or of another version.
    """
    folder = paths.fetched(folder, 'vocabulary')
    path = folder / MANIFEST
    if not path.is_file():
      raise FileNotFoundError(
        f'{path} is missing: {folder} holds no vocabulary of behaviors;'
        ' launch/prepare_data.py makes one.'
      )
    try:
      manifest = json.loads(path.read_text(encoding='utf-8'))
      version = manifest['format_version']
      entries = [
        Append(**{**entry, 'num_bytes': tuple(entry['num_bytes'])})
        for entry in manifest['appends']
      ]
      normalizer = str(manifest['normalizer'])
    except (KeyError, TypeError, ValueError) as e:
      raise ValueError(
        f'{path} was not written by launch/prepare_data.py ({e!r}).'
      ) from e
    if version != _FORMAT_VERSION:
      raise ValueError(
        f'{path} has format {version}; this version reads {_FORMAT_VERSION}.'
      )
    for entry in entries:
      for name, size in zip(entry.files, entry.num_bytes):
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
          raise ValueError(
            f'{file} is damaged or missing; copy the vocabulary from where it'
            ' is whole, or make it anew.'
          )
    return cls(folder, normalizer, tuple(entries))

  def __len__(self) -> int:
    """Returns the number of rows, with padding and unknown."""
    if not self.appends:
      return len(SPECIAL_TEXTS)
    return self.appends[-1].first + self.appends[-1].num_new

  def texts(self, start: int, stop: int) -> list[str]:
    """The texts of the rows start <= id < stop, which are here."""
    if not 0 <= start <= stop <= len(self):
      raise ValueError(
        f'texts({start}, {stop}) of {self.folder}: needed 0 <= start <= stop'
        f' <= {len(self)}.'
      )
    found = list(SPECIAL_TEXTS[start:stop])
    for entry in self.appends:
      a = max(start - entry.first, 0)
      b = min(stop - entry.first, entry.num_new)
      if a < b:
        found += _read_texts(self.folder / entry.files[0], a, b)
    return found

  def find(self, texts: Sequence[str]) -> np.ndarray:
    """Returns the ids of texts, `UNK` for those that are not here.

    Reads the whole vocabulary: for a few texts of a request, or in bulk. Texts
    are normalized first; those that the splitter has cut are found by what it
    left of them.

    Returns:
      Ids, int32 [len(texts)]; `PAD` for a text of which nothing is left.
    """
    normalizer = behavior_text.from_name(self.normalizer)
    wanted = pa.array([normalizer(text) for text in texts], pa.string())
    ids = np.where(pc.equal(wanted, ''), PAD, UNK).astype(np.int32)
    for entry in self.appends:
      with pq.ParquetFile(self.folder / entry.files[0]) as file:
        for batch in file.iter_batches(_ROW_GROUP):
          place = pc.index_in(wanted, batch['text'])
          found = np.flatnonzero(place.is_valid())
          at = place.drop_null().to_numpy()
          ids[found] = batch['id'].to_numpy()[at]
    return ids

  def frequencies(self) -> np.ndarray:
    """Returns how often each row occurred in all appends, int64 [rows]."""
    total = np.zeros(len(self), np.int64)
    for entry in self.appends:
      table = pq.read_table(self.folder / entry.files[1])
      # Ids of one append are distinct.
      total[table['id'].to_numpy()] += table['count'].to_numpy()
    return total

  def table(self, con: ibis.BaseBackend) -> ir.Table:
    """Returns (id, text) as a table of an engine, after the first append."""
    return _union(con, [self.folder / e.files[0] for e in self.appends])

  def copy_to(self, folder: str | os.PathLike[str]) -> 'BehaviorVocabulary':
    """Makes this state a folder of its own, by hard links where they work."""
    folder = paths.local(folder, 'vocabulary')
    folder.mkdir(parents=True)
    for entry in self.appends:
      for name in entry.files:
        try:
          os.link(self.folder / name, folder / name)
        except OSError:  # Another file system, or one without links.
          shutil.copyfile(self.folder / name, folder / name)
    _write_manifest(folder, self.normalizer, self.appends)
    return BehaviorVocabulary(folder, self.normalizer, self.appends)


def append(
  con: ibis.BaseBackend,
  folder: str | os.PathLike[str],
  texts: ir.Table,
  *,
  normalizer: str,
  source: str,
) -> BehaviorVocabulary:
  """Adds texts (text, count int64) to a vocabulary, or makes it.

  They are distinct, normalized by the normalizer of that name, and none is
  empty. Data of a `source`, a fingerprint, are added once, so that a run may be
  repeated.

  Raises:
    ValueError: The vocabulary has another normalizer.
    RuntimeError: Another process is at it.
  """
  folder = paths.local(folder, 'vocabulary')
  folder.mkdir(parents=True, exist_ok=True)
  with _locked(folder):
    if (folder / MANIFEST).exists():
      old = BehaviorVocabulary.open(folder)
    else:
      old = BehaviorVocabulary(folder, normalizer, ())
    if old.normalizer != normalizer:
      raise ValueError(
        f'vocabulary={folder} has texts of the normaliser {old.normalizer!r};'
        f' these have {normalizer!r}. Use the same --normalizer.lower, or'
        ' another folder.'
      )
    if any(entry.source == source for entry in old.appends):
      return old
    entry = _write_append(con, old, texts, source)
    _write_manifest(folder, normalizer, (*old.appends, entry))
  return BehaviorVocabulary.open(folder)


def _write_append(
  con: ibis.BaseBackend, old: BehaviorVocabulary, texts: ir.Table, source: str
) -> Append:
  """Writes the two files of an append; they do not count yet."""
  number, first = len(old.appends), len(old)
  entry = Append(source, number, first, 0, 0, (0, 0))
  new_path, counts_path = (old.folder / name for name in entry.files)
  new = texts.anti_join(old.table(con), 'text') if old.appends else texts
  new = new.order_by([new['count'].desc(), new.text])

  def numbered() -> Iterator[pa.RecordBatch]:
    start = first
    for batch in prepare.stream(new, old.folder, ['text', 'count']):
      stop = start + batch.num_rows
      if stop > np.iinfo(np.int32).max:
        raise ValueError(
          f'vocabulary={old.folder}: {stop} rows do not fit ids of 32 bits.'
        )
      ids = pa.array(np.arange(start, stop, dtype=np.int32))
      yield pa.record_batch({'id': ids, 'text': batch['text']})
      start = stop

  num_new = record_writer.write(
    new_path, numbered(), _TEXTS, block_size=_ROW_GROUP
  )
  known = [old.folder / e.files[0] for e in old.appends]
  counts = texts.join(_union(con, [*known, new_path]), 'text').order_by('id')
  prepare.write_records(counts, counts_path, _COUNTS, block_size=_ROW_GROUP)
  total = int(texts['count'].sum().to_pyarrow().as_py() or 0)
  sizes = (new_path.stat().st_size, counts_path.stat().st_size)
  return Append(source, number, first, num_new, total, sizes)


def _union(con: ibis.BaseBackend, files: list[pathlib.Path]) -> ir.Table:
  tables = [prepare.read_parquet(con, file) for file in files]
  return tables[0] if len(tables) == 1 else ibis.union(*tables)


def _write_manifest(
  folder: pathlib.Path, normalizer: str, appends: tuple[Append, ...]
) -> None:
  """Replaces the manifest in one step, after the files are on the disk."""
  for entry in appends[-1:]:
    for name in entry.files:
      paths.flush(folder / name)
  content = {
    'format_version': _FORMAT_VERSION,
    'normalizer': normalizer,
    'appends': [dataclasses.asdict(entry) for entry in appends],
  }
  text = json.dumps(content, indent=2, ensure_ascii=False)
  with paths.replaced(folder / MANIFEST, is_durable=True) as new:
    new.write_text(text + '\n', encoding='utf-8')


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
  """Keeps others from appending; the lock ends with the process."""
  with open(folder / '.lock', 'a') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise RuntimeError(
        f'vocabulary={folder}: another process appends to it; wait for it.'
      ) from e
    yield


def _read_texts(path: pathlib.Path, start: int, stop: int) -> list[str]:
  """Returns rows of a file, from the row groups that hold them."""
  with pq.ParquetFile(path) as file:
    first, last = start // _ROW_GROUP, -(-stop // _ROW_GROUP)
    table: Any = file.read_row_groups(range(first, last), columns=['text'])
  at = start - first * _ROW_GROUP
  return table['text'].slice(at, stop - start).to_pylist()
