# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The host-loop form of the step equals the in-graph form and one device.

Here one process plays several: each part of the mesh does its own number of
micro-batches. `tests/multiprocess/elastic_test.py` does it with real ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.collectives.layerwise import scan_layers
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import ELASTIC_CODES, VALID_CODES
from antjax.train.elastic_step import ElasticStep, local_groups
from antjax.train.trainer import Trainer

# Sums in another order, through 3 AdamW steps; see paro_step_test.
SUM_ORDER_ATOL = 2e-5
NUM_STEPS = 3
L, D = 3, 12  # D does not divide by 8 devices.
MOST, ROWS = 4, 2  # Micro-batches of a device; rows of each.


def init_params():
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32) * 0.4

  return {
    'first': normal(6, D),
    'layers': {'w': normal(L, D, 2 * D), 'v': normal(L, 2 * D, D)},
    'frozen': normal(D, D),
    'bias': normal(D),
  }


def loss_fn(params, batch, rng):
  del rng

  def body(h, layer):
    return h + jnp.tanh(h @ layer['w']) @ layer['v']

  h = scan_layers(body, batch['x'] @ params['first'], params['layers'])
  y = h @ params['frozen'] + params['bias'][None]
  return jnp.mean(jnp.square(y - batch['y']), axis=-1), batch['weight']


def noisy_loss_fn(params, batch, rng):
  keep = jax.random.bernoulli(rng, 0.5, batch['x'].shape)
  return loss_fn(params, batch | {'x': batch['x'] * keep}, None)


def optimizer():
  return optax.chain(
    optax.clip_by_global_norm(0.05), optax.adamw(1e-2, weight_decay=0.1)
  )


def make_trainer(code, intra, loss=loss_fn, is_scanned=True, **kwargs):
  return Trainer(
    loss,
    optimizer(),
    mesh=make_mesh(intra=intra),
    paro=code,
    num_micro_batches=MOST,
    trainable=lambda name: name != 'frozen',
    scanned=(lambda name: name.startswith('layers')) if is_scanned else None,
    min_shard_size=8,
    **kwargs,
  )


def batches(num=NUM_STEPS):
  """As the in-graph form takes them: [8 devices x 4 micro-batches x 2]."""
  rng = np.random.default_rng(1)
  size = 8 * MOST * ROWS
  for _ in range(num):
    yield {
      'x': rng.normal(size=(size, 6)).astype(np.float32),
      'y': rng.normal(size=(size, D)).astype(np.float32),
      'weight': rng.uniform(0.5, 2, size=size).astype(np.float32),
    }


def micro_batch(batch, devices, i):
  """Micro-batch i of some devices."""
  return jax.tree.map(
    lambda x: x.reshape(8, MOST, ROWS, *x.shape[1:])[devices, i].reshape(
      -1, *x.shape[1:]
    ),
    batch,
  )


def parts_of(intra, num_parts):
  """(groups, devices) of each part."""
  groups = np.arange(8 // intra).reshape(num_parts, -1)
  devices = np.arange(8).reshape(num_parts, -1)
  return [list(map(int, g)) for g in groups], list(devices)


def run(trainer, counts, all_batches=None, lr_scale=1.0):
  """Trains with a part for each count."""
  state = trainer.init(init_params(), seed=3)
  groups, devices = parts_of(trainer.mesh.shape['intra'], len(counts))
  step = ElasticStep(trainer.step_spec(), groups)
  metrics = []
  for batch in all_batches or batches():
    step.begin(state)
    for part, mine, count in zip(step.parts, devices, counts, strict=True):
      for i in range(count):
        part.add(part.place(micro_batch(batch, mine, i)))
    flags = [{'num_valid': float(c > 0)} for c in counts]
    state, m = step.finish(state, *flags, lr_scale=lr_scale)
    metrics.append(jax.device_get(m))
  return trainer.params(state), metrics, state


def reference(counts, all_batches=None):
  """One device, no antjax, the same rows."""
  params = init_params()
  frozen = params.pop('frozen')
  tx = optimizer()
  devices = np.arange(8).reshape(len(counts), -1)

  def mean_loss(params, batch):
    losses, w = loss_fn(params | {'frozen': frozen}, batch, None)
    return jnp.sum(losses * w) / jnp.sum(w)

  @jax.jit
  def step(params, opt_state, batch):
    loss, grads = jax.value_and_grad(mean_loss)(params, batch)
    updates, opt_state = tx.update(grads, opt_state, params)
    norm = optax.tree.norm(grads)
    return optax.apply_updates(params, updates), opt_state, loss, norm

  opt_state, metrics = tx.init(params), []
  for batch in all_batches or batches():
    used = [
      micro_batch(batch, mine, i)
      for mine, count in zip(devices, counts, strict=True)
      for i in range(count)
    ]
    whole = jax.tree.map(lambda *xs: np.concatenate(xs), *used)
    params, opt_state, loss, norm = step(params, opt_state, whole)
    metrics.append({'loss': float(loss), 'grad_norm': float(norm)})
  return params | {'frozen': frozen}, metrics


def assert_same(actual, expected, atol=SUM_ORDER_ATOL):
  for a, e in zip(actual[1], expected[1], strict=True):
    np.testing.assert_allclose(a['loss'], e['loss'], rtol=1e-5)
    np.testing.assert_allclose(a['grad_norm'], e['grad_norm'], rtol=1e-4)
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, atol=atol),
    actual[0],
    expected[0],
  )


def _cases():
  cases = []
  for code in ELASTIC_CODES:
    for intra, counts in (
      (4, (3, 1)),
      (4, (0, 4)),
      (2, (4, 0, 2, 1)),
      (2, (3, 1)),
      (1, (1, 0, 2, 0, 3, 4, 1, 2)),
      (8, (3,)),
    ):
      is_fast = (code, intra, counts) in [
        ('IIG', 2, (4, 0, 2, 1)),
        ('NNN', 4, (0, 4)),
        ('NIG', 2, (3, 1)),
      ]
      marks = () if is_fast else pytest.mark.slow
      cases.append(pytest.param(code, intra, counts, marks=marks))
  return cases


@pytest.mark.parametrize(('code', 'intra', 'counts'), _cases())
def test_unequal_counts_equal_the_weighted_gradient_of_one_device(
  code, intra, counts
):
  actual = run(make_trainer(code, intra), counts)
  assert_same(actual, reference(counts))
  assert int(actual[2].step) == NUM_STEPS
  assert float(actual[1][0]['num_micro_batches']) == sum(counts)
  moved = np.asarray(actual[0]['first']) - init_params()['first']
  assert np.abs(moved).max() > 100 * SUM_ORDER_ATOL


@pytest.mark.parametrize(
  ('code', 'counts'),
  [
    ('IIG', (4, 4)),
    *(
      pytest.param(code, counts, marks=pytest.mark.slow)
      for code in ELASTIC_CODES
      for counts in ((4, 4), (1, 3))
    ),
  ],
)
@pytest.mark.parametrize(
  'kwargs',
  [
    {},
    {'is_scanned': False},
    {'regather': False, 'loss_scale': 2.0**10},
    {'loss_scale': 'dynamic'},
    {'compute_dtype': jnp.bfloat16},
  ],
  ids=lambda kwargs: '-'.join(kwargs) or 'plain',
)
def test_both_forms_give_the_same_numbers(code, counts, kwargs):
  """With dropout, so that the random keys are the same too."""
  trainer = make_trainer(code, 4, loss=noisy_loss_fn, **kwargs)
  state, metrics = trainer.init(init_params(), seed=3), []
  for batch in batches():
    state, m = trainer.step(state, batch, list(counts))
    metrics.append(jax.device_get(m))
  expected = trainer.params(state), metrics
  # In bfloat16 one rounding more or less is 2^-8 of an activation.
  atol = 5e-3 if 'compute_dtype' in kwargs else SUM_ORDER_ATOL
  actual = run(trainer, counts)
  if atol == SUM_ORDER_ATOL:
    assert_same(actual, expected)
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, atol=atol),
    actual[0],
    expected[0],
  )


def test_a_count_beyond_the_trainers_has_keys_of_its_own():
  seen = set()

  def loss(params, batch, rng):
    value = jax.random.uniform(rng)
    return jnp.mean(batch['x'] @ params['first'], axis=1) * value

  trainer = make_trainer('IIG', 4, loss=loss, is_scanned=False)
  state = trainer.init(init_params(), seed=3)
  step = trainer.elastic_step()
  step.begin(state)
  one = {'x': np.ones((8, 6), np.float32)}
  for _ in range(MOST + 3):
    done = step.local.add(step.local.place(one))
    seen |= set(np.asarray(done).tolist())
  step.finish(state, {'num_valid': 1.0})
  assert len(seen) == 8 * (MOST + 3)


def test_other_counts_and_scales_compile_nothing_again():
  trainer = make_trainer('IIG', 2)
  state = trainer.init(init_params(), seed=3)
  groups, devices = parts_of(2, 2)
  step = ElasticStep(trainer.step_spec(), groups)
  (batch,) = batches(1)
  for counts, scale in (((1, 2), 1.0), ((0, 4), 0.5), ((3, 3), 2.0)):
    step.begin(state)
    for part, mine, count in zip(step.parts, devices, counts, strict=True):
      for i in range(count):
        part.add(part.place(micro_batch(batch, mine, i)))
    state, _ = step.finish(state, {'num_valid': 1.0}, {}, lr_scale=scale)
  assert step._finish._cache_size() == 1
  assert [part._add._cache_size() for part in step.parts] == [1, 1]


def test_nobody_with_data_changes_nothing():
  trainer = make_trainer('IIG', 4)
  before, metrics, state = run(trainer, (0, 0), list(batches(1)))
  jax.tree.map(np.testing.assert_array_equal, before, init_params())
  assert int(state.step) == 0
  assert float(metrics[0]['weight']) == 0


def test_lr_scale_multiplies_the_updates():
  trainer = Trainer(
    lambda params, batch, rng: batch['x'] @ params['w'],
    optax.sgd(1.0),
    mesh=make_mesh(intra=4),
    paro='IIG',
  )
  x = np.arange(32, dtype=np.float32).reshape(8, 4)
  for scale in (1.0, 0.25):
    state = trainer.init({'w': np.zeros(4, np.float32)})
    step = trainer.elastic_step()
    step.begin(state)
    step.local.add(step.local.place({'x': x}))
    state, _ = step.finish(state, {'num_valid': 1.0}, lr_scale=scale)
    np.testing.assert_allclose(
      trainer.params(state)['w'], -scale * x.mean(0), rtol=1e-6
    )


def test_plans_are_the_least_and_the_most():
  trainer = make_trainer('NNN', 4)
  state = trainer.init(init_params())
  step = ElasticStep(trainer.step_spec(), [[0], [1]])
  for plans in ((2, 5), (3, 3)):
    step.begin(state)
    state, m = step.finish(state, *({'plan': p} for p in plans))
    np.testing.assert_array_equal(m['plans'], [plans[0], -plans[1]])


def test_a_worker_with_other_counts_does_not_weigh_otherwise():
  """DLRover defect 9.

  There a worker's gradient is the sum over its m_i micro-batches and workers
  are averaged alike, so the update grows with the number of micro-batches. Here
  each example weighs the same, whoever does it and in however many parts.
  """
  trainer = make_trainer('IIG', 4)
  (batch,) = batches(1)

  def parts(x):  # A view: worker, device, micro-batch, row.
    return x.reshape(2, 4, MOST, ROWS, *x.shape[1:])

  even = run(trainer, (2, 2), [batch])
  # Worker 1 hands its second micro-batch to worker 0, as its third.
  moved = jax.tree.map(np.copy, batch)
  jax.tree.map(lambda x: _copy(parts(x), (0, 2), (1, 1)), moved)
  assert_same(run(trainer, (3, 1), [moved]), even)
  # Twice as many micro-batches of the same rows are the same gradient.
  twice = jax.tree.map(np.copy, batch)
  for worker in (0, 1):
    for i in (0, 1):
      jax.tree.map(
        lambda x: _copy(parts(x), (worker, i + 2), (worker, i)), twice
      )
  assert_same(run(trainer, (4, 4), [twice]), even)


def _copy(x, to, source):
  x[to[0], :, to[1]] = x[source[0], :, source[1]]


def test_a_group_must_lie_inside_a_process(monkeypatch):
  mesh = make_mesh(intra=4)
  assert local_groups(mesh) == [0, 1]

  class Device:
    def __init__(self, process_index):
      self.process_index = process_index

  class FakeMesh:
    devices = np.array([[Device(0), Device(0)], [Device(1), Device(2)]])

  with pytest.raises(ValueError, match=r'group 1 of 2 .* processes \[1, 2\]'):
    local_groups(FakeMesh)


@pytest.mark.parametrize('code', sorted(set(VALID_CODES) - set(ELASTIC_CODES)))
def test_codes_that_are_not_elastic_are_refused(code):
  trainer = make_trainer(code, 4)
  trainer.init(init_params())
  with pytest.raises(ValueError, match='Elastic codes are NNN NNI'):
    trainer.elastic_step()


def test_a_micro_batch_that_does_not_divide_is_refused():
  trainer = make_trainer('IIG', 4)
  trainer.init(init_params())
  with pytest.raises(ValueError, match=r"batch\['x'\] has shape \(12, 6\)"):
    trainer.elastic_step().local.place({'x': np.zeros((12, 6))})


# Tables.


def make_table_trainer(level, code='IIG'):
  mesh = make_mesh(intra=4)
  tables = EmbeddingTables(
    [TableSpec('item', 97, 4, level, Adam(0.1), init_scale=1.0)],
    {'item': 'item'},
    mesh=mesh,
  )

  def loss_fn(params, rows, batch, rng):
    del rng
    x = tables.lookup(rows, batch['ids'])['item']
    return jnp.square(jnp.tanh(x) @ params['w'] - batch['y'])

  return Trainer(
    loss_fn,
    optax.adam(0.1),
    mesh=mesh,
    paro=code,
    tables=tables,
    num_micro_batches=2,
  )


@pytest.mark.parametrize('level', ['global', 'intra', 'none'])
def test_tables_equal_the_in_graph_form(level):
  trainer = make_table_trainer(level)
  params = {'w': np.ones(4, np.float32)}
  rng = np.random.default_rng(0)
  data = [
    {
      'ids': {'item': rng.integers(0, 97, 32)},
      'y': rng.normal(size=32).astype(np.float32),
    }
    for _ in range(3)
  ]
  all_counts = ([2, 2], [0, 1], [2, 0])
  expected = trainer.init(params)
  for batch, counts in zip(data, all_counts, strict=True):
    expected, _ = trainer.step(expected, batch, counts)
  state = trainer.init(params)
  step = ElasticStep(trainer.step_spec(), [[0], [1]])
  like = {'item': np.zeros(8, int)}
  for batch, counts in zip(data, all_counts, strict=True):
    micros = [
      [
        jax.tree.map(
          lambda x: x.reshape(2, 4, 2, 2)[group, :, i].reshape(8), batch
        )
        for i in range(count)
      ]
      for group, count in enumerate(counts)
    ]
    placed = step.route(state, micros, like, 2)
    for part, mine in zip(step.parts, placed, strict=True):
      for micro in mine:
        part.add(micro)
    state, _ = step.finish(state, {'num_valid': 1.0}, {'num_valid': 1.0})
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, atol=SUM_ORDER_ATOL),
    (state.params, state.tables),
    (expected.params, expected.tables),
  )


@pytest.mark.parametrize('level', ['global', 'none'])
def test_lr_scale_multiplies_the_changes_of_rows(level):
  trainer = make_table_trainer(level)
  batch = {
    'ids': {'item': np.arange(16) % 5},
    'y': np.arange(16, dtype=np.float32),
  }

  def change(scale):
    state = trainer.init({'w': np.ones(4, np.float32)})
    before = jax.tree.map(np.asarray, state.tables)
    step = trainer.elastic_step()
    ((micro,),) = step.route(state, [[batch]], batch['ids'], 2)
    step.local.add(micro)
    state, _ = step.finish(state, {'num_valid': 1.0}, lr_scale=scale)
    (before,), (after,) = before.values(), state.tables.values()
    return np.asarray(after['table']) - before['table']

  np.testing.assert_allclose(change(0.5), 0.5 * change(1.0), atol=1e-6)
  assert np.abs(change(0.5)).max() > 0.01
