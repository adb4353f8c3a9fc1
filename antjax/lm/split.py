# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A transformer cut at layer k: a half to freeze and a half to train.

BAHE (Geng et al. 2024, https://arxiv.org/abs/2403.19347) encodes each behavior
once by the frozen low layers and trains the high layers on sequences of such
encodings. Each half is a module made from the whole model: training the high
half does not need the low one. Parameters of a low half are `Frozen` instead of
nnx.Param, so that nnx.split(model, nnx.Param, ...) and
nnx.Optimizer(wrt=nnx.Param) skip them.

Position encodings differ by family. Rotations are in every layer, so the high
half counts behaviors by itself. T5's table is shared by all layers, so both
halves have it. Learned positions are added below the cut only, so the high half
gets a separate table for places of behaviors, initialized to zeros.
"""

from collections.abc import Sequence

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from antjax.lm import blocks, packed
from antjax.lm import positions as positions_lib
from antjax.lm.transformer import Transformer


class Frozen(nnx.Variable):
  """A parameter that is not trained."""


class _Half(Transformer):
  """Some of a model's layers, and the parts before or after them.

  Attributes:
    num_low: Number of layers below the cut.
  """

  def __init__(
    self, whole: Transformer, num_low: int, is_low: bool, names: list[str]
  ):
    num_layers = whole.config.num_layers
    if not 0 <= num_low <= num_layers:
      raise ValueError(
        f'num_low={num_low}: the model has {num_layers} layers; needed is a'
        ' number from 0 to that.'
      )
    self.config, self.num_low = whole.config, num_low
    self.first = 0 if is_low else num_low
    span = slice(num_low) if is_low else slice(num_low, None)
    if range(num_layers)[span]:
      graphdef, (stack, *_) = whole.stack()
      self.layers = nnx.merge(graphdef, jax.tree.map(lambda x: x[span], stack))
      names = [*names, 'relative_bias']
    for name in names:
      if hasattr(whole, name):
        setattr(self, name, nnx.Param(getattr(whole, name)[...]))


class LowEncoder(_Half):
  """Embeddings and the first layers, frozen."""

  def __init__(self, whole: Transformer, num_low: int):
    """Copies a half of a model.

    Args:
      whole: The whole model.
      num_low: Layers below the cut, from 0 (embeddings only) to all.
    """
    names = ['embed', 'positions', 'token_types']
    names += ['embed_norm', 'embed_norm_bias']
    super().__init__(whole, num_low, True, names)
    _freeze(self)

  def __call__(
    self,
    tokens: jax.Array,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
  ) -> jax.Array:
    """Input of the first layer above the cut, [B, T, D].

    Segments are those of `hidden`. By default positions are counted in each
    text, and types are 0.
    """
    if positions is None:
      self.config.check_length(tokens.shape[1])
      positions = positions_lib.document_positions(tokens, segment_ids)
    x_BTD = self.embedded(tokens, positions)
    return self.run_layers(x_BTD, segment_ids, positions)


class HighEncoder(_Half):
  """The last layers and the final norm.

  Attributes:
    max_behaviors: Places of behaviors with a learned embedding.
  """

  def __init__(self, whole: Transformer, num_low: int, max_behaviors: int = 0):
    """Copies a half of a model.

    Args:
      whole: The whole model.
      num_low: Layers below the cut, from 0 to all (the final norm only).
      max_behaviors: Number of places with a learned embedding, initialized to
        zeros, for models with learned positions; 0: none, so that the half does
        not see the order of behaviors.
    """
    super().__init__(whole, num_low, False, ['final_norm', 'final_norm_bias'])
    self.max_behaviors = max_behaviors
    if not max_behaviors:
      return
    if self.config.positions != 'learned':
      raise ValueError(
        f'max_behaviors={max_behaviors}: the layers of a model with'
        f' positions={self.config.positions!r} know places by themselves; leave'
        ' it 0.'
      )
    shape = max_behaviors, self.config.embed_dim
    self.behavior_positions = nnx.Param(jnp.zeros(shape, whole.embed.dtype))

  def __call__(
    self,
    x_BMD: jax.Array,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
  ) -> jax.Array:
    """Normed output of the last layer, [B, M, D], for vectors of behaviors.

    The vectors are outputs of the low half. Segments are those of `hidden`, of
    behaviors. By default positions are counted in each sequence.

    Raises:
      ValueError: There are more behaviors than `max_behaviors`, unless that is
        0 or positions are given.
    """
    x_BMD, positions = self._placed(x_BMD, segment_ids, positions)
    return self.normed(self.run_layers(x_BMD, segment_ids, positions))

  def together(self, sets: Sequence[Sequence[jax.Array]]) -> list[jax.Array]:
    """Outputs for several sets of sequences, in one pass through the layers.

    A layer is then gathered once for all sets, not once for each.

    Args:
      sets: The arguments of `__call__` for each set.
    """
    if not hasattr(self, 'layers'):
      return [self(*args) for args in sets]
    shapes = [args[0].shape for args in sets]
    segments = [args[1] if len(args) > 1 else None for args in sets]
    placed = [self._placed(*args) for args in sets]
    x_1SD, positions = map(packed.flat, zip(*placed, strict=True))
    attend = packed.by_lane(self, [x[:2] for x in shapes], segments)
    x_1SD = self.normed(self.run_layers(x_1SD, None, positions, attend=attend))
    ends = np.cumsum([rows * places for rows, places, _ in shapes])
    parts = jnp.split(x_1SD[0], ends[:-1])
    return [x.reshape(shape) for x, shape in zip(parts, shapes, strict=True)]

  def _placed(
    self,
    x_BMD: jax.Array,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """(input of the first layer, positions) of `__call__`'s arguments."""
    is_cut = positions is not None or x_BMD.shape[1] <= self.max_behaviors
    if self.max_behaviors and not is_cut:
      raise ValueError(
        f'sequences of {x_BMD.shape[1]} behaviors: max_behaviors='
        f'{self.max_behaviors}; cut the sequences, or raise it.'
      )
    if positions is None:
      positions = positions_lib.document_positions(x_BMD[..., 0], segment_ids)
    if self.max_behaviors:
      x_BMD += blocks.lookup(self.behavior_positions[...], positions)
    return x_BMD, positions


def _freeze(module: nnx.Module) -> None:
  """Makes a module's parameters `Frozen`."""
  for name, value in list(vars(module).items()):
    if isinstance(value, nnx.Variable):
      setattr(module, name, Frozen(value[...]))
    elif isinstance(value, nnx.Module):
      _freeze(value)
