# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A transformer cut at layer k: a half to freeze and a half to train.

BAHE (Geng et al. 2024, https://arxiv.org/abs/2403.19347) encodes each
behavior once by the frozen low layers and trains the high ones on sequences of
such encodings. A half is a config with functions; its parameters are a tree of
its own, so that training the high half does not need the low one.

How positions are encoded differs by family. Rotations are in every layer: the
high half counts behaviors by itself. T5's table belongs to all layers, so both
halves carry it. Learned positions are added below the cut only: the high half
gets a table of its own for places of behaviors, of zeros at first.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from antjax.lm import blocks
from antjax.lm import positions as positions_lib
from antjax.lm.config import Config
from antjax.lm.transformer import check_length, Transformer

PyTree = Any


def _check(config: Config, num_low: int) -> None:
  if not 0 <= num_low <= config.num_layers:
    raise ValueError(
      f'num_low={num_low}: the model has {config.num_layers} layers; needed is'
      ' a number from 0 to that.'
    )


def _layers(params: PyTree, start: int, stop: int) -> PyTree:
  """The layers start .. stop and the table that they share; {} if none."""
  if start == stop:
    return {}
  part = {'layers': jax.tree.map(lambda x: x[start:stop], params['layers'])}
  if 'relative_bias' in params:
    part['relative_bias'] = params['relative_bias']
  return part


@dataclasses.dataclass(frozen=True)
class LowEncoder:
  """Embeddings and the first layers."""

  config: Config  # Configuration of the whole model.
  num_low: int  # Layers below the cut, from 0 (embeddings only) to all.

  def __post_init__(self) -> None:
    _check(self.config, self.num_low)

  def params_of(self, params: PyTree) -> PyTree:
    """This half of a whole model's parameters."""
    rest = ('layers', 'relative_bias', 'lm_head', 'final_norm')
    own = {k: x for k, x in params.items() if not k.startswith(rest)}
    return own | _layers(params, 0, self.num_low)

  def __call__(
    self,
    params: PyTree,
    tokens: jax.Array,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
  ) -> jax.Array:
    """What goes into the first layer above the cut, [B, T, D].

    Segments are the text of each token, a mask of padding will do; None: one
    text a row. Positions are counted in each text, and types are 0, where not
    given.
    """
    if positions is None:
      check_length(self.config, tokens.shape[1])
      positions = positions_lib.document_positions(tokens, segment_ids)
    model = Transformer.of(self.config, params)
    x_BTD = model.embedded(tokens, positions)
    return model.run_layers(x_BTD, segment_ids, positions)


@dataclasses.dataclass(frozen=True)
class HighEncoder:
  """The last layers and the final norm."""

  config: Config  # Configuration of the whole model.
  num_low: int  # Layers below the cut, from 0 to all (the final norm only).
  # Places of behaviors with a learned embedding, for models of learned
  # positions; 0: none, which leaves their order unknown to the half.
  max_behaviors: int = 0

  def __post_init__(self) -> None:
    _check(self.config, self.num_low)
    if self.max_behaviors and self.config.positions != 'learned':
      raise ValueError(
        f'max_behaviors={self.max_behaviors}: the layers of a model with'
        f' positions={self.config.positions!r} know places by themselves; leave'
        ' it 0.'
      )

  def params_of(self, params: PyTree) -> PyTree:
    """This half of a whole model's parameters; behaviors' positions are 0."""
    own = {k: x for k, x in params.items() if k.startswith('final_norm')}
    own |= _layers(params, self.num_low, self.config.num_layers)
    if self.max_behaviors:
      shape = (self.max_behaviors, self.config.embed_dim)
      own['behavior_positions'] = jnp.zeros(shape, params['embed'].dtype)
    return own

  def __call__(
    self,
    params: PyTree,
    x_BMD: jax.Array,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
  ) -> jax.Array:
    """The normed output of the last layer, [B, M, D], for vectors of behaviors.

    The vectors are outputs of the low half. Segments are the sequence of each
    behavior, a mask of padding will do; None: one sequence a row. Positions are
    counted in each sequence where not given.

    Raises:
      ValueError: More behaviors than `max_behaviors`, unless that is 0.
    """
    if self.max_behaviors and x_BMD.shape[1] > self.max_behaviors:
      raise ValueError(
        f'sequences of {x_BMD.shape[1]} behaviours: max_behaviors='
        f'{self.max_behaviors}; cut the sequences, or raise it.'
      )
    if positions is None:
      positions = positions_lib.document_positions(x_BMD[..., 0], segment_ids)
    if self.max_behaviors:
      x_BMD += blocks.lookup(params['behavior_positions'], positions)
    model = Transformer.of(self.config, params)
    x_BMD = model.run_layers(x_BMD, segment_ids, positions, first=self.num_low)
    return model.normed(x_BMD)
