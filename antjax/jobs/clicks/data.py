# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data of launch/train_clicks.py: a prepared folder as clicks."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import json
import pathlib
from typing import Any

from absl import logging
import grain
import jax
import numpy as np

from antjax.ctr.antm2c import crosses as crosses_lib
from antjax.ctr.antm2c import times
from antjax.ctr.antm2c.bags import Bag, Uses
from antjax.ctr.antm2c.clicks import ScenarioClicks, TextVectors
from antjax.ctr.antm2c.data_sizes import DataSizes
from antjax.ctr.antm2c.features import by_title, ClickFeatures, FIRST
from antjax.ctr.antm2c.model import ScenarioModel
from antjax.data import output_folder, shuffled_index
from antjax.jobs import identity as run_identity
from antjax.jobs import job as job_lib
from antjax.jobs.clicks import rows as rows_lib
from antjax.jobs.clicks import scenarios
from antjax.jobs.clicks import vectors as antm2c_vectors
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.rows import SplitRows, StreamedClicks
from antjax.networks.network import ScenarioMoments

# Of a training that streams: rows of a block, and blocks that are shuffled at
# once, or more.
_BLOCK_ROWS, _BLOCKS = 4096, 64


class ScenarioData:
  """The clicks of all splits.

  Attributes:
    description: Content of the data folder's dataset.json.
    schema: Entries of the schema of the log.
    scenarios: Names of the scenarios.
    maker: Makes clicks of rows.
    rows_of: Split -> its rows.
    is_streamed: Whether rows stay in their files.
    scenario_counts: Split -> its clicks by scenario.
    unseen: Split -> its clicks of scenarios that training has not, which count
      as those of its largest.
    bags: Sequence that is a bag -> its pooling.
    features: Features of the clicks, as training has them.
    splits: Split -> its clicks.
    sizes: Sizes that the model needs.
    made_of: Fingerprints of the inputs, for `run_identity`.
  """

  def __init__(self, config: Config, job: job_lib.Job):
    """Reads all columns, or looks through them where they stay in files.

    Raises:
      ValueError: The folder holds something else, or has no such scenario,
        history or label.
    """
    folder, described = output_folder.open_view(config.data, 'examples')
    if not set(rows_lib.COLUMNS) <= set(described['schema']):
      raise ValueError(
        f'data={config.data} was made by an older version; make it again with'
        ' --overwrite.'
      )
    output_folder.check_files(folder, described, 'events/')
    self._config, self._job, self.description = config, job, described
    self.schema = described['config']['events']['schema']
    self.scenarios, groups, at = scenarios.find(config, folder, described)
    labels = config.labels or tuple(described['label_names'])
    self.maker = rows_lib.ClickMaker(
      self.schema,
      config.ids,
      [c['name'] for c in described['ids']],
      config.fields.time,
      groups,
      at,
      [
        scenarios.place('labels', n, 'labels', described['label_names'])
        for n in labels
      ],
    )
    num_ids = self._num_ids()
    self.rows_of = rows_lib.of_splits(config, folder, described)
    self.is_streamed = rows_lib.is_streamed(config, self.rows_of)
    if not self.is_streamed:
      whole = {split: rows.load() for split, rows in self.rows_of.items()}
      times.add(config.fields.time, whole, whole)
    self.unseen, self.scenario_counts = {}, {}
    for split, rows in self.rows_of.items():
      counted = self.maker.count(rows, split)
      self.scenario_counts[split], self.unseen[split] = counted
    names = [s['name'] for s in described['sequences']]
    text, images = antm2c_vectors.load(config, job, described, names)
    self.bags = config.fields.ways_of_bags(
      [s['name'] for s in described['sequences'] if s.get('is_bag')]
    )
    self.features = self._fit(folder, num_ids, text, images)
    self.splits = {
      split: self._clicks(split, rows) for split, rows in self.rows_of.items()
    }
    shared, features = self.maker.shared, self.features
    spare = {
      n: config.spare_ids * bool(self.schema[n]) for n in ('user', 'item')
    }
    self.sizes = DataSizes(
      num_users=features.num_ids['user'] + spare['user'],
      num_items=features.num_ids['item'] + spare['item'],
      num_behaviors=features.num_ids['title'],
      num_scenarios=len(self.scenarios),
      columns=features.columns,
      binned=tuple(features.numbers.num_ids),
      numbers=features.numbers.smooth,
      histories=(config.max_history,) * len(shared['histories']),
      history_columns=tuple(shared['history_columns']),
      bags={
        name: (shared['bags'][name].num_ids, how)
        for name, how in self.bags.items()
      },
      modal=_modal(text, images),
      labels=labels,
    )
    self.made_of: dict[str, Any] = {
      'data set': run_identity.of_data(described),
      'scenarios': list(self.scenarios),
      'labels': list(labels),
      'text vectors': antm2c_vectors.digest(text.vectors if text else None),
      'image vectors': antm2c_vectors.digest(images),
    }
    self._num_devices = len(job.mesh.local_devices)
    self.rows, num_parts = job.batch_shape(
      config.batch_size, config.num_micro_batches
    )
    self._rows_of_part = self.rows // num_parts
    # Rows that are shuffled at once; 0: all, batch by batch.
    self.window = 0
    if self.is_streamed:
      self.window = max(1, config.shuffle_rows // self.rows) * self.rows

  def _num_ids(self) -> dict[str, int]:
    """Field of ids -> number of its ids in the data.

    Raises:
      ValueError: An id column has the name of a field of the model's own.
    """
    described, fields = self.description, self._config.fields
    id_names, at = self.maker.id_names, self.maker.at
    own = {*FIRST, *(f'time_{n}' for n in fields.time)}
    # A column that is the scenario alone is told by that field.
    drop = None if self._config.scenario_groups else at
    if clash := own & {n for i, n in enumerate(id_names) if i != drop}:
      raise ValueError(
        f'data={self._config.data}: the id columns {", ".join(sorted(clash))}'
        ' have names of fields that the model makes itself; rename them in the'
        ' log, or leave them out of the ids of its schema.'
      )
    num_ids = {
      n: described[f'num_{n}s'] if self.schema[n] else 1
      for n in ('user', 'item')
    }
    num_ids['title'] = described['num_behaviors']
    for i in crosses_lib.chosen(id_names, fields.columns):
      if i != drop:
        num_ids[id_names[i]] = described['ids'][i]['num_ids']
    return num_ids | {f'time_{n}': times.NUM_IDS[n] for n in fields.time}

  def _fit(
    self,
    folder: pathlib.Path,
    num_ids: Mapping[str, int],
    text: TextVectors | None,
    images: np.ndarray | None,
  ) -> ClickFeatures:
    """Features by the training rows; tells the maker all it needs of them."""
    config, described = self._config, self.description
    fields, maker, train = config.fields, self.maker, self.rows_of['train']
    names = [s['name'] for s in described['sequences']]
    events = tuple(
      np.load(folder / 'events' / f'{name}.npy', mmap_mode='r')
      for name in names
    )
    histories = _histories(config.history, described['sequences'])
    bags = {
      scenarios.place('fields.bags', name, 'sequences', names): name
      for name in self.bags
    }
    wanted = {*bags, *(histories if config.ids == 'train' else ())}
    uses = {n: Uses(len(events[n])) for n in wanted}
    titles = rows_lib.trained_titles(
      *(train, uses, {n: events[n] for n in wanted & {*histories}}),
      described['num_behaviors'],
    )

    def chunks() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
      for part in train.chunks(without=('starts', 'stops')):
        yield maker.ids(part, 'train'), part['numeric']

    features = ClickFeatures.fit(
      fields, num_ids, chunks, len(train), described['numeric']
    )
    most = rows_lib.longest(self.rows_of.values()) if bags else []
    maker.features = features
    maker.shared = {
      'events': events,
      'histories': histories,
      'max_history': config.max_history,
      'history_columns': by_title(
        fields.history_columns, features, chunks, described['num_behaviors']
      ),
      'titles': titles if features.titles is None else features.titles,
      'bags': {
        name: Bag.fit(
          *(n, events[n], uses[n]),
          num_behaviors=described['num_behaviors'],
          min_count=fields.min_count,
          max_pieces=max(1, min(config.max_pieces, most[n])),
        )
        for n, name in bags.items()
      },
      'text': text,
      'images': images,
    }
    return features

  def _clicks(
    self, split: str, rows: SplitRows
  ) -> ScenarioClicks | StreamedClicks:
    """The clicks of a split, with what is scored."""
    make = functools.partial(self.maker, split=split)
    if self.is_streamed and split == 'train':
      return StreamedClicks(rows, make, {}, np.zeros((0, 0)))
    scored, label_NT = self.maker.scored(rows, split)
    if self.is_streamed:
      return StreamedClicks(rows, make, scored, label_NT)
    return dataclasses.replace(make(rows.read(0, len(rows))), scored=scored)

  def unseen_note(self, split: str) -> str:
    """Says how many rows of a split have a scenario that training has not."""
    return (
      f'{self.unseen[split]:,} {split} rows of scenarios without a training row'
      f' count as {self.scenarios[self.maker.largest]}, the largest.'
    )

  def training(
    self, model: ScenarioModel, seed: int, name: str
  ) -> grain.IterDataset:
    """Endless batches of this process, ready for a step of the model.

    `seed` is that of the order and of dropped ids; each training of a job has a
    data set of its own name.
    """
    clicks, share = self.splits['train'], self._config.fields.id_dropout
    streamed = clicks if isinstance(clicks, StreamedClicks) else None
    block_size = 1  # Of rows in memory.
    if self.window:
      hosts = jax.process_count() if self._job.agent is None else 1
      if self.window * (hosts - 1) >= len(clicks):
        raise ValueError(
          f'shuffle_rows={self._config.shuffle_rows}: {len(clicks):,} rows have'
          f' no window for each of {hosts} processes; needed: at most'
          f' {len(clicks) // hosts:,}, or --stream=no.'
        )
      block_size = min(_BLOCK_ROWS, max(1, self.window // _BLOCKS))
    data = self._job.dataset(
      shuffled_index.ShuffledBlocks(
        len(clicks),
        streamed.rows.read if streamed is not None else None,
        seed=seed,
        block_size=block_size,
      ),
      name=name,
      # A DataShard is a batch, or what is shuffled at once.
      shard_size=self.window or self.rows,
      block_size=self.rows,
      seed=seed,
    )

    def make(block: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
      found = dict(block['tasks'])
      place = index = found['index']
      part = clicks
      if streamed is not None:
        part, place = streamed.make(found), np.arange(len(index))
      assert isinstance(part, ScenarioClicks)
      order = np.arange(len(index))
      if model.is_by_scenario:
        order = part.by_scenario(place, self._rows_of_part)
      batch = part.batch(place[order], self.rows)
      if share:  # The first two columns are user and item.
        rng = np.random.default_rng([seed, int(index[0]), int(index[-1])])
        # The same clicks lose theirs however they are sorted.
        is_lost = (rng.random((len(index), 2)) < share)[order]
        batch['ids'][: len(index), :2][is_lost] = 0
      return model.prepare(batch)

    return data.map(make)

  def evaluation(
    self,
    split: str,
    model: ScenarioModel,
    *,
    moments: ScenarioMoments | None = None,
    limit: int = 0,
  ) -> Iterator[dict[str, Any]]:
    """This process's share of a split, once, filled up to whole batches.

    Models that normalize take moments of the training clicks. A limit takes so
    many clicks, evenly spread; 0: all.
    """
    clicks = self.splits[split]
    per_device = -(-self._config.eval_batch_size // jax.device_count())
    size = per_device * self._num_devices
    starts = range(
      size * jax.process_index(),
      len(clicks),
      size * jax.process_count(),
    )
    every = -(-len(clicks) // limit) if limit else 1
    more = {}
    if moments is not None:  # A copy a device.
      copies = self._num_devices
      more['moments'] = tuple(np.stack([x] * copies) for x in moments)
    for start in starts[::every]:
      stop = min(start + size, len(clicks))
      part, place = clicks.part(start, stop)
      order = np.arange(stop - start)
      if model.is_by_scenario:
        order = part.by_scenario(place, per_device)
      index = np.resize(start + order, size).astype(np.int32)
      batch = model.prepare(part.batch(place[order], size))
      yield batch | {'index': index} | more


def _modal(
  text: TextVectors | None, images: np.ndarray | None
) -> dict[str, int]:
  """Name in a batch -> width."""
  found: dict[str, int] = {}
  if text is not None:
    names = ['title', *text.sequences]
    found |= {f'text_{n}': text.vectors.shape[1] for n in names}
  if images is not None:
    found['image'] = images.shape[1]
  return found


def _histories(
  wanted: Sequence[str], sequences: Sequence[Mapping[str, Any]]
) -> tuple[int, ...]:
  """Places of the sequences that are histories."""
  names = [s['name'] for s in sequences]
  if not wanted:  # The first that is one.
    return tuple(n for n, s in enumerate(sequences) if not s.get('is_bag'))[:1]
  if tuple(wanted) == ('none',):
    return ()
  return tuple(
    scenarios.place('history', name, 'sequences', names, ', or none')
    for name in dict.fromkeys(wanted)
  )


def log_counts(data: ScenarioData) -> None:
  """Says how many clicks each scenario has."""
  counts = {n: found.tolist() for n, found in data.scenario_counts.items()}
  logging.info(
    'Clicks of the scenarios %s: %s', data.scenarios, json.dumps(counts)
  )
  for split, count in data.unseen.items():
    if count:
      logging.warning('%s', data.unseen_note(split))
