# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a process of tests/multiprocess/elastic_test.py does."""

import dataclasses
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax

from antjax.embedding.key_store import KeyStore, KeyStoreConfig
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adagrad
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.shards.dataset import LeasedDataset, merge_states
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec
from antjax.train.elastic import Plan
from antjax.train.trainer import Trainer

ROWS = 4  # Of a micro-batch of a process of two devices.
NUM_RECORDS, SHARD_SIZE = 93, 8  # Not whole micro-batches.


@dataclasses.dataclass
class Settings:
  """What the processes of one job do."""

  code: str = 'IIG'
  intra: int = 2
  num_steps: int = 100
  # Process -> step -> plan that it knows once it has timed the step; 0: before.
  plans: dict = dataclasses.field(default_factory=dict)
  totals: list | None = None  # Micro-batches of each process; None: a ledger's.
  folder: str = ''  # Checkpoints, every 2 steps; empty: none.
  full_after: int = 0  # Step after which process 1 can write no file any more.
  has_tables: bool = False
  has_keys: bool = False  # Ids are keys, of which each process holds a part.


class Control:
  """The job's control, with plans that come at given steps."""

  def __init__(self, plans):
    self._plans = {int(step): Plan(**plan) for step, plan in plans.items()}
    self._current = self._plans.get(0, Plan())
    self.counts = {}
    self.commits = []

  @property
  def worker(self):
    return str(jax.process_index())

  def plan(self):
    return self._current

  def on_batch_time(self, step, compute_s, wait_s, num_micro_batches, samples):
    assert compute_s >= 0 and wait_s >= 0
    assert samples <= num_micro_batches * ROWS
    self.counts[step] = num_micro_batches
    self._current = self._plans.get(step, self._current)

  def on_commit(self, step, input_state):
    self.commits.append([step, input_state is not None])

  def is_stopping(self):
    return False


def record(i):
  """Example i, as `reference` in the test makes it too."""
  rng = np.random.default_rng(i)
  return {
    'id': np.int64(i),
    'ids': {'item': rng.integers(0, 53)},
    'x': rng.normal(size=6).astype(np.float32),
    'y': rng.normal(size=3).astype(np.float32),
  }


class Records:
  """All records, made when they are read."""

  def __len__(self):
    return NUM_RECORDS

  def read(self, start, stop):
    return [record(i) for i in range(start, stop)]


class Noted:
  """Notes the ids of the records that are pulled."""

  def __init__(self, iterator, used):
    self._iterator, self._used = iterator, used

  def __iter__(self):
    return self

  def __next__(self):
    batch = next(self._iterator)
    self._used.append(batch['id'].tolist())
    return batch

  def get_state(self):
    return self._iterator.get_state()

  def set_state(self, state):
    self._iterator.set_state(state)


def micro_batches(settings, used):
  me = jax.process_index()
  if settings.totals is None:
    spec = LedgerSpec(NUM_RECORDS, SHARD_SIZE, seed=1, num_epochs=1)
    client = LocalLedgerClient(spec, worker=me, num_workers=jax.process_count())
    return Noted(iter(LeasedDataset(Records(), client).batch(ROWS)), used)

  def made():
    for i in range(settings.totals[me]):
      first = (me * 1000 + i) * ROWS
      rows = [record(j) for j in range(first, first + ROWS)]
      batch = jax.tree.map(lambda *xs: np.stack(xs), *rows)
      used.append(batch['id'].tolist())
      yield batch

  return made()


def make_trainer(settings):
  mesh = make_mesh(intra=settings.intra)
  tables = None
  if settings.has_tables:
    tables = EmbeddingTables(
      [TableSpec('item', 53, 6, 'global', Adagrad(0.1), init_scale=1.0)],
      {'item': 'item'},
      mesh=mesh,
    )

  def loss_fn(params, *rest):
    *rows, batch, _ = rest
    x = batch['x']
    if tables is not None:
      x = x + tables.lookup(rows[0], batch['ids'])['item']
    y = jnp.tanh(x @ params['w1']) @ params['w2']
    return jnp.mean(jnp.square(y - batch['y']), axis=1)

  return Trainer(
    loss_fn,
    optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2)),
    mesh=mesh,
    paro=settings.code,
    tables=tables,
    vocabularies={'item': KeyStore(KeyStoreConfig(num_ids=53, num_parts=4))}
    if settings.has_keys
    else None,
    num_micro_batches=2,
    min_shard_size=8,
  )


def init_params():
  rng = np.random.default_rng(0)
  return {
    'w1': rng.normal(size=(6, 13)).astype(np.float32),
    'w2': rng.normal(size=(13, 3)).astype(np.float32),
  }


def work(settings):
  settings = Settings(**settings)
  trainer = make_trainer(settings)
  control = Control(settings.plans.get(str(jax.process_index()), {}))
  used, seen = [], {}

  def on_step(step, values):
    seen.setdefault(step, values)
    if step == settings.full_after and jax.process_index() == 1:
      resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

  state = trainer.fit(
    trainer.init(init_params()),
    micro_batches(settings, used),
    settings.num_steps,
    elastic=control,
    checkpoint_dir=settings.folder or None,
    checkpoint_every=2,
    merge_input_states=merge_states,
    on_step=on_step,
  )
  params = trainer.params(state)
  return {
    'process': jax.process_index(),
    'step': int(state.step),
    'losses': [values['loss'] for _, values in sorted(seen.items())],
    'counts': [int(v['num_micro_batches']) for _, v in sorted(seen.items())],
    'mine': control.counts,
    'used': used,
    'commits': control.commits,
    'params': {k: np.asarray(v).tolist() for k, v in params.items()},
  }
