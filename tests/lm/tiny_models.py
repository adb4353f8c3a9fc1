# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A tiny model of each family, and what `transformers` makes of it.

  python -m tests.lm.tiny_models

writes golden/tiny_models.npz: the outputs of `transformers` (extra `bench`) for
the models here, which `save_pretrained` wrote. Weights come from a generator
whose numbers are the same in all versions of numpy.
"""

import pathlib
import sys
import tempfile
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from antjax.lm import pretrained, transformer

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'tiny_models.npz'
_SIZES = {
  'vocab_size': 61,
  'num_layers': 3,
  'embed_dim': 32,
  'num_heads': 4,
  'num_kv_heads': 4,
  'mlp_dim': 48,
}
_LAYER_NORM = {
  **_SIZES,
  'norm': 'layer',
  'positions': 'learned',
  'max_positions': 40,
  'qkv_bias': True,
  'out_bias': True,
  'mlp_bias': True,
  'gated_mlp': False,
}
_OPT = {**_LAYER_NORM, 'position_offset': 2, 'activation': 'relu'}
_T5 = {
  **_SIZES,
  'causal': False,
  'positions': 'relative',
  'relative_buckets': 8,
  'relative_max_distance': 12,
  'attention_scale': 1.0,
  'norm_eps': 1e-6,
}
CONFIGS = {
  'llama': transformer.Config(
    **{**_SIZES, 'num_kv_heads': 2}, tie_embeddings=False
  ),
  'llama-biases': transformer.Config(
    **_SIZES, head_dim=10, qkv_bias=True, out_bias=True, mlp_bias=True
  ),
  'qwen2': transformer.Config(
    **{**_SIZES, 'num_kv_heads': 1},
    qkv_bias=True,
    rope_theta=1e6,
    norm_eps=1e-6,
  ),
  'opt': transformer.Config(**_OPT),
  'opt-post': transformer.Config(**_OPT, norm_place='post'),
  'bert': transformer.Config(
    **_LAYER_NORM,
    causal=False,
    norm_place='post',
    embed_norm=True,
    token_types=2,
    activation='gelu',
    norm_eps=1e-12,
  ),
  't5': transformer.Config(**_T5, activation='gelu_tanh', head_dim=12),
  't5-plain': transformer.Config(**_T5, activation='relu', gated_mlp=False),
}
CAUSAL = [name for name, config in CONFIGS.items() if config.causal]
# Padded on the left, on the right, not at all.
TOKENS = np.random.RandomState(7).randint(0, 61, (3, 17)).astype(np.int32)
MASK = np.ones((3, 17), np.int32)
MASK[0, :5] = 0
MASK[1, 11:] = 0


def params_of(config):
  """Weights far from those at birth, so that every part of a model shows."""

  def leaf(path, shape):
    name = path[-1].key
    seed = zlib.crc32(name.encode())
    x = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    if name.endswith('norm'):
      return jnp.asarray(1 + 0.3 * x)
    # T5 divides no scores: its queries are small instead.
    small = name == 'query' and config.attention_scale == 1
    return jnp.asarray((0.08 if small else 0.25) * x)

  return jax.tree.map_with_path(
    leaf, transformer.shapes(config), is_leaf=transformer.is_shape
  )


def theirs(folder, config, tokens, mask):
  """(hidden states, logits or None) of `transformers`.

  Hidden states are those of all layers, [L + 1, B, T, D]: what goes into each,
  and the last one's normed output.
  """
  import torch
  import transformers

  name = 'AutoModelForCausalLM' if config.causal else 'AutoModelForTextEncoding'
  model_class = getattr(transformers, name)
  model = model_class.from_pretrained(folder, attn_implementation='eager')
  model = model.eval()
  options = {}
  if config.positions != 'relative':
    places = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    options['position_ids'] = torch.from_numpy(places)
  with torch.no_grad():
    result = model(
      torch.from_numpy(tokens).long(),
      attention_mask=torch.from_numpy(mask).long(),
      output_hidden_states=True,
      **options,
    )
  hidden = np.stack([x.numpy() for x in result.hidden_states])
  return hidden, result.logits.numpy() if config.causal else None


def main():
  arrays = {}
  for name, config in CONFIGS.items():
    with tempfile.TemporaryDirectory() as folder:
      pretrained.save_pretrained(folder, config, params_of(config))
      hidden, logits = theirs(folder, config, TOKENS, MASK)
    # Every second number says as much.
    arrays[f'{name}/hidden'] = hidden[-1][..., ::2]
    if logits is not None:
      arrays[f'{name}/logits'] = logits[..., ::4]
  GOLDEN.parent.mkdir(exist_ok=True)
  np.savez_compressed(GOLDEN, **arrays)
  print(f'{GOLDEN}: {GOLDEN.stat().st_size:,} bytes', file=sys.stderr)


if __name__ == '__main__':
  main()
