# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data of launch/train_clicks.py: a prepared folder as clicks."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import json
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

SPLITS = ('train', 'validation', 'test')
# Of a training that streams: rows of a block, and blocks that are shuffled at
# once, or more.
_BLOCK_ROWS, _BLOCKS = 4096, 64


class ScenarioData:
  """The clicks of all splits.

  Attributes:
    description: Content of the data folder's dataset.json.
    scenarios: Names of the scenarios.
    unseen: Split -> its clicks of scenarios that training has not, which count
      as those of its largest.
    sizes: Sizes that the model needs.
    is_streamed: Whether rows stay in their files.
    rows_of: Split -> its rows.
    splits: Split -> its clicks.
    scenario_counts: Split -> its clicks by scenario.
    features: Features of the clicks, as training has them.
    bags: Sequence that is a bag -> its pooling.
    schema: Entries of the schema of the log.
    scenario_column: Id column of the scenario; '' for none.
    scenario_of: Id of that column -> scenario; of others the largest one.
    made_of: Fingerprints of the inputs, for `run_identity`.
  """

  def __init__(self, config: Config, job: job_lib.Job):
    """Reads all columns, or looks through them where they stay in files.

    Raises:
      ValueError: The folder holds something else, or has no such scenario,
        history or label.
    """
    folder, described = output_folder.open_view(config.data, 'examples')
    self.description = described
    if not set(rows_lib.COLUMNS) <= set(described['schema']):
      raise ValueError(
        f'data={config.data} was made by an older version; make it again with'
        ' --overwrite.'
      )
    output_folder.check_files(folder, described, 'events/')
    names = [s['name'] for s in described['sequences']]
    histories = _histories(config.history, described['sequences'])
    id_names = [c['name'] for c in described['ids']]
    self.scenarios, groups, at = scenarios.find(config, folder, described)
    self.scenario_column = '' if at is None else id_names[at]
    self.schema = described['config']['events']['schema']
    every_label = described['label_names']
    labels = config.labels or tuple(every_label)
    at_label = [
      scenarios.place('labels', n, 'labels', every_label) for n in labels
    ]
    drop = at if at is not None and not config.scenario_groups else None
    kept = crosses_lib.chosen(id_names, config.fields.columns)
    kept = [i for i in kept if i != drop]
    fields = config.fields
    own = {*FIRST, *(f'time_{n}' for n in fields.time)}
    # A column that is the scenario alone is told by that field.
    clash = own & {n for i, n in enumerate(id_names) if i != drop}
    if clash:
      raise ValueError(
        f'data={config.data}: the id columns {", ".join(sorted(clash))} have'
        ' names of fields that the model makes itself; rename them in the log,'
        ' or leave them out of the ids of its schema.'
      )
    many = [s['name'] for s in described['sequences'] if s.get('is_bag')]
    self.bags = fields.ways_of_bags(many)
    bags = {
      scenarios.place('fields.bags', name, 'sequences', names): name
      for name in self.bags
    }
    self.maker = maker = rows_lib.ClickMaker(
      *(self.schema, config.ids, id_names, fields.time, groups, at, at_label)
    )
    files = {
      split: output_folder.split_files(folder, described, split)
      for split in SPLITS
    }
    read = (*rows_lib.COLUMNS, *('time',) * bool(fields.time))
    self.rows_of = rows = {
      split: SplitRows(found, read) for split, found in files.items() if found
    }
    if 'train' not in rows:
      raise ValueError(f'data={config.data} has no training examples.')
    self.is_streamed = rows_lib.is_streamed(config, rows)
    if not self.is_streamed:
      whole = {split: found.load() for split, found in rows.items()}
      times.add(fields.time, whole, whole)
    events = tuple(
      np.load(folder / 'events' / f'{name}.npy', mmap_mode='r')
      for name in names
    )
    text, images = antm2c_vectors.load(config, job, described, names)
    self.unseen, self.scenario_counts = {}, {}
    scored, labels_of = dict[str, Any](), dict[str, np.ndarray]()
    for split, found in rows.items():
      counted = maker.count(found, split)
      self.scenario_counts[split], self.unseen[split] = counted
      if split != 'train' or not self.is_streamed:
        scored[split], labels_of[split] = maker.scored(found, split)
    num_ids = {
      n: described[f'num_{n}s'] if self.schema[n] else 1
      for n in ('user', 'item')
    }
    num_ids['title'] = num_behaviors = described['num_behaviors']
    num_ids |= {id_names[i]: described['ids'][i]['num_ids'] for i in kept}
    num_ids |= {f'time_{n}': times.NUM_IDS[n] for n in fields.time}
    train, wanted = rows['train'], {*bags}
    if config.ids == 'train':
      wanted |= {*histories}
    uses = {n: Uses(len(events[n])) for n in wanted}
    titles = rows_lib.trained_titles(
      *(train, uses, {n: events[n] for n in wanted & {*histories}}),
      num_behaviors,
    )

    def chunks() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
      for part in train.chunks(without=('starts', 'stops')):
        yield maker.ids(part, 'train'), part['numeric']

    self.features = features = ClickFeatures.fit(
      fields, num_ids, chunks, len(train), described['numeric']
    )
    most = rows_lib.longest(rows.values()) if bags else []
    of_bags = {
      name: Bag.fit(
        *(n, events[n], uses[n]),
        num_behaviors=num_behaviors,
        min_count=fields.min_count,
        max_pieces=max(1, min(config.max_pieces, most[n])),
      )
      for n, name in bags.items()
    }
    self.scenario_of = np.where(groups < 0, maker.largest, groups)
    self.scenario_of = self.scenario_of.astype(np.int32)
    of_titles = by_title(
      fields.history_columns, features, chunks, num_behaviors
    )
    if features.titles is not None:
      titles = features.titles
    maker.features, maker.shared = (
      features,
      {
        'events': events,
        'histories': histories,
        'max_history': config.max_history,
        'history_columns': of_titles,
        'titles': titles,
        'bags': of_bags,
        'text': text,
        'images': images,
      },
    )
    self.splits: dict[str, ScenarioClicks | StreamedClicks] = {}
    for split, found in rows.items():
      if self.is_streamed:
        self.splits[split] = StreamedClicks(
          found,
          functools.partial(maker, split=split),
          *(scored.get(split, {}), labels_of.get(split, np.zeros((0, 0)))),
        )
      else:
        clicks = maker(found.read(0, len(found)), split)
        self.splits[split] = dataclasses.replace(clicks, scored=scored[split])
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
      histories=(config.max_history,) * len(histories),
      history_columns=tuple(of_titles),
      bags={
        name: (of_bags[name].num_ids, how) for name, how in self.bags.items()
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
    self._config, self._job = config, job
    self._num_devices = len(job.mesh.local_devices)
    self.rows, num_parts = job.batch_shape(
      config.batch_size, config.num_micro_batches
    )
    self._rows_of_part = self.rows // num_parts
    # Rows that are shuffled at once; 0: all, batch by batch.
    self.window = 0
    if self.is_streamed:
      self.window = max(1, config.shuffle_rows // self.rows) * self.rows

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
