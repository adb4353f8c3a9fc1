# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""ESMM: conversions learned from all rows shown, not from clicks alone.

  P(click) = sigmoid(a),  P(click and conversion) = sigmoid(a) sigmoid(b)

with a and b the outputs of two MLPs on the same vectors. b is the logit of a
conversion after a click; it has no loss of its own, since what would have
happened after the clicks that did not come is not known.

Source: Ma et al. 2018, https://arxiv.org/abs/1804.07931, section 2.3.
"""

from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from antjax.networks.deep import Deep
from antjax.networks.network import DeepConfig, Inputs, Sizes


class Logits(NamedTuple):
  """Logits [B] of the three probabilities.

  Attributes:
    click: Logit of a click.
    conversion: Logit of a conversion after a click.
    both: Logit of a click and a conversion.
  """

  click: jax.Array
  conversion: jax.Array
  both: jax.Array


class ESMM(nnx.Module):
  """A tower for clicks and one for conversions."""

  Config = DeepConfig
  needs = frozenset({'conversion'})

  def __init__(self, sizes: Sizes, config: DeepConfig, *, rngs: nnx.Rngs):
    self.click = Deep(sizes.flat_width, config.widths, rngs=rngs)
    self.conversion = Deep(sizes.flat_width, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> Logits:
    """See `Logits`."""
    click, conversion = self.click(x.flat), self.conversion(x.flat)
    return Logits(click, conversion, logit_of_both(click, conversion))


def logit_of_both(a: jax.Array, b: jax.Array) -> jax.Array:
  """The logit of sigmoid(a) sigmoid(b), exact also where that is near 0 or 1.

  1 / (sigmoid(a) sigmoid(b)) - 1 = exp(-a) + exp(-b) + exp(-a - b).
  """
  return -jax.nn.logsumexp(jnp.stack([-a, -b, -a - b]), axis=0)


def loss(
  logits: Logits, is_click: jax.Array, is_conversion: jax.Array
) -> jax.Array:
  """Sum of the two cross entropies, [B].

  Args:
    logits: Logits of the model.
    is_click: [B], 0 or 1.
    is_conversion: [B], 0 or 1; counts where there is a click.
  """
  entropy = optax.sigmoid_binary_cross_entropy
  both = is_click * is_conversion
  return entropy(logits.click, is_click) + entropy(logits.both, both)
