# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The TPU's Pallas kernel, interpreted here, and compiled for a TPU."""

import importlib.util

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from antjax.jobs.pod_models import prepare
from antjax.lm import attention, splash_attention
from antjax.lm.blocked_attention import Mask
from antjax.plan.pod_target import Target
from tests.lm import attention_inputs

# float32 sums of some hundred terms in another order.
_ATOL = 5e-5

# (tokens, query heads, key/value heads, head width, causal, segments and, if
# there are such, window and cap)
_CASES = (
  (150, 4, 2, 8, True, True),
  (150, 2, 2, 32, False, True),
  (256, 2, 1, 64, False, False),
  (300, 6, 2, 20, True, False),  # Padded, and no segments are given.
  (300, 2, 2, 8, True, True, 70, 2.0),
  (300, 2, 1, 8, False, False, 70, None),
)


@pytest.mark.slow
@pytest.mark.parametrize('case', _CASES)
def test_outputs_and_gradients_are_those_of_plain_scores(case):
  num_tokens, num_heads, num_kv_heads, width, is_causal, has_segments = case[:6]
  window, cap = case[6:] or (None, None)
  q, k, v, grad, segments = attention_inputs.make(
    num_tokens, num_heads, num_kv_heads, width, has_segments
  )
  how = Mask(is_causal, 0.3, window, cap)

  def both(attend, **how):
    output, vjp = jax.vjp(
      lambda q, k, v: attend(q, k, v, segments, **how), q, k, v
    )
    return output, vjp(grad)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=_ATOL),
    both(splash_attention.attend, block=128, interpret=True, how=how),
    both(attention.attend, method='plain', **how._asdict()),
  )


def test_blocks_are_few_and_even():
  assert splash_attention.blocks_of(2048) == (512, 2048)
  assert splash_attention.blocks_of(640) == (384, 768)
  assert splash_attention.blocks_of(129) == (256, 256)
  assert splash_attention.blocks_of(300, most=100) == (128, 384)
  assert splash_attention.blocks_of(0) == (128, 128)


def test_a_bias_is_refused():
  x = jnp.zeros((1, 4, 1, 8))
  with pytest.raises(ValueError, match='no bias'):
    attention.attend(x, x, x, bias_HTT=jnp.zeros((1, 4, 4)), method='splash')


def test_it_is_called_where_xla_need_not_split_it():
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ('data',))
  found = []

  def note(x):
    found.append(attention._may_call_kernels(x))
    return x

  x = jnp.zeros((2, 4, 1, 8))
  jax.jit(note)(x)
  for check_vma in (True, False):
    whole = jax.shard_map(
      note,
      mesh=mesh,
      in_specs=P('data'),
      out_specs=P('data'),
      check_vma=check_vma,
    )
    jax.jit(whole)(x)
  assert found == [False, False, True]


@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='needs the TPU compiler: pip install libtpu',
)
@pytest.mark.slow
@pytest.mark.parametrize('width, dtype', [(32, 'float32'), (64, 'bfloat16')])
def test_a_tpu_compiler_takes_it(width, dtype):
  # MiniLM's and SmolLM2's heads, forward and backward, no scores in memory.
  target = Target.of('v5e:2x2', 1)
  prepare(target)
  mesh = jax.sharding.Mesh(target.devices(), ('data',))
  rows = NamedSharding(mesh, P('data'))
  length = 2048

  def loss(q, k, v, segments):
    mixed = attention.attend(q, k, v, segments, method='splash')
    return jnp.sum(mixed.astype(jnp.float32) ** 2)

  step = jax.shard_map(
    jax.grad(loss, argnums=(0, 1, 2)),
    mesh=mesh,
    in_specs=P('data'),
    out_specs=P('data'),
    check_vma=False,
  )
  shapes = [
    jax.ShapeDtypeStruct((4, length, heads, width), dtype, sharding=rows)
    for heads in (12, 4, 4)
  ]
  ids = jax.ShapeDtypeStruct((4, length), jnp.int32, sharding=rows)
  compiled = jax.jit(step).lower(*shapes, ids).compile()
  assert compiled.as_text().count('tpu_custom_call') >= 3
  scores = 12 * length**2 * jnp.dtype(dtype).itemsize
  assert compiled.memory_analysis().temp_size_in_bytes < scores / 2
