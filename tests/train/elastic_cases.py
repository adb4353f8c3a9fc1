# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A model, its data and its runs for the tests of the host-loop form."""

import jax
import jax.numpy as jnp
import numpy as np

from antjax.collectives.layerwise import scan_layers
from antjax.mesh.mesh import make_mesh
from antjax.train.elastic_step import ElasticStep
from antjax.train.trainer import Trainer
from tests.train import plain
from tests.train.paro_step_test import NUM_STEPS, optimizer, SUM_ORDER_ATOL

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


def run(trainer, counts, all_batches=None, step=None):
  """Trains with a part for each count."""
  state = trainer.init(init_params(), seed=3)
  groups, devices = parts_of(trainer.mesh.shape['intra'], len(counts))
  step = step or ElasticStep(trainer.step_spec(), groups)
  metrics = []
  for batch in all_batches or batches():
    step.begin(state)
    for part, mine, count in zip(step.parts, devices, counts, strict=True):
      for i in range(count):
        part.add(part.place(micro_batch(batch, mine, i)))
    flags = [{'num_valid': float(c > 0)} for c in counts]
    state, m = step.finish(state, *flags)
    metrics.append(jax.device_get(m))
  return trainer.params(state), metrics, state


def reference(counts, all_batches=None):
  """One device, no antjax, the same rows."""
  devices = np.arange(8).reshape(len(counts), -1)

  def used(batch):
    parts = [
      micro_batch(batch, mine, i)
      for mine, count in zip(devices, counts, strict=True)
      for i in range(count)
    ]
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)

  params, losses, norms = plain.train(
    init_params(), loss_fn, optimizer(), map(used, all_batches or batches())
  )
  metrics = [
    {'loss': loss, 'grad_norm': norm} for loss, norm in zip(losses, norms)
  ]
  return params, metrics


def assert_same(actual, expected, atol=SUM_ORDER_ATOL):
  for a, e in zip(actual[1], expected[1], strict=True):
    np.testing.assert_allclose(a['loss'], e['loss'], rtol=1e-5)
    np.testing.assert_allclose(a['grad_norm'], e['grad_norm'], rtol=1e-4)
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, atol=atol),
    actual[0],
    expected[0],
  )
