# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""States of shapes only, for programs that are lowered and never run."""

import jax


def state_shapes(trainer, params):
  """As `trainer.init`, without compiling or allocating anything."""
  init = params if callable(params) else lambda key: params
  return jax.tree.map(
    lambda x, home: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=home),
    jax.eval_shape(lambda: trainer.init(init)),
    trainer.layout.shardings(),
  )
