# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A Flax module as functions over a plain dict of parameters."""

from collections.abc import Callable
import functools
from typing import Any, Generic, TypeVar

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
M = TypeVar('M', bound=nnx.Module)


def params_of(module: nnx.Module) -> PyTree:
  """The parameters of a module as a dict of dicts of arrays."""
  return nnx.to_pure_dict(nnx.state(module))


def cast(tree: PyTree, dtype_of: Callable[[str], Any]) -> PyTree:
  """Copies arrays to the host; converts floats to `dtype_of(name of leaf)`."""

  def leaf(path: Any, x: jax.Array) -> np.ndarray:
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return np.asarray(x)
    name = jax.tree_util.keystr(path, simple=True, separator='.')
    return np.asarray(x).astype(dtype_of(name))

  return jax.tree.map_with_path(leaf, tree)


def split(module: M) -> tuple[Callable[[PyTree], M], PyTree]:
  """(function from parameters to the module, its parameters)."""
  graphdef, state = nnx.split(module)
  return functools.partial(nnx.merge, graphdef), nnx.to_pure_dict(state)


class Functional(Generic[M]):
  """A module's parameters, separate from the module that uses them.

  A step holds, shards and differentiates the parameters; inside it `merge`
  rebuilds the module.
  """

  def __init__(self, make: Callable[..., M], *args: Any, **kwargs: Any):
    """Stores how to create the module: make(*args, rngs=..., **kwargs)."""
    self._make = functools.partial(make, *args, **kwargs)

  @functools.cached_property
  def _graphdef(self) -> nnx.GraphDef[M]:
    return nnx.graphdef(nnx.eval_shape(lambda: self._make(rngs=nnx.Rngs(0))))

  def names_of(self, kind: type[nnx.Variable[Any]]) -> frozenset[str]:
    """Names of the leaves that are variables of type `kind`, as a.b.c."""
    module = nnx.eval_shape(lambda: self._make(rngs=nnx.Rngs(0)))
    state = nnx.to_flat_state(nnx.state(module, kind))
    return frozenset('.'.join(map(str, path)) for path, _ in state)

  def init(self, key: jax.Array) -> PyTree:
    """Fresh parameters."""
    return params_of(self._make(rngs=nnx.Rngs(key)))

  def merge(self, params: PyTree) -> M:
    """A module with the given parameters, for use in the same trace only."""
    return nnx.merge(self._graphdef, params)
