# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data of launch/train_clicks.py: a prepared folder as clicks in memory."""

from collections.abc import Iterator, Mapping, Sequence
import json
from typing import Any

from absl import logging
import grain
import jax
import numpy as np

from antjax.ctr.antm2c import crosses as crosses_lib
from antjax.ctr.antm2c import times
from antjax.ctr.antm2c.bags import Bag
from antjax.ctr.antm2c.clicks import ScenarioClicks, TextVectors
from antjax.ctr.antm2c.features import by_title, ClickFeatures, FIRST
from antjax.ctr.antm2c.model import DataSizes, ScenarioModel
from antjax.data import output_folder, records, shuffled_index
from antjax.data.behavior_vocabulary import UNK
from antjax.jobs import identity as run_identity
from antjax.jobs import job as job_lib
from antjax.jobs.clicks import scenarios
from antjax.jobs.clicks import vectors as antm2c_vectors
from antjax.jobs.clicks.config import Config
from antjax.networks.network import ScenarioMoments

SPLITS = ('train', 'validation', 'test')
_COLUMNS = (
  *('user', 'item', 'title', 'label', 'labels', 'starts', 'stops'),
  *('ids', 'numeric'),
  *('is_new_user', 'is_new_item', 'user_count', 'item_count'),
)


class ScenarioData:
  """The clicks of all splits.

  Attributes:
    description: Content of the data folder's dataset.json.
    scenarios: Names of the scenarios.
    unseen: Split -> its clicks of scenarios that training has not, which count
      as those of its largest.
    sizes: Sizes that the model needs.
    splits: Split -> its clicks.
    features: Features of the clicks, as training has them.
    schema: Entries of the schema of the log.
    scenario_column: Id column of the scenario; '' for none.
    scenario_of: Id of that column -> scenario; of others the largest one.
    made_of: Fingerprints of the inputs, for `run_identity`.
  """

  def __init__(self, config: Config, job: job_lib.Job):
    """Reads all columns.

    Raises:
      ValueError: The folder holds something else, or has no such scenario,
        history or label.
    """
    folder = output_folder.find_view(config.data, 'examples')
    self.description = described = output_folder.load_description(folder)
    if described.get('kind') != 'behaviors':
      raise ValueError(
        f'data={config.data} holds {described.get("name")}, no clicks;'
        ' launch/prepare_data.py makes them.'
      )
    if not set(_COLUMNS) <= set(described['schema']):
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
    bags = {
      scenarios.place('fields.bags', name, 'sequences', names): name
      for name in fields.ways_of_bags()
    }
    columns = {}
    for split in SPLITS:
      if split not in described['files']:
        continue
      columns[split] = records.whole_columns(
        folder / described['files'][split]['path'],
        _COLUMNS + ('time',) * bool(fields.time),
        wide=('starts', 'stops', 'time'),
      )
    if 'train' not in columns:
      raise ValueError(f'data={config.data} has no training examples.')
    events = tuple(
      np.load(folder / 'events' / f'{name}.npy', mmap_mode='r')
      for name in names
    )
    text, images = antm2c_vectors.load(config, job, described, names)
    ids, largest, self.unseen = {}, -1, dict[str, int]()
    for split, found in columns.items():
      ids[split] = {
        n: _known(found, n, config.ids if self.schema[n] else '')
        for n in ('user', 'item')
      }
      ids[split]['title'] = found['title']
      scenario, self.unseen[split] = scenarios.of_clicks(
        found, groups, at, split, largest
      )
      if split == 'train':
        largest = int(np.bincount(scenario).argmax())
      ids[split] |= dict(zip(id_names, found['ids'].T, strict=True))
      ids[split]['scenario'] = scenario
    times.add(fields.time, columns, ids)
    num_ids = {
      n: described[f'num_{n}s'] if self.schema[n] else 1
      for n in ('user', 'item')
    }
    num_ids['title'] = num_behaviors = described['num_behaviors']
    num_ids |= {id_names[i]: described['ids'][i]['num_ids'] for i in kept}
    num_ids |= {f'time_{n}': times.NUM_IDS[n] for n in fields.time}
    train = columns['train']
    titles = None
    if config.ids == 'train':
      titles = _trained_titles(train, events, histories, num_behaviors)
    self.features = features = ClickFeatures.fit(
      fields,
      num_ids,
      ids['train'],
      described['numeric'],
      train['numeric'],
    )
    of_bags = {
      name: Bag.fit(
        *(n, events[n], train['starts'][:, n], train['stops'][:, n]),
        num_behaviors=num_behaviors,
        min_count=fields.min_count,
        max_pieces=config.max_pieces,
      )
      for n, name in bags.items()
    }
    self.scenario_of = np.where(groups < 0, largest, groups).astype(np.int32)
    self.splits, of_titles = {}, dict[str, np.ndarray]()
    for split, found in columns.items():
      fed = features(ids[split], found['numeric'])
      label_NT = np.concatenate(
        [found['label'][:, None], found['labels']], axis=1
      )[:, at_label]
      if split == 'train':
        of_titles = by_title(fields.history_columns, fed, num_behaviors)
      self.splits[split] = ScenarioClicks(
        names=(*FIRST, *(f'column_{name}' for name in features.columns)),
        ids=np.stack([*fed.values()], axis=1),
        label=label_NT[:, 0],
        labels=label_NT[:, 1:] if len(labels) > 1 else None,
        numeric=features.numbers(found['numeric']),
        starts=found['starts'],
        stops=found['stops'],
        events=events,
        histories=histories,
        max_history=config.max_history,
        history_columns=of_titles,
        titles=titles if features.titles is None else features.titles,
        bags=of_bags,
        text=text,
        images=images,
        image_items=found['item'],
        scored={
          'label': label_NT[:, 0],
          'user': found['user'],
          'scenario': ids[split]['scenario'],
          **{n: found[n] for n in ('user_count', 'item_count')},
        },
      )
    self.sizes = DataSizes(
      num_users=features.num_ids['user'],
      num_items=features.num_ids['item'],
      num_behaviors=features.num_ids['title'],
      num_scenarios=len(self.scenarios),
      columns=features.columns,
      binned=tuple(features.numbers.num_ids),
      numbers=features.numbers.smooth,
      histories=(config.max_history,) * len(histories),
      history_columns=tuple(of_titles),
      bags={
        name: (of_bags[name].num_ids, how)
        for name, how in fields.ways_of_bags().items()
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

  def unseen_note(self, split: str) -> str:
    """Says how many rows of a split have a scenario that training has not."""
    largest = np.bincount(self.splits['train'].column('scenario')).argmax()
    return (
      f'{self.unseen[split]:,} {split} rows of scenarios without a training row'
      f' count as {self.scenarios[largest]}, the largest.'
    )

  def training(
    self, model: ScenarioModel, seed: int, name: str
  ) -> grain.IterDataset:
    """Endless batches of this process, ready for a step of the model.

    `seed` is that of the order and of dropped ids; each training of a job has a
    data set of its own name.
    """
    clicks, share = self.splits['train'], self._config.fields.id_dropout
    data = self._job.dataset(
      shuffled_index.ShuffledIndex(len(clicks), seed=seed),
      name=name,
      # A DataShard is a batch.
      shard_size=self.rows,
      seed=seed,
    )

    def make(block: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
      index = block['tasks']['index']
      order = np.arange(len(index))
      if model.is_by_scenario:
        order = clicks.by_scenario(index, self._rows_of_part)
      batch = clicks.batch(index[order], self.rows)
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
      index = np.arange(start, min(start + size, len(clicks)))
      if model.is_by_scenario:
        index = index[clicks.by_scenario(index, per_device)]
      padded = np.resize(index, size).astype(np.int32)
      yield model.prepare(clicks.batch(index, size)) | {'index': padded} | more


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


def _trained_titles(
  train: Mapping[str, np.ndarray],
  events: Sequence[np.ndarray],
  histories: Sequence[int],
  num_behaviors: int,
) -> np.ndarray:
  """Each title, int32 [V]; the unknown one for what training has not seen."""
  is_seen = np.zeros(num_behaviors, bool)
  is_seen[[0, UNK]] = True
  is_seen[train['title']] = True
  for n in histories:
    size = len(events[n]) + 1
    depth = np.bincount(train['starts'][:, n], minlength=size)
    depth -= np.bincount(train['stops'][:, n], minlength=size)
    is_seen[events[n][np.cumsum(depth[:-1]) > 0]] = True
  return np.where(is_seen, np.arange(num_behaviors), UNK).astype(np.int32)


def _known(
  columns: Mapping[str, np.ndarray], name: str, ids: str
) -> np.ndarray:
  """User or item of each click; 0 for those that training has not seen.

  `ids` is as in the config; '': there is no such column.
  """
  if not ids:
    return np.zeros(len(columns[name]), np.int32)
  if ids == 'global':
    return columns[name]
  return np.where(columns[f'is_new_{name}'], 0, columns[name])


def log_counts(data: ScenarioData) -> None:
  """Says how many clicks each scenario has."""
  counts = {
    split: np.bincount(
      clicks.column('scenario'), minlength=len(data.scenarios)
    ).tolist()
    for split, clicks in data.splits.items()
  }
  logging.info(
    'Clicks of the scenarios %s: %s', data.scenarios, json.dumps(counts)
  )
  for split, count in data.unseen.items():
    if count:
      logging.warning('%s', data.unseen_note(split))
