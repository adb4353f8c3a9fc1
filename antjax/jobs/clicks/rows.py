# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of a prepared folder as clicks, in memory or read on demand."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from absl import logging
import numpy as np

from antjax.ctr.antm2c import times
from antjax.ctr.antm2c.bags import Uses
from antjax.ctr.antm2c.clicks import ScenarioClicks
from antjax.ctr.antm2c.features import ClickFeatures, FIRST
from antjax.data import output_folder, records
from antjax.data.array_record_file import ArrayRecordSource
from antjax.data.behavior_vocabulary import UNK
from antjax.jobs.clicks import scenarios
from antjax.jobs.clicks.config import Config

COLUMNS = (
  *('user', 'item', 'title', 'label', 'labels', 'starts', 'stops'),
  *('ids', 'numeric'),
  *('is_new_user', 'is_new_item', 'user_count', 'item_count'),
)
_WIDE = ('starts', 'stops', 'time')
# With what is made of them and what scoring needs, columns take about as much
# again.
_TIMES = 2

Columns = dict[str, np.ndarray]


class SplitRows:
  """The rows of a split."""

  def __init__(self, source: records.Source, names: Sequence[str]):
    """Reads no rows."""
    assert not isinstance(source, ArrayRecordSource)  # Examples never are.
    self._source, self._names = source, tuple(names)
    self.whole: Columns | None = None  # None: columns stay in their files.

  def __len__(self) -> int:
    return len(self._source)

  @property
  def num_bytes(self) -> int:
    """Bytes that training with all columns in memory takes, roughly."""
    row = self.read(0, min(1, len(self)))
    return _TIMES * len(self) * sum(x.nbytes for x in row.values())

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(self.whole or self._names)

  def load(self) -> Columns:
    """Takes all columns into memory."""
    self.whole = records.whole_columns(self._source, self._names, _WIDE)
    return self.whole

  def read(
    self, start: int, stop: int, names: Sequence[str] | None = None
  ) -> Columns:
    """Columns of the rows start <= index < stop; all that there are."""
    names = self.names if names is None else names
    if self.whole is not None:
      return {name: self.whole[name][start:stop] for name in names}
    return records.columns(self._source, start, stop, names, _WIDE)

  def chunks(
    self, names: Sequence[str] = (), *, without: Sequence[str] = ()
  ) -> Iterator[Columns]:
    """Columns of all rows, some rows at a time: those named, or all others."""
    names = names or [n for n in self.names if n not in without]
    size = records.READ_RECORDS
    for start in range(0, len(self), size):
      yield self.read(start, min(start + size, len(self)), names)


def of_splits(
  config: Config, folder: pathlib.Path, described: Mapping[str, Any]
) -> dict[str, SplitRows]:
  """The rows of each split that the folder has, with the columns to read.

  Raises:
    ValueError: There is none to train on.
  """
  names = (*COLUMNS, *('time',) * bool(config.fields.time))
  files = {
    split: output_folder.split_files(folder, described, split)
    for split in ('train', 'validation', 'test')
  }
  if not files['train']:
    raise ValueError(f'data={config.data} has no training examples.')
  return {
    split: SplitRows(records.open_source(found), names)
    for split, found in files.items()
    if found
  }


def is_streamed(config: Config, splits: Mapping[str, SplitRows]) -> bool:
  """Whether the rows stay in their files.

  Raises:
    ValueError: They have to, and a setting needs all of them.
  """
  in_memory = sum(rows.num_bytes for rows in splits.values()) / 1e9
  found = config.stream == 'yes'
  if config.stream == 'auto':
    found = in_memory > config.stream_above
  if not found:
    return False
  told = f'rows stay in their files: they would take {in_memory:.1f} GB'
  if 'gap' in config.fields.time:
    if config.stream == 'auto':
      logging.warning(
        'stream=auto: fields.time=gap needs all rows in memory: %.1f GB.',
        in_memory,
      )
      return False
    raise ValueError(
      'stream=yes: fields.time=gap needs all rows in memory; leave gap out, or'
      ' use --stream=no.'
    )
  logging.info('stream=%s: %s.', config.stream, told)
  return True


@dataclasses.dataclass(eq=False)
class ClickMaker:
  """Makes clicks of columns, as training has it."""

  schema: Mapping[str, Any]  # Entries of the schema of the log.
  known: str  # `Config.ids`.
  id_names: Sequence[str]  # Names of the id columns.
  times: Sequence[str]  # Features of time.
  # Id of the scenario's column -> scenario, see `scenarios.find`.
  groups: np.ndarray
  at: int | None  # Number of that column.
  at_label: Sequence[int]  # Numbers of the labels.
  # Scenario of clicks whose own is unknown; -1: not known yet.
  largest: int = -1
  features: ClickFeatures | None = None  # Features, set before clicks are made.
  # Further attributes of all clicks, likewise.
  shared: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def scenario(self, found: Columns, split: str) -> tuple[np.ndarray, int]:
    """See `scenarios.of_clicks`."""
    return scenarios.of_clicks(found, self.groups, self.at, split, self.largest)

  @property
  def scenario_column(self) -> str:
    """Id column of the scenario; '' for none."""
    return '' if self.at is None else self.id_names[self.at]

  @property
  def scenario_of(self) -> np.ndarray:
    """int32, id of that column -> scenario; of others the largest one."""
    found = np.where(self.groups < 0, self.largest, self.groups)
    return found.astype(np.int32)

  def ids(self, found: Columns, split: str) -> dict[str, np.ndarray]:
    """Id column -> int [n], as the data have it: all, and the scenario."""
    ids = {n: self._known(found, n) for n in ('user', 'item')}
    ids['title'] = found['title']
    ids |= dict(zip(self.id_names, found['ids'].T, strict=True))
    ids['scenario'], _ = self.scenario(found, split)
    for name in self.times:
      if f'time_{name}' not in found:
        found |= times.columns((name,), found['user'], found['time'])
      ids[f'time_{name}'] = found[f'time_{name}']
    return ids

  def _known(self, found: Columns, name: str) -> np.ndarray:
    """User or item of each click; 0 for those that training has not seen."""
    if not self.schema[name]:  # There is no such column.
      return np.zeros(len(found[name]), np.int32)
    if self.known == 'global':
      return found[name]
    return np.where(found[f'is_new_{name}'], 0, found[name])

  def labels(self, found: Columns) -> np.ndarray:
    """The labels [n, T]."""
    every = np.concatenate([found['label'][:, None], found['labels']], axis=1)
    return every[:, self.at_label]

  def count(self, rows: SplitRows, split: str) -> tuple[np.ndarray, int]:
    """Clicks of each scenario, and how many of them are of unknown ones."""
    counts, num_new = np.zeros(self.groups.max() + 1, np.int64), 0
    for found in rows.chunks(('label', 'ids')):
      scenario, new = self.scenario(found, split)
      counts += np.bincount(scenario, minlength=len(counts))
      num_new += new
    if split == 'train':
      self.largest = int(counts.argmax())
    return counts, num_new

  def scored(self, rows: SplitRows, split: str) -> tuple[Columns, np.ndarray]:
    """Columns [N] that `scores` reads, and all labels [N, T]."""
    parts = []
    for found in rows.chunks(without=('starts', 'stops', 'numeric')):
      label_NT = self.labels(found)
      columns = {n: found[n] for n in ('user', 'user_count', 'item_count')}
      columns |= {'scenario': self.scenario(found, split)[0]}
      parts.append((columns | {'label': label_NT[:, 0]}, label_NT))
    scored = {
      name: np.concatenate([columns[name] for columns, _ in parts])
      for name in parts[0][0]
    }
    return scored, np.concatenate([label_NT for _, label_NT in parts])

  def __call__(self, found: Columns, split: str) -> ScenarioClicks:
    """Clicks, without what is scored."""
    assert self.features is not None
    fed = self.features(self.ids(found, split), found['numeric'])
    label_NT = self.labels(found)
    return ScenarioClicks(
      names=(*FIRST, *(f'column_{name}' for name in self.features.columns)),
      ids=np.stack([*fed.values()], axis=1),
      label=label_NT[:, 0],
      labels=label_NT[:, 1:] if len(self.at_label) > 1 else None,
      numeric=self.features.numbers(found['numeric']),
      starts=found['starts'],
      stops=found['stops'],
      image_items=found['item'],
      **self.shared,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedClicks:
  """Clicks of a split in files: what `ScenarioClicks` is of those in memory."""

  rows: SplitRows  # Their rows.
  make: Callable[[Columns], ScenarioClicks]  # Makes clicks of columns.
  # Columns [N] that `scores` reads; of training's clicks none.
  scored: Mapping[str, np.ndarray]
  labels_NT: np.ndarray  # All labels, likewise.

  def __len__(self) -> int:
    return len(self.rows)

  def part(self, start: int, stop: int) -> tuple[ScenarioClicks, np.ndarray]:
    """See `ScenarioClicks.part`."""
    return self.make(self.rows.read(start, stop)), np.arange(stop - start)

  def every_label(self, names: Sequence[str]) -> dict[str, np.ndarray]:
    """See `ScenarioClicks.every_label`."""
    return dict(zip(names, self.labels_NT.T, strict=True))


def longest(splits: Iterable[SplitRows]) -> list[int]:
  """Events of the longest part of each sequence that some row has."""
  parts = (part for rows in splits for part in rows.chunks(('starts', 'stops')))
  most = [(part['stops'] - part['starts']).max(axis=0) for part in parts]
  return np.max(most, axis=0).tolist()


def trained_titles(
  rows: SplitRows,
  uses: Mapping[int, Uses],
  histories: Mapping[int, np.ndarray],
  num_behaviors: int,
) -> np.ndarray:
  """Each title, int32 [V]; the unknown one for what training has not seen.

  Rows of training are added to the uses of all histories, and of others.
  `histories` are number of a history -> its events.
  """
  is_seen = np.zeros(num_behaviors, bool)
  is_seen[[0, UNK]] = True
  for found in rows.chunks(('title', 'starts', 'stops')):
    is_seen[found['title']] = True
    for n, used in uses.items():
      used.add(found['starts'][:, n], found['stops'][:, n])
  for n, events in histories.items():
    for part, clicks in uses[n].parts():
      is_seen[events[part][clicks > 0]] = True
  return np.where(is_seen, np.arange(num_behaviors), UNK).astype(np.int32)
