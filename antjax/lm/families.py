# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How model families are written in Hugging Face's layout: fields and names."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from antjax.lm import transformer
from antjax.lm.config import Config

PyTree = Any
# Fields of Config that no config.json holds: how to compute, not what.
_OURS_ONLY = ('remat', 'attention', 'lora_scale')
_ACTIVATIONS = {
  'silu': 'silu',
  'swish': 'silu',
  'gelu': 'gelu',
  'gelu_new': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'relu': 'relu',
}
# T5's name of both activation and gate.
_FEED_FORWARD = {
  'relu': ('relu', False),
  'gelu': ('gelu', False),
  'gated-gelu': ('gelu_tanh', True),
  'gated-silu': ('silu', True),
}


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


def family_of(fields: Mapping[str, Any]) -> Family:
  """The family of a config.json.

  Raises:
    ValueError: We know no such family.
  """
  name = fields.get('model_type')
  if name not in FAMILIES:
    raise ValueError(
      f'config.json: model_type={name!r}; known are {", ".join(FAMILIES)}.'
    )
  return FAMILIES[name]


def read_config(fields: Mapping[str, Any]) -> Config:
  """The config of a model.

  Args:
    fields: Content of a config.json.

  Raises:
    ValueError: An unknown family, a field that is missing, or one whose value
      is not supported.
  """
  family = family_of(fields)
  fields = dict(fields)
  rope = fields.get('rope_parameters') or {}
  rope = {**rope, **(fields.get('rope_scaling') or {})}
  if 'rope_theta' in rope:
    fields['rope_theta'] = rope['rope_theta']
  only = {**family.only, 'rope_type': 'default', 'quantization_config': None}
  if 'hidden_size' in fields:  # OPT-350m maps between two widths.
    only['word_embed_proj_dim'] = fields['hidden_size']
  fields['rope_type'] = rope.get('rope_type', rope.get('type', 'default'))
  for name, value in only.items():
    if fields.get(name, value) != value:
      raise ValueError(
        f'config.json: {name}={fields[name]!r} is not supported; needed is'
        f' {value!r}, or a model without it.'
      )
  fields = {**family.defaults, **fields}
  # Models from before grouped queries leave their number out.
  fields.setdefault('num_key_value_heads', fields.get('num_attention_heads'))
  missing = sorted(set(family.fields.values()) - set(fields))
  if missing:
    raise ValueError(f'config.json lacks {", ".join(missing)}.')
  values = dict(family.fixed)
  for ours, theirs in family.fields.items():
    values[ours] = _read_field(ours, theirs, fields[theirs])
  width = values['embed_dim'] / values['num_heads']
  if values.get('head_dim') == width:
    values['head_dim'] = None
  return Config(**values)


def _read_field(ours: str, theirs: str, value: Any) -> Any:
  if ours == 'norm_place':
    return 'pre' if value else 'post'
  if ours not in ('activation', 'gated_mlp'):
    return value
  names: Mapping[str, Any] = _ACTIVATIONS
  if theirs == 'feed_forward_proj':
    place = ('activation', 'gated_mlp').index(ours)
    names = {k: v[place] for k, v in _FEED_FORWARD.items()}
  if value not in names:
    raise ValueError(
      f'config.json: {theirs}={value!r}; known are {", ".join(names)}.'
    )
  return names[value]


def write_config(config: Config) -> dict[str, Any]:
  """The config.json of a model: `read_config` gives the config back.

  Raises:
    ValueError: The model is of no family that Hugging Face knows.
  """
  for name, family in FAMILIES.items():
    fields: dict[str, Any] = {
      'architectures': [family.architecture],
      'model_type': name,
      **family.only,
    }
    for ours, theirs in family.fields.items():
      fields[theirs] = _write_field(config, ours, theirs)
    try:
      again = read_config(fields)
    except ValueError:
      continue
    keep = {field: getattr(config, field) for field in _OURS_ONLY}
    if config.head_dim == again.head_width:
      keep['head_dim'] = config.head_dim
    if not config.causal:  # An encoder has no output layer to tie.
      keep['tie_embeddings'] = config.tie_embeddings
    if dataclasses.replace(again, **keep) == config:
      return fields
  raise ValueError(
    f'no family of {", ".join(FAMILIES)} has models like {config}; save the'
    ' parameters with antjax.train.checkpoint instead.'
  )


def _write_field(config: Config, ours: str, theirs: str) -> Any:
  if ours == 'norm_place':
    return config.norm_place == 'pre'
  if ours == 'head_dim':
    return config.head_width
  if theirs == 'feed_forward_proj':
    pair = config.activation, config.gated_mlp
    return next((k for k, v in _FEED_FORWARD.items() if v == pair), None)
  if ours == 'activation':
    return next(k for k, v in _ACTIVATIONS.items() if v == config.activation)
  return getattr(config, ours)


def tensor_names(family: Family, config: Config) -> PyTree:
  """The tree of `transformer.shapes` with names in place of shapes.

  A layer's leaf has a list of names, one a layer.
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
  result = {k: full(name(family.top, k)) for k in tree if k != 'layers'}
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
  """A tensor's name with the prefix that we write."""
  prefixes = (family.prefix, *family.also)
  for prefix in sorted(prefixes, key=len, reverse=True):
    module = name.removeprefix(prefix)
    if name.startswith(prefix) and not module.startswith('lm_head'):
      return family.prefix + module
  return name


def is_ignored(family: Family, name: str, config: Config) -> bool:
  """Whether the model does without a tensor, named as we write it."""
  if name == 'lm_head.weight' and config.causal:
    return config.tie_embeddings
  return re.search(family.ignored, name) is not None
