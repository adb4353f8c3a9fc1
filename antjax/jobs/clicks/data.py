# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data of launch/train_clicks.py: a prepared folder as clicks in memory."""

from collections.abc import Iterator, Mapping, Sequence
import json
import pathlib
from typing import Any

from absl import logging
import grain
import jax
import numpy as np
import pyarrow.parquet as pq

from antjax.ctr.antm2c import crosses as crosses_lib
from antjax.ctr.antm2c.clicks import ScenarioClicks, TextVectors
from antjax.ctr.antm2c.crosses import Cross
from antjax.ctr.antm2c.model import DataSizes, ScenarioModel
from antjax.ctr.bahe.batches import Standardizer
from antjax.data import output_folder, records, shuffled_index
from antjax.jobs import identity as run_identity
from antjax.jobs import job as job_lib
from antjax.jobs.clicks import vectors as antm2c_vectors
from antjax.jobs.clicks.config import Config
from antjax.networks.network import ScenarioMoments

_NONE = 'none'
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
    standardizer: Standardizer of the numeric columns; None if there are none.
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
    history = 0 if names and config.history != 'none' else None
    if config.history and history is not None:
      history = _index(
        'history', config.history, 'sequences', names, ', or none'
      )
    id_names = [c['name'] for c in described['ids']]
    self.scenarios, groups, at = _scenarios(config, folder, described)
    every_label = described['label_names']
    labels = config.labels or tuple(every_label)
    at_label = [_index('labels', n, 'labels', every_label) for n in labels]
    drop = at if at is not None and not config.scenario_groups else None
    kept = crosses_lib.chosen(id_names, config.fields.columns)
    kept = [i for i in kept if i != drop]
    columns = {}
    for split in SPLITS:
      if split not in described['files']:
        continue
      columns[split] = records.whole_columns(
        folder / described['files'][split]['path'],
        _COLUMNS,
        wide=('starts', 'stops'),
      )
    if 'train' not in columns:
      raise ValueError(f'data={config.data} has no training examples.')
    self.standardizer = None
    if described['numeric']:
      self.standardizer = Standardizer.of([columns['train']['numeric']])
    events = tuple(
      np.load(folder / 'events' / f'{name}.npy', mmap_mode='r')
      for name in names
    )
    text, images = antm2c_vectors.load(config, job, described, names)
    self.splits, self.unseen, largest = {}, dict[str, int](), -1
    crosses: list[Cross] = []
    for split, found in columns.items():
      scenario, self.unseen[split] = _to_scenario(
        found, groups, at, split, largest
      )
      if split == 'train':
        largest = int(np.bincount(scenario).argmax())
      label_NT = np.concatenate(
        [found['label'][:, None], found['labels']], axis=1
      )[:, at_label]
      ids = {n: _known(found, n, config.ids) for n in ('user', 'item')}
      ids |= {'title': found['title'], 'scenario': scenario}
      first = [*ids]
      ids |= dict(zip(id_names, found['ids'].T, strict=True))
      if split == 'train':
        crosses = [
          Cross.fit(text, ids, config.fields.min_count)
          for text in config.fields.crosses
        ]
      fields = {f'column_{id_names[i]}': found['ids'][:, i] for i in kept}
      fields |= {f'column_{cross.name}': cross(ids) for cross in crosses}
      numeric = found['numeric']
      if self.standardizer is not None:
        numeric = self.standardizer(numeric)
      self.splits[split] = ScenarioClicks(
        names=(*first, *fields),
        ids=np.stack([*(ids[n] for n in first), *fields.values()], axis=1),
        label=label_NT[:, 0],
        labels=label_NT[:, 1:] if len(labels) > 1 else None,
        numeric=numeric,
        starts=found['starts'],
        stops=found['stops'],
        events=events,
        history=history,
        max_history=config.max_history,
        text=text,
        images=images,
        image_items=found['item'],
        scored={
          'label': label_NT[:, 0],
          'user': found['user'],
          'scenario': scenario,
          **{n: found[n] for n in ('user_count', 'item_count')},
        },
      )
    self.sizes = DataSizes(
      num_users=described['num_users'],
      num_items=described['num_items'],
      num_behaviors=described['num_behaviors'],
      num_scenarios=len(self.scenarios),
      columns={id_names[i]: described['ids'][i]['num_ids'] for i in kept}
      | {cross.name: cross.num_ids for cross in crosses},
      num_numeric=len(described['numeric']),
      max_history=0 if history is None else config.max_history,
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
      size * jax.process_index(), len(clicks), size * jax.process_count()
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


def _index(
  flag: str, wanted: str, kind: str, names: Sequence[str], instead: str = ''
) -> int:
  """Place of what a flag names among what the data have."""
  if wanted not in names:
    raise ValueError(
      f'{flag}={wanted}: the data have the {kind} {", ".join(names) or "none"};'
      f' name one of them{instead}.'
    )
  return list(names).index(wanted)


def _scenarios(
  config: Config, folder: pathlib.Path, described: Mapping[str, Any]
) -> tuple[tuple[str, ...], np.ndarray, int | None]:
  """(names, id of the column -> scenario or -1, number of the column)."""
  names = [c['name'] for c in described['ids']]
  wanted, domain = config.scenario, described.get('domain')
  if not wanted:
    wanted = next((n for n in ('scene', domain) if n in names), _NONE)
    if domain and wanted == _NONE:
      logging.warning(
        'The domain %s is no scenario here: it is none of ids in the schema.',
        domain,
      )
  if wanted == _NONE:
    return ('all',), np.zeros(1, np.int32), None
  at = _index('scenario', wanted, 'id columns', names)
  table = pq.read_table(folder / f'ids_feature_{at}.parquet').to_pydict()
  values = dict(zip(table['id'], table['value'], strict=True))
  groups = [tuple(g.split('+')) for g in config.scenario_groups]
  if not groups:
    groups = [(values[i],) for i in sorted(values)]
  place = {v: g for g, members in enumerate(groups) for v in members}
  if unknown := sorted(set(place) - set(values.values())):
    raise ValueError(
      f'scenario_groups={config.scenario_groups}: {wanted} has no'
      f' {", ".join(unknown)}; it has {", ".join(values[i] for i in values)}.'
    )
  found = np.full(max(values) + 1, -1, np.int32)
  for i, value in values.items():
    found[i] = place.get(value, -1)
  return tuple('+'.join(g) for g in groups), found, at


def _known(
  columns: Mapping[str, np.ndarray], name: str, ids: str
) -> np.ndarray:
  """User or item of each click; 0 for those that training has not seen."""
  if ids == 'global':
    return columns[name]
  return np.where(columns[f'is_new_{name}'], 0, columns[name])


def _to_scenario(
  columns: Mapping[str, np.ndarray],
  groups: np.ndarray,
  at: int | None,
  split: str,
  largest: int,
) -> tuple[np.ndarray, int]:
  """Scenario of each click, int32 [N], and how many are of a new one.

  Clicks whose value training has not seen are taken as of the largest scenario.
  """
  if at is None:
    return np.zeros(len(columns['label']), np.int32), 0
  value = columns['ids'][:, at]
  found = groups[value]
  is_new = (value == 0) & (found < 0) & (largest >= 0)
  found = np.where(is_new, np.int32(largest), found)
  if (found < 0).any():
    raise ValueError(
      f'{(found < 0).sum():,} clicks of {split} are in no scenario:'
      ' --scenario_groups leaves theirs out; name all values.'
    )
  return found, int(is_new.sum())


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
      logging.warning('%s', unseen_note(data, split))


def unseen_note(data: ScenarioData, split: str) -> str:
  """Says how many clicks of a split have a scenario that training has not."""
  largest = np.bincount(data.splits['train'].column('scenario')).argmax()
  return (
    f'{data.unseen[split]:,} {split} rows of scenarios without a training row'
    f' count as {data.scenarios[largest]}, the largest.'
  )
