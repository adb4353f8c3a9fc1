# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every family against `transformers`, which reads what we saved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.lm import positions, pretrained, split
from antjax.lm.transformer import Transformer
from tests.lm import tiny_models

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def torch():
  pytest.importorskip('transformers', reason='peers: requirements-bench.txt')
  return pytest.importorskip('torch', reason='peers: requirements-bench.txt')


@pytest.mark.parametrize('name', tiny_models.CONFIGS)
def test_hidden_states_and_logits_are_theirs(name, tmp_path):
  config = tiny_models.CONFIGS[name]
  params = tiny_models.params_of(config)
  pretrained.save_pretrained(tmp_path, config, params)
  hidden, logits = tiny_models.theirs(
    tmp_path, config, tiny_models.TOKENS, tiny_models.MASK
  )
  real = tiny_models.MASK > 0
  actual = jax.jit(Transformer.hidden)(
    Transformer.of(config, params), tiny_models.TOKENS, tiny_models.MASK
  )
  assert np.abs(hidden[-1][real]).max() > 1
  np.testing.assert_allclose(actual[real], hidden[-1][real], atol=5e-5)
  if config.causal:
    actual = jax.jit(Transformer.logits)(
      Transformer.of(config, params), tiny_models.TOKENS, tiny_models.MASK
    )
    np.testing.assert_allclose(actual[real], logits[real], atol=2e-4)
  for k in range(config.num_layers):
    low = split.LowEncoder(config, k)
    actual = low(
      low.params_of(params),
      jnp.asarray(tiny_models.TOKENS),
      jnp.asarray(tiny_models.MASK),
    )
    np.testing.assert_allclose(actual[real], hidden[k][real], atol=5e-5)
  # The golden values, which tests without `transformers` rely on, are these.
  golden = np.load(tiny_models.GOLDEN)[f'{name}/hidden']
  np.testing.assert_allclose(
    golden[real], hidden[-1][..., ::2][real], atol=1e-4
  )


@pytest.mark.parametrize('is_bidirectional', [True, False])
def test_classes_of_distances_are_theirs(is_bidirectional, torch):
  from transformers.models.t5.modeling_t5 import T5Attention

  for num, longest in ((32, 128), (8, 12), (32, 100), (64, 512), (320, 800)):
    offsets = np.arange(-longest - 50, longest + 51)
    theirs = T5Attention._relative_position_bucket(
      torch.from_numpy(offsets), is_bidirectional, num, longest
    ).numpy()
    half = num // 2 if is_bidirectional else num
    classes = positions.distance_classes(half, longest)
    distances = np.abs(offsets) if is_bidirectional else np.maximum(-offsets, 0)
    ours = classes[np.minimum(distances, longest)]
    if is_bidirectional:
      ours = ours + half * (offsets > 0)
    np.testing.assert_array_equal(ours, theirs)
