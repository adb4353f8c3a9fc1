# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax's side of `ctr_bench`: the trainer of launch/train_clicks.py."""

import dataclasses
import itertools
import pathlib
import statistics
import time
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from antjax.ctr.antm2c.fields import FieldConfig
from antjax.jobs import job as job_lib
from antjax.jobs import script
from antjax.jobs.clicks import config as clicks_config
from antjax.jobs.clicks import data as clicks_data
from antjax.jobs.clicks.training import ClickJob
from antjax.mesh import mesh as mesh_lib
from antjax.networks.load import NetworkConfig
from benchmarks import ctr_bench, harness


def config_of(
  folder: str, model: str, run_dir: str, norm: ctr_bench.Norm
) -> clicks_config.Config:
  """The config of launch/train_clicks.py for one model."""
  return clicks_config.Config(
    run_dir=run_dir,
    data=folder,
    model=model,
    scenario='age',
    scenario_groups=ctr_bench.SCENARIOS,
    history=('none',),
    batch_size=ctr_bench.BATCH,
    network=NetworkConfig(
      norm=norm,
      widths=ctr_bench.WIDTHS,
      tower_widths=ctr_bench.TOWER_WIDTHS,
      expert_widths=ctr_bench.EXPERT_WIDTHS,
      num_experts=ctr_bench.NUM_EXPERTS,
      num_specific=ctr_bench.NUM_SPECIFIC,
      num_levels=ctr_bench.NUM_LEVELS,
      cross_layers=ctr_bench.CROSS_LAYERS,
      num_heads=ctr_bench.NUM_HEADS if model == 'finalmlp' else None,
      num_blocks=ctr_bench.NUM_BLOCKS,
      block_width=ctr_bench.BLOCK_WIDTH,
      mask_ratio=float(ctr_bench.MASK_RATIO),
    ),
    fields=FieldConfig(
      use=('user', 'item', 'columns'),
      embedding_dim=ctr_bench.DIM,
      learning_rate=ctr_bench.LEARNING_RATE,
    ),
    optimizer=dataclasses.replace(
      clicks_config.Config.optimizer, learning_rate=ctr_bench.LEARNING_RATE
    ),
    checkpoint_every=1_000_000,
  )


def job_of(config: clicks_config.Config) -> job_lib.Job:
  """A job on one device in this process, without flags."""
  path = pathlib.Path(config.run_dir)
  path.mkdir(parents=True, exist_ok=True)
  mesh = mesh_lib.make_mesh(intra=1, devices=jax.devices()[:1])
  return job_lib.Job(mesh, path, script.stop_request, config)


class _Layers:
  """A step's layers: loss and gradients, of vectors looked up before.

  No data, tables, or optimizer; a scan of 8 in one program.
  """

  _SCAN, _CALLS = 8, 10

  def __init__(self, job: ClickJob):
    """Notes what the trainer gives to the loss when it compiles."""
    self._loss = loss = job.model.loss

    def noted(*given: Any) -> Any:
      self._given = jax.tree.map(lambda x: jax.typeof(x), given)
      return loss(*given)

    object.__setattr__(job.model, 'loss', noted)

  def seconds(self) -> float:
    """Median seconds of a step."""
    rng = np.random.default_rng(0)
    params, vectors, batch, _ = jax.tree.map(
      lambda x: _random(rng, x.shape, x.dtype), self._given[:3] + (None,)
    )

    def step(weights: Any, scale: jax.Array) -> tuple[Any, None]:
      def mean(weights: Any) -> jax.Array:
        params, vectors = weights
        vectors = jax.tree.map(lambda x: x * scale.astype(x.dtype), vectors)
        return self._loss(params, vectors, batch)[0].mean()

      found = jax.grad(mean)(weights)
      # What comes next needs all of it, so that nothing is left out.
      return jax.tree.map(lambda x, g: x - 1e-6 * g, weights, found), None

    many = jax.jit(lambda weights, scales: lax.scan(step, weights, scales)[0])
    weights, scales = (params, vectors), jnp.ones(self._SCAN)
    weights = jax.block_until_ready(many(weights, scales))
    seconds = []
    for _ in range(self._CALLS):
      start = time.perf_counter()
      weights = jax.block_until_ready(many(weights, scales))
      seconds.append((time.perf_counter() - start) / self._SCAN)
    return statistics.median(seconds)


def _random(
  rng: np.random.Generator, shape: tuple[int, ...], dtype: Any
) -> np.ndarray:
  if jnp.issubdtype(dtype, jnp.floating):
    return rng.uniform(0.01, 0.1, shape).astype(dtype)
  return rng.integers(0, len(ctr_bench.SCENARIOS), shape).astype(dtype)


class Form(ctr_bench.Trained):
  """One model, trained for given numbers of steps."""

  def __init__(
    self,
    model: str,
    folder: str,
    run_dir: str,
    problem: str,
    norm: ctr_bench.Norm,
    steps_per_call: int,
    seed: int,
  ):
    """Reads the clicks, and writes them for the peers."""
    self._steps_per_call = steps_per_call
    data = self._start(config_of(folder, model, run_dir, norm), seed)
    harness.save(arrays_of(data), problem)

  def _start(
    self, config: clicks_config.Config, seed: int
  ) -> clicks_data.ScenarioData:
    job, model = job_of(config), config.model
    data = clicks_data.ScenarioData(config, job)
    self._job = ClickJob(config, job, data, seed=seed, name=model)
    self._layers = _Layers(self._job)
    self._state = self._job.start()
    self._batches = iter(data.training(self._job.model, seed, model))
    return data

  def train(self, num_steps: int) -> float:
    start = time.perf_counter()
    # Continues without a position to restore.
    batches = itertools.chain(self._batches)
    last = int(self._state.step) + num_steps
    self._state = self._job.trainer.fit(
      self._state, batches, last, steps_per_call=self._steps_per_call
    )
    jax.block_until_ready(self._state)
    return time.perf_counter() - start

  def layers_s(self) -> float:
    """Seconds of the layers of a step alone, see `_Layers`."""
    return self._layers.seconds()

  def logits(self) -> np.ndarray:
    return self._job.logits(self._state, 'test')['prediction']


def arrays_of(data: clicks_data.ScenarioData) -> dict[str, np.ndarray]:
  """The clicks for the peers: SPLIT.FIELD, SPLIT.label, ids.FIELD (counts)."""
  sizes = data.sizes
  found = {'ids.user': sizes.num_users, 'ids.item': sizes.num_items}
  found |= {f'ids.{name}': num for name, num in sizes.columns.items()}
  found['ids.scenario'] = sizes.num_scenarios
  arrays = {name: np.array(num) for name, num in found.items()}
  for split in ('train', 'test'):
    clicks = data.splits[split]
    for name in clicks.names:
      short = name.removeprefix('column_')
      if f'ids.{short}' in arrays:
        arrays[f'{split}.{short}'] = np.ascontiguousarray(clicks.column(name))
    arrays[f'{split}.label'] = clicks.label
  return arrays
