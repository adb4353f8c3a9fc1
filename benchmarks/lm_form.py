# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax's side of `benchmarks.lm_bench`, with the step of users."""

import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import antjax
from antjax import lm
from antjax.mesh import compiler
from benchmarks import harness
from benchmarks import lm_bench as problem_lib

# Titles per batch of similar length, and multiple to which lengths are rounded:
# at most 20 programs.
_GROUP, _STEP = 32, 2


class Form:
  """Training and encoding."""

  def __init__(self, folder: str, problem: str):
    """Reads the model and the problem."""
    self._problem = harness.load(problem)
    model = lm.load(folder)
    model.config = dataclasses.replace(model.config, remat='none')
    model.layers.config = model.config
    graphdef, params = nnx.split(model)
    self._params = nnx.to_pure_dict(params)

    def loss(params: Any, batch: Any, rng: Any) -> Any:
      del rng
      merged = nnx.merge(graphdef, params)
      if model.config.causal:
        return merged.loss(batch)
      means = merged.hidden(batch['tokens']).mean(1)
      return jnp.square(means - batch['target']).mean(1)

    mesh = antjax.make_mesh(intra=1)
    self._trainer = antjax.Trainer(
      loss,
      optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(problem_lib.LEARNING_RATE, weight_decay=1e-3),
      ),
      mesh=mesh,
      scanned=lambda name: '.layers.' in name or name.startswith('layers.'),
    )
    self._state = self._trainer.init(jax.tree.map(np.asarray, self._params))
    self._batch = {name: self._problem[name] for name in ('tokens', 'target')}

    @functools.partial(jax.jit, compiler_options=compiler.options(mesh))
    def means(params: Any, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
      mask = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
      x = nnx.merge(graphdef, params).hidden(tokens, mask)
      total = jnp.where(mask[..., None], x, 0).sum(1)
      return total / lengths[:, None].astype(jnp.float32)

    self._means = means

  def step(self) -> float:
    """A whole step; returns the loss."""
    self._state, metrics = self._trainer.step(self._state, self._batch)
    return float(metrics['loss'])

  def _vectors(self) -> np.ndarray:
    titles, lengths = self._problem['titles'], self._problem['lengths']
    order = np.argsort(lengths, kind='stable')
    found = []
    for start in range(0, len(order), _GROUP):
      rows = order[start : start + _GROUP]
      longest = -(-int(lengths[rows].max()) // _STEP) * _STEP
      found.append(
        self._means(self._params, titles[rows, :longest], lengths[rows])
      )
    return np.concatenate(jax.device_get(found))[np.argsort(order)]

  def encode(self) -> None:
    """Encodes the titles."""
    self._vectors()

  def first(self, encodes: bool) -> list[float]:
    """First numbers of some vectors, if any, and the first step's loss."""
    vectors = self._vectors()[:4, 0].tolist() if encodes else []
    return [*vectors, self.step()]
