# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training on one device without antjax, for steps to be compared with."""

import jax
import jax.numpy as jnp
import optax


def train(params, loss_fn, tx, batches):
  """By the weighted mean's gradient and optax; the leaf 'frozen' stays.

  Returns:
    (params, loss of each step, norm of each gradient).
  """
  frozen = {'frozen': params['frozen']}
  params = {k: x for k, x in params.items() if k != 'frozen'}

  def mean_loss(params, batch):
    losses, w = loss_fn(params | frozen, batch, None)
    return jnp.sum(losses * w) / jnp.sum(w)

  @jax.jit
  def step(params, opt_state, batch):
    loss, grads = jax.value_and_grad(mean_loss)(params, batch)
    updates, opt_state = tx.update(grads, opt_state, params)
    norm = optax.tree.norm(grads)
    return optax.apply_updates(params, updates), opt_state, loss, norm

  opt_state, losses, norms = tx.init(params), [], []
  for batch in batches:
    params, opt_state, loss, norm = step(params, opt_state, batch)
    losses.append(float(loss))
    norms.append(float(norm))
  return params | frozen, losses, norms
