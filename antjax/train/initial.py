# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The first state of a training, made in place on all devices."""

from collections.abc import Callable

import jax

from antjax.train.batches import only_numbers
from antjax.train.sparse_tables import home_of
from antjax.train.state import Layout, PyTree, tables_key, TrainState


def new_state(
  params: PyTree, seed: int, layout_of: Callable[[PyTree], Layout]
) -> tuple[Layout, TrainState]:
  """Makes a state of parameters, or of a function that creates them from a key.

  Returns:
    The layout of the parameters' shapes, and the state, sharded by it.
  """
  key = jax.random.key(seed)
  # An Equinox module is callable too, but is a pytree.
  is_init = callable(params) and jax.tree_util.all_leaves([params])
  # Passed as an argument: constants would be part of the program's text.
  given = None if is_init else jax.device_get(only_numbers(params))

  def whole(key: jax.Array, given: PyTree) -> PyTree:
    return only_numbers(params(key)) if is_init else given

  layout = layout_of(jax.eval_shape(whole, key, given))
  make = jax.jit(
    lambda key, given: layout.new_state(whole(key, given), key),
    out_shardings=layout.shardings(),
  )
  if home := home_of(layout.tables):
    home.start(tables_key(key))
  return layout, make(key, given)
