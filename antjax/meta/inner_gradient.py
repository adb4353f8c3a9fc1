# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The gradient of an inner step, and how its own derivative is computed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def mixed_mode_grad(
  loss_fn: Callable[[PyTree, PyTree], jax.Array],
) -> Callable[[PyTree, PyTree], PyTree]:
  """Returns `jax.grad(loss_fn)` with a forward-over-reverse derivative.

  A cotangent v of the gradient g = dL/dx needs v^T dg/d(x, rest). Second
  derivatives commute, so that is d/de of the gradient in (x, rest) at x + e v:
  one JVP of one reverse pass, in place of a reverse pass through a reverse
  pass. Nothing of the inner backward pass is kept for the outer one but (x,
  rest). Kemaev et al. 2025 (MixFlow-MG) do meta-learning so.

  Args:
    loss_fn: (x, rest) -> scalar, twice differentiable, without a `custom_vjp`
      inside (JAX has no forward mode for one). It may close over constants
      only: pass whatever is differentiated in `rest`.

  Returns:
    (x, rest) -> the gradient in x. Leaves of `rest` that are not floating
    point have no derivative.
  """

  def gradient(x: PyTree, rest: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, rest))
    is_float = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def loss(x, floats, others):
      floats, others = iter(floats), iter(others)
      merged = [next(floats if known else others) for known in is_float]
      return loss_fn(x, jax.tree.unflatten(treedef, merged))

    @jax.custom_vjp
    def grad_fn(x, floats, others):
      return jax.grad(loss)(x, floats, others)

    def forward(x, floats, others):
      return grad_fn(x, floats, others), (x, floats, others)

    def backward(residuals, cotangent):
      x, floats, others = residuals
      _, (x_bar, floats_bar) = jax.jvp(
        lambda x: jax.grad(loss, argnums=(0, 1))(x, floats, others),
        (x,),
        (cotangent,),
      )
      return x_bar, floats_bar, None

    grad_fn.defvjp(forward, backward)
    floats = [leaf for leaf, known in zip(leaves, is_float) if known]
    others = [leaf for leaf, known in zip(leaves, is_float) if not known]
    return grad_fn(x, floats, others)

  return gradient
