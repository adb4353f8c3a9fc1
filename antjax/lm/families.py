# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Model families in Hugging Face's layout: fields and names.

`antjax.lm.config_json` reads and writes the fields.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from antjax.lm import transformer
from antjax.lm.config import Config

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """One `model_type`.

  Attributes:
    architecture: Class of `transformers` that reads what we write.
    fixed: Fields of Config that all its models share.
    fields: Field of Config -> field of config.json.
    defaults: Field of config.json -> its value where it is left out.
    only: Field of config.json -> the one value that is supported, its default.
    top: Leaf -> module, for leaves that are no layer's.
    layer: Leaf -> module inside layer {i}. 'up_plain' is 'up' without a gate.
    prefix: Stands before all names but the output layer's, where we write.
    also: Prefixes that files may have in its place.
    ignored: Pattern of tensors that the model does without.
    old: End of a name in old files -> what it is now.
  """

  architecture: str
  fixed: Mapping[str, Any]
  fields: Mapping[str, str]
  defaults: Mapping[str, Any]
  only: Mapping[str, Any]
  top: Mapping[str, str]
  layer: Mapping[str, str]
  prefix: str
  also: tuple[str, ...]
  ignored: str
  old: Mapping[str, str] = dataclasses.field(default_factory=dict)


_COMMON = {
  'vocab_size': 'vocab_size',
  'num_layers': 'num_hidden_layers',
  'embed_dim': 'hidden_size',
  'num_heads': 'num_attention_heads',
  'num_kv_heads': 'num_attention_heads',
}
_LAYER_NORM = {
  'norm': 'layer',
  'gated_mlp': False,
  'qkv_bias': True,
  'out_bias': True,
  'mlp_bias': True,
  'positions': 'learned',
}
_LLAMA = Family(
  architecture='LlamaForCausalLM',
  fixed={},
  fields={
    **_COMMON,
    'num_kv_heads': 'num_key_value_heads',
    'mlp_dim': 'intermediate_size',
    'head_dim': 'head_dim',
    'rope_theta': 'rope_theta',
    'norm_eps': 'rms_norm_eps',
    'activation': 'hidden_act',
    'tie_embeddings': 'tie_word_embeddings',
    'qkv_bias': 'attention_bias',
    'out_bias': 'attention_bias',
    'mlp_bias': 'mlp_bias',
  },
  defaults={
    'head_dim': None,
    'rope_theta': 10_000.0,
    'rms_norm_eps': 1e-6,
    'hidden_act': 'silu',
    'tie_word_embeddings': False,
    'attention_bias': False,
    'mlp_bias': False,
  },
  only={},
  top={
    'embed': 'embed_tokens',
    'final_norm': 'norm',
    'lm_head': 'lm_head',
  },
  layer={
    'attention_norm': 'layers.{i}.input_layernorm',
    'query': 'layers.{i}.self_attn.q_proj',
    'key': 'layers.{i}.self_attn.k_proj',
    'value': 'layers.{i}.self_attn.v_proj',
    'out': 'layers.{i}.self_attn.o_proj',
    'mlp_norm': 'layers.{i}.post_attention_layernorm',
    'gate': 'layers.{i}.mlp.gate_proj',
    'up': 'layers.{i}.mlp.up_proj',
    'down': 'layers.{i}.mlp.down_proj',
  },
  prefix='model.',
  also=('',),
  ignored=r'rotary_emb\.inv_freq$',
)
_without_biases = {
  k: v for k, v in _LLAMA.fields.items() if not k.endswith('_bias')
}
FAMILIES: dict[str, Family] = {
  'llama': _LLAMA,
  'qwen2': dataclasses.replace(
    _LLAMA,
    architecture='Qwen2ForCausalLM',
    fixed={'qkv_bias': True},
    fields=_without_biases,
    only={'use_sliding_window': False},
  ),
  'opt': Family(
    architecture='OPTForCausalLM',
    fixed={**_LAYER_NORM, 'position_offset': 2, 'norm_eps': 1e-5},
    fields={
      **_COMMON,
      'mlp_dim': 'ffn_dim',
      'max_positions': 'max_position_embeddings',
      'activation': 'activation_function',
      'norm_place': 'do_layer_norm_before',
      'tie_embeddings': 'tie_word_embeddings',
    },
    defaults={
      'activation_function': 'relu',
      'do_layer_norm_before': True,
      'tie_word_embeddings': True,
    },
    only={
      'enable_bias': True,
      'layer_norm_elementwise_affine': True,
      '_remove_final_layer_norm': False,
    },
    top={
      'embed': 'embed_tokens',
      'positions': 'embed_positions',
      'final_norm': 'final_layer_norm',
      'lm_head': 'lm_head',
    },
    layer={
      'attention_norm': 'layers.{i}.self_attn_layer_norm',
      'query': 'layers.{i}.self_attn.q_proj',
      'key': 'layers.{i}.self_attn.k_proj',
      'value': 'layers.{i}.self_attn.v_proj',
      'out': 'layers.{i}.self_attn.out_proj',
      'mlp_norm': 'layers.{i}.final_layer_norm',
      'up': 'layers.{i}.fc1',
      'down': 'layers.{i}.fc2',
    },
    prefix='model.decoder.',
    also=('decoder.', ''),
    ignored='^$',
  ),
  'bert': Family(
    architecture='BertModel',
    fixed={
      **_LAYER_NORM,
      'causal': False,
      'norm_place': 'post',
      'embed_norm': True,
    },
    fields={
      **_COMMON,
      'mlp_dim': 'intermediate_size',
      'max_positions': 'max_position_embeddings',
      'token_types': 'type_vocab_size',
      'activation': 'hidden_act',
      'norm_eps': 'layer_norm_eps',
    },
    defaults={
      'hidden_act': 'gelu',
      'layer_norm_eps': 1e-12,
      'type_vocab_size': 2,
    },
    only={'position_embedding_type': 'absolute', 'is_decoder': False},
    top={
      'embed': 'embeddings.word_embeddings',
      'positions': 'embeddings.position_embeddings',
      'token_types': 'embeddings.token_type_embeddings',
      'embed_norm': 'embeddings.LayerNorm',
    },
    layer={
      'query': 'encoder.layer.{i}.attention.self.query',
      'key': 'encoder.layer.{i}.attention.self.key',
      'value': 'encoder.layer.{i}.attention.self.value',
      'out': 'encoder.layer.{i}.attention.output.dense',
      'attention_norm': 'encoder.layer.{i}.attention.output.LayerNorm',
      'up': 'encoder.layer.{i}.intermediate.dense',
      'down': 'encoder.layer.{i}.output.dense',
      'mlp_norm': 'encoder.layer.{i}.output.LayerNorm',
    },
    prefix='',
    also=('bert.',),
    ignored=r'^(pooler|cls)\.|^embeddings\.position_ids$',
    old={
      'LayerNorm.gamma': 'LayerNorm.weight',
      'LayerNorm.beta': 'LayerNorm.bias',
    },
  ),
  't5': Family(
    architecture='T5EncoderModel',
    fixed={'causal': False, 'positions': 'relative', 'scale_attention': False},
    fields={
      'vocab_size': 'vocab_size',
      'num_layers': 'num_layers',
      'embed_dim': 'd_model',
      'num_heads': 'num_heads',
      'num_kv_heads': 'num_heads',
      'head_dim': 'd_kv',
      'mlp_dim': 'd_ff',
      'relative_buckets': 'relative_attention_num_buckets',
      'relative_max_distance': 'relative_attention_max_distance',
      'norm_eps': 'layer_norm_epsilon',
      'activation': 'feed_forward_proj',
      'gated_mlp': 'feed_forward_proj',
    },
    defaults={
      'relative_attention_num_buckets': 32,
      'relative_attention_max_distance': 128,
      'layer_norm_epsilon': 1e-6,
      'feed_forward_proj': 'relu',
    },
    only={},
    top={
      'embed': 'shared',
      'final_norm': 'encoder.final_layer_norm',
      'relative_bias': (
        'encoder.block.0.layer.0.SelfAttention.relative_attention_bias'
      ),
    },
    layer={
      'attention_norm': 'encoder.block.{i}.layer.0.layer_norm',
      'query': 'encoder.block.{i}.layer.0.SelfAttention.q',
      'key': 'encoder.block.{i}.layer.0.SelfAttention.k',
      'value': 'encoder.block.{i}.layer.0.SelfAttention.v',
      'out': 'encoder.block.{i}.layer.0.SelfAttention.o',
      'mlp_norm': 'encoder.block.{i}.layer.1.layer_norm',
      'gate': 'encoder.block.{i}.layer.1.DenseReluDense.wi_0',
      'up': 'encoder.block.{i}.layer.1.DenseReluDense.wi_1',
      'up_plain': 'encoder.block.{i}.layer.1.DenseReluDense.wi',
      'down': 'encoder.block.{i}.layer.1.DenseReluDense.wo',
    },
    prefix='',
    also=(),
    ignored=r'^(decoder|lm_head)\.|^encoder\.embed_tokens\.weight$',
  ),
}


def family_of(fields: Mapping[str, Any], path: Any = 'config.json') -> Family:
  """The family of a config.json.

  Raises:
    ValueError: The family is unknown.
  """
  name = fields.get('model_type')
  if not isinstance(name, str) or name not in FAMILIES:
    raise ValueError(
      f'{path}: model_type={name!r}; known are {", ".join(FAMILIES)}.'
    )
  return FAMILIES[name]


def tensor_names(family: Family, config: Config) -> PyTree:
  """The tree of `transformer.shapes` with names in place of shapes.

  Each leaf has a list of names, one per layer where it is a layer's.
  """

  def name(table: Mapping[str, str], leaf: str) -> str:
    if leaf in table:
      if not config.gated_mlp:
        return table.get(f'{leaf}_plain', table[leaf]) + '.weight'
      return f'{table[leaf]}.weight'
    return name(table, leaf.removesuffix('_bias')).replace('.weight', '.bias')

  def full(name: str) -> str:
    return name if name.startswith('lm_head') else family.prefix + name

  tree = transformer.shapes(config)
  layers = {leaf: name(family.layer, leaf) for leaf in tree['layers']}
  result = {k: [full(name(family.top, k))] for k in tree if k != 'layers'}
  return result | {
    'layers': {
      leaf: [full(n.format(i=i)) for i in range(config.num_layers)]
      for leaf, n in layers.items()
    }
  }


def is_transposed(path: tuple[str, ...], shape: tuple[int, ...]) -> bool:
  """Whether our leaf is [in, out] where theirs is [out, in]."""
  return path[-1] == 'lm_head' or (path[0] == 'layers' and len(shape) == 3)


def our_name(family: Family, name: str) -> str:
  """A tensor's name with the prefix and the end that we write."""
  for old, new in family.old.items():
    if name.endswith(old):
      name = name.removesuffix(old) + new
  prefixes = (family.prefix, *family.also)
  for prefix in sorted(prefixes, key=len, reverse=True):
    module = name.removeprefix(prefix)
    if name.startswith(prefix) and not module.startswith('lm_head'):
      return family.prefix + module
  return name


def is_ignored(family: Family, name: str, config: Config) -> bool:
  """Whether the model ignores a tensor, by the name that we write."""
  if name == 'lm_head.weight' and config.causal:
    return config.tie_embeddings
  return re.search(family.ignored, name) is not None
