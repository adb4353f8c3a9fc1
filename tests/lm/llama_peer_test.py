# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Our logits against the Llama of `transformers`, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.lm import transformer

pytestmark = pytest.mark.slow

# Ours -> theirs, which are stored transposed.
_NAMES = {
  'query': 'self_attn.q_proj',
  'key': 'self_attn.k_proj',
  'value': 'self_attn.v_proj',
  'out': 'self_attn.o_proj',
  'gate': 'mlp.gate_proj',
  'up': 'mlp.up_proj',
  'down': 'mlp.down_proj',
}
_NORMS = {
  'attention_norm': 'input_layernorm',
  'mlp_norm': 'post_attention_layernorm',
}


def our_params(config, weights):
  """Our tree of their state dict."""

  def stack(name):
    prefix = 'model.layers.'
    return jnp.stack(
      [weights[f'{prefix}{i}.{name}.weight'] for i in range(config.num_layers)]
    )

  params = {
    'embed': jnp.asarray(weights['model.embed_tokens.weight']),
    'layers': {
      **{ours: stack(name).mT for ours, name in _NAMES.items()},
      **{ours: stack(name) for ours, name in _NORMS.items()},
    },
    'final_norm': jnp.asarray(weights['model.norm.weight']),
  }
  if not config.tie_embeddings:
    params['lm_head'] = jnp.asarray(weights['lm_head.weight']).T
  return params


@pytest.mark.parametrize('tie', [True, False])
def test_logits_are_those_of_llama(tie):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  config = transformer.Config(
    vocab_size=97,
    num_layers=3,
    embed_dim=48,
    num_heads=6,
    num_kv_heads=2,
    mlp_dim=80,
    tie_embeddings=tie,
  )
  torch.manual_seed(0)
  theirs = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=config.vocab_size,
      hidden_size=config.embed_dim,
      intermediate_size=config.mlp_dim,
      num_hidden_layers=config.num_layers,
      num_attention_heads=config.num_heads,
      num_key_value_heads=config.num_kv_heads,
      rms_norm_eps=config.norm_eps,
      rope_theta=config.rope_theta,
      tie_word_embeddings=tie,
      initializer_range=0.2,  # Far from uniform attention.
    )
  ).eval()
  with torch.no_grad():  # Norms are born as ones, which show nothing.
    for name, x in theirs.named_parameters():
      if 'norm' in name:
        x.copy_(1 + 0.3 * torch.randn_like(x))
  weights = {k: v.detach().numpy() for k, v in theirs.state_dict().items()}
  params = our_params(config, weights)
  born = transformer.init(config, jax.random.key(0))
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, born)
  tokens = np.random.default_rng(0).integers(0, 97, (2, 33))
  with torch.no_grad():
    expected = theirs(torch.from_numpy(tokens)).logits.numpy()
  actual = transformer.logits(config, params, jnp.asarray(tokens, jnp.int32))
  assert np.abs(expected).max() > 1
  np.testing.assert_allclose(actual, expected, atol=2e-4, rtol=1e-3)


if __name__ == '__main__':
  raise SystemExit(pytest.main([__file__]))
