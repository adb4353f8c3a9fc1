# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Model families in Hugging Face's layout: fields of config.json and names."""

from collections.abc import Callable, Mapping
import dataclasses
import re
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """One `model_type`.

  Attributes:
    architecture: Class of `transformers` that reads what we write.
    fixed: Fields of Config that all its models share. An embed_scale of None is
      the root of the width.
    fields: Field of Config -> field of config.json.
    defaults: Field of config.json -> its value where it is left out.
    only: Field of config.json -> the one value that is supported, its default.
    letters: Fields of config.json -> the pattern where no layer_types say it,
      for families with windows or layers without positions.
    letter_fields: Fields of config.json that say where layers look.
    windows: Field of config.json with the width of a window.
    half_windows: Whether that field counts both sides of a token, where the
      model is not causal.
    thetas: Fields of config.json with rope_theta and rope_local_theta.
    top: Leaf -> module, for leaves that are no layer's.
    layer: Leaf -> module inside layer {i}. 'up_plain' is 'up' without a gate.
      'module|1' is the second part of a tensor that holds several leaves.
    prefix: Stands before all names but the output layer's, where we write.
    also: Prefixes that files may have in its place.
    ignored: Pattern of tensors that the model does without.
    old: End of a name in old files -> what it is now.
    is_transposed: Whether layers' matrices are [out, in].
    padded_positions: Whether max_position_embeddings counts the rows before the
      first place too.
  """

  architecture: str
  fixed: Mapping[str, Any]
  fields: Mapping[str, str]
  defaults: Mapping[str, Any]
  only: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  letters: Callable[[Mapping[str, Any]], str] | None = None
  letter_fields: tuple[str, ...] = ()
  windows: str = 'sliding_window'
  half_windows: bool = False
  thetas: tuple[str, str] = ('rope_theta', '')
  top: Mapping[str, str]
  layer: Mapping[str, str]
  prefix: str
  also: tuple[str, ...]
  ignored: str
  old: Mapping[str, str] = dataclasses.field(default_factory=dict)
  is_transposed: bool = True
  padded_positions: bool = False


def _pairs(text: str, before: str = '') -> dict[str, str]:
  """'a=b c' -> {'a': before + 'b', 'c': before + 'c'}."""
  pairs = [pair.partition('=') for pair in text.split()]
  return {key: before + (value or key) for key, _, value in pairs}


def _without(table: Mapping[str, Any], pattern: str) -> dict[str, Any]:
  return {k: v for k, v in table.items() if not re.search(pattern, k)}


_COMMON = _pairs(
  'vocab_size num_layers=num_hidden_layers embed_dim=hidden_size'
  ' num_heads=num_attention_heads num_kv_heads=num_attention_heads'
)
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
  fields=_COMMON
  | _pairs(
    'num_kv_heads=num_key_value_heads mlp_dim=intermediate_size head_dim'
    ' norm_eps=rms_norm_eps activation=hidden_act causal=is_causal'
    ' tie_embeddings=tie_word_embeddings qkv_bias=attention_bias'
    ' out_bias=attention_bias mlp_bias'
  ),
  defaults={
    'head_dim': None,
    'rms_norm_eps': 1e-6,
    'hidden_act': 'silu',
    'tie_word_embeddings': False,
    'attention_bias': False,
    'mlp_bias': False,
    'is_causal': True,
    'rope_theta': 10_000.0,
  },
  top=_pairs('embed=embed_tokens final_norm=norm lm_head'),
  layer=_pairs(
    'attention_norm=input_layernorm query=self_attn.q_proj key=self_attn.k_proj'
    ' value=self_attn.v_proj out=self_attn.o_proj'
    ' mlp_norm=post_attention_layernorm gate=mlp.gate_proj up=mlp.up_proj'
    ' down=mlp.down_proj',
    'layers.{i}.',
  ),
  prefix='model.',
  also=('',),
  ignored=r'rotary_emb\.inv_freq$',
)
_PLAIN = _without(_LLAMA.fields, '_bias$')
_NO_MLP_BIAS = _without(_LLAMA.fields, '^mlp_bias$')
_QK_NORM = _pairs(
  'query_norm=self_attn.q_norm key_norm=self_attn.k_norm', 'layers.{i}.'
)


def _all_windows(fields: Mapping[str, Any]) -> str:
  return 'w'


def _last_windows(fields: Mapping[str, Any]) -> str:
  """Qwen's: from max_window_layers on."""
  num = fields['num_hidden_layers']
  first = min(fields.get('max_window_layers', 28), num)
  return 'g' * first + 'w' * (num - first)


_replace = dataclasses.replace
_QWEN_FIELDS = ('layer_types', 'use_sliding_window', 'max_window_layers')
_QWEN3 = _replace(
  _LLAMA,
  architecture='Qwen3ForCausalLM',
  fixed={'qk_norm': 'head'},
  fields=_NO_MLP_BIAS,
  defaults={**_LLAMA.defaults, 'head_dim': 128, 'use_sliding_window': False},
  letters=_last_windows,
  letter_fields=_QWEN_FIELDS,
  layer=_LLAMA.layer | _QK_NORM,
)
_GEMMA_FIXED = {'norm_plus_one': True, 'embed_scale': None}
_GEMMA = _replace(
  _LLAMA,
  architecture='GemmaForCausalLM',
  fixed=_GEMMA_FIXED,
  fields=_NO_MLP_BIAS,
  defaults={
    **_LLAMA.defaults,
    'head_dim': 256,
    'hidden_act': 'gelu_pytorch_tanh',
    'tie_word_embeddings': True,
  },
  only={
    'hidden_activation': 'gelu_pytorch_tanh',
    'use_bidirectional_attention': False,
  },
)
_GEMMA2 = _replace(
  _GEMMA,
  architecture='Gemma2ForCausalLM',
  fixed={**_GEMMA_FIXED, 'norm_place': 'both'},
  fields=_NO_MLP_BIAS
  | _pairs(
    'activation=hidden_activation attention_scale=query_pre_attn_scalar'
    ' score_cap=attn_logit_softcapping logit_cap=final_logit_softcapping'
  ),
  defaults={
    **_GEMMA.defaults,
    'hidden_activation': 'gelu_pytorch_tanh',
    'query_pre_attn_scalar': 256,
    'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0,
    'sliding_window': 4096,
  },
  only={
    'hidden_act': 'gelu_pytorch_tanh',
    'use_bidirectional_attention': False,
  },
  letters=lambda fields: 'wg',
  letter_fields=('layer_types',),
  layer=_LLAMA.layer
  | _pairs(
    'attention_post_norm=post_attention_layernorm'
    ' mlp_norm=pre_feedforward_layernorm'
    ' mlp_post_norm=post_feedforward_layernorm',
    'layers.{i}.',
  ),
)
_BERT = Family(
  architecture='BertModel',
  fixed={
    **_LAYER_NORM,
    'causal': False,
    'norm_place': 'post',
    'embed_norm': True,
  },
  fields=_COMMON
  | _pairs(
    'mlp_dim=intermediate_size max_positions=max_position_embeddings'
    ' token_types=type_vocab_size activation=hidden_act norm_eps=layer_norm_eps'
  ),
  defaults={
    'hidden_act': 'gelu',
    'layer_norm_eps': 1e-12,
    'type_vocab_size': 2,
  },
  only={
    'position_embedding_type': 'absolute',
    'is_decoder': False,
    'add_cross_attention': False,
  },
  top=_pairs(
    'embed=word_embeddings positions=position_embeddings'
    ' token_types=token_type_embeddings embed_norm=LayerNorm',
    'embeddings.',
  ),
  layer=_pairs(
    'query=attention.self.query key=attention.self.key'
    ' value=attention.self.value out=attention.output.dense'
    ' attention_norm=attention.output.LayerNorm up=intermediate.dense'
    ' down=output.dense mlp_norm=output.LayerNorm',
    'encoder.layer.{i}.',
  ),
  prefix='',
  also=('bert.',),
  ignored=r'^(pooler|cls)\.|^embeddings\.position_ids$',
  old={
    'LayerNorm.gamma': 'LayerNorm.weight',
    'LayerNorm.beta': 'LayerNorm.bias',
  },
)
_ROBERTA = _replace(
  _BERT,
  architecture='RobertaModel',
  fixed={**_BERT.fixed, 'position_offset': 2},
  only={**_BERT.only, 'pad_token_id': 1},
  also=('roberta.',),
  ignored=r'^(pooler|lm_head|classifier)\.|^embeddings\.position_ids$',
  padded_positions=True,
)
_T5 = Family(
  architecture='T5EncoderModel',
  fixed={'causal': False, 'positions': 'relative', 'attention_scale': 1.0},
  fields=_pairs(
    'vocab_size num_layers embed_dim=d_model num_heads num_kv_heads=num_heads'
    ' head_dim=d_kv mlp_dim=d_ff norm_eps=layer_norm_epsilon'
    ' relative_buckets=relative_attention_num_buckets'
    ' relative_max_distance=relative_attention_max_distance'
    ' activation=feed_forward_proj gated_mlp=feed_forward_proj'
  ),
  defaults={
    'relative_attention_num_buckets': 32,
    'relative_attention_max_distance': 128,
    'layer_norm_epsilon': 1e-6,
    'feed_forward_proj': 'relu',
  },
  top=_pairs(
    'embed=shared final_norm=encoder.final_layer_norm'
    ' relative_bias='
    'encoder.block.0.layer.0.SelfAttention.relative_attention_bias'
  ),
  layer=_pairs(
    'attention_norm=0.layer_norm query=0.SelfAttention.q key=0.SelfAttention.k'
    ' value=0.SelfAttention.v out=0.SelfAttention.o mlp_norm=1.layer_norm'
    ' gate=1.DenseReluDense.wi_0 up=1.DenseReluDense.wi_1'
    ' up_plain=1.DenseReluDense.wi down=1.DenseReluDense.wo',
    'encoder.block.{i}.layer.',
  ),
  prefix='',
  also=(),
  ignored=r'^(decoder|lm_head)\.|^encoder\.embed_tokens\.weight$',
)
FAMILIES: dict[str, Family] = {
  'llama': _LLAMA,
  'mistral': _replace(
    _LLAMA,
    architecture='MistralForCausalLM',
    fields=_PLAIN,
    defaults={**_LLAMA.defaults, 'sliding_window': 4096},
    letters=_all_windows,
  ),
  'qwen2': _replace(
    _LLAMA,
    architecture='Qwen2ForCausalLM',
    fixed={'qkv_bias': True},
    fields=_PLAIN,
    defaults={**_LLAMA.defaults, 'use_sliding_window': False},
    letters=_last_windows,
    letter_fields=_QWEN_FIELDS,
  ),
  'qwen3': _QWEN3,
  'qwen3_moe': _replace(
    _QWEN3,
    architecture='Qwen3MoeForCausalLM',
    fields=_NO_MLP_BIAS
    | _pairs(
      'mlp_dim=moe_intermediate_size num_experts'
      ' experts_per_token=num_experts_per_tok normalize_experts=norm_topk_prob'
    ),
    defaults={
      **_QWEN3.defaults,
      'head_dim': None,
      'num_experts_per_tok': 8,
      'norm_topk_prob': False,
    },
    only={'decoder_sparse_step': 1, 'mlp_only_layers': []},
    letters=_all_windows,
    letter_fields=('use_sliding_window', 'max_window_layers'),
    layer=_QWEN3.layer
    | _pairs(
      'router=gate gate=experts.{e}.gate_proj up=experts.{e}.up_proj'
      ' down=experts.{e}.down_proj',
      'layers.{i}.mlp.',
    ),
  ),
  'gemma': _GEMMA,
  'gemma2': _GEMMA2,
  'gemma3_text': _replace(
    _GEMMA2,
    architecture='Gemma3ForCausalLM',
    fixed={**_GEMMA2.fixed, 'qk_norm': 'head'},
    fields={**_GEMMA2.fields, 'causal': 'use_bidirectional_attention'},
    defaults={
      **_GEMMA2.defaults,
      'attn_logit_softcapping': None,
      'final_logit_softcapping': None,
      'use_bidirectional_attention': False,
      'rope_theta': 1e6,
      'rope_local_base_freq': 10_000.0,
    },
    only={'hidden_act': 'gelu_pytorch_tanh', 'is_causal': True},
    letters=lambda fields: (
      'w' * (fields.get('sliding_window_pattern', 6) - 1) + 'g'
    ),
    letter_fields=(
      'layer_types',
      'sliding_window_pattern',
      '_sliding_window_pattern',
    ),
    half_windows=True,
    thetas=('rope_theta', 'rope_local_base_freq'),
    layer=_GEMMA2.layer | _QK_NORM,
  ),
  'phi3': _replace(
    _LLAMA,
    architecture='Phi3ForCausalLM',
    fields=_without(_PLAIN, 'head_dim'),
    defaults={**_LLAMA.defaults, 'rms_norm_eps': 1e-5, 'sliding_window': None},
    only=dict.fromkeys(('attention_bias', 'mlp_bias', 'lm_head_bias'), False)
    | dict.fromkeys(('full_attn_mod', 'interpolate_factor'), 1),
    letters=_all_windows,
    layer=_LLAMA.layer
    | _pairs(
      'query=self_attn.qkv_proj|0 key=self_attn.qkv_proj|1'
      ' value=self_attn.qkv_proj|2 gate=mlp.gate_up_proj|0'
      ' up=mlp.gate_up_proj|1',
      'layers.{i}.',
    ),
  ),
  'smollm3': _replace(
    _LLAMA,
    architecture='SmolLM3ForCausalLM',
    defaults={
      **_LLAMA.defaults,
      'tie_word_embeddings': True,
      'rope_theta': 2e6,
      'use_sliding_window': False,
    },
    only={'use_sliding_window': False},
    letter_fields=(
      'layer_types',
      'use_sliding_window',
      'no_rope_layers',
      'no_rope_layer_interval',
    ),
    letters=lambda fields: (
      'g' * (fields.get('no_rope_layer_interval', 4) - 1) + 'n'
    ),
  ),
  'olmo2': _replace(
    _LLAMA,
    architecture='Olmo2ForCausalLM',
    fixed={'norm_place': 'branch', 'qk_norm': 'width'},
    fields=_NO_MLP_BIAS,
    defaults={**_LLAMA.defaults, 'rms_norm_eps': 1e-5},
    layer=_LLAMA.layer
    | _QK_NORM
    | _pairs(
      'attention_norm=post_attention_layernorm'
      ' mlp_norm=post_feedforward_layernorm',
      'layers.{i}.',
    ),
  ),
  'granite': _replace(
    _LLAMA,
    architecture='GraniteForCausalLM',
    fields=_LLAMA.fields
    | _pairs(
      'embed_scale=embedding_multiplier residual_scale=residual_multiplier'
      ' attention_scale=attention_multiplier logit_divisor=logits_scaling'
    ),
    defaults=_LLAMA.defaults
    | dict.fromkeys(
      _pairs(
        'embedding_multiplier residual_multiplier attention_multiplier'
        ' logits_scaling'
      ),
      1.0,
    ),
  ),
  'gpt2': Family(
    architecture='GPT2LMHeadModel',
    fixed=_LAYER_NORM,
    fields=_pairs(
      'vocab_size num_layers=n_layer embed_dim=n_embd num_heads=n_head'
      ' num_kv_heads=n_head mlp_dim=n_inner max_positions=n_positions'
      ' activation=activation_function norm_eps=layer_norm_epsilon'
      ' tie_embeddings=tie_word_embeddings'
    ),
    defaults={
      'n_inner': None,
      'activation_function': 'gelu_new',
      'layer_norm_epsilon': 1e-5,
      'tie_word_embeddings': True,
    },
    only={
      'scale_attn_weights': True,
      'scale_attn_by_inverse_layer_idx': False,
      'add_cross_attention': False,
      'is_causal': True,
    },
    top=_pairs('embed=wte positions=wpe final_norm=ln_f lm_head'),
    layer=_pairs(
      'attention_norm=ln_1 query=attn.c_attn|0 key=attn.c_attn|1'
      ' value=attn.c_attn|2 out=attn.c_proj mlp_norm=ln_2 up=mlp.c_fc'
      ' down=mlp.c_proj',
      'h.{i}.',
    ),
    prefix='transformer.',
    also=('',),
    ignored=r'\.attn\.(masked_)?bias$',
    is_transposed=False,
  ),
  'opt': Family(
    architecture='OPTForCausalLM',
    fixed={**_LAYER_NORM, 'position_offset': 2, 'norm_eps': 1e-5},
    fields=_COMMON
    | _pairs(
      'mlp_dim=ffn_dim max_positions=max_position_embeddings'
      ' activation=activation_function norm_place=do_layer_norm_before'
      ' tie_embeddings=tie_word_embeddings'
    ),
    defaults={
      'activation_function': 'relu',
      'do_layer_norm_before': True,
      'tie_word_embeddings': True,
    },
    only={
      'enable_bias': True,
      'layer_norm_elementwise_affine': True,
      '_remove_final_layer_norm': False,
      'is_causal': True,
    },
    top=_pairs(
      'embed=embed_tokens positions=embed_positions'
      ' final_norm=final_layer_norm lm_head'
    ),
    layer=_pairs(
      'attention_norm=self_attn_layer_norm query=self_attn.q_proj'
      ' key=self_attn.k_proj value=self_attn.v_proj out=self_attn.out_proj'
      ' mlp_norm=final_layer_norm up=fc1 down=fc2',
      'layers.{i}.',
    ),
    prefix='model.decoder.',
    also=('decoder.', ''),
    ignored='^$',
  ),
  'bert': _BERT,
  'roberta': _ROBERTA,
  'xlm-roberta': _replace(_ROBERTA, architecture='XLMRobertaModel'),
  'distilbert': _replace(
    _BERT,
    architecture='DistilBertModel',
    fixed={**_BERT.fixed, 'norm_eps': 1e-12},
    fields=_pairs(
      'vocab_size num_layers=n_layers embed_dim=dim num_heads=n_heads'
      ' num_kv_heads=n_heads mlp_dim=hidden_dim activation'
      ' max_positions=max_position_embeddings'
    ),
    defaults={'activation': 'gelu'},
    only={},
    layer=_pairs(
      'query=attention.q_lin key=attention.k_lin value=attention.v_lin'
      ' out=attention.out_lin attention_norm=sa_layer_norm up=ffn.lin1'
      ' down=ffn.lin2 mlp_norm=output_layer_norm',
      'transformer.layer.{i}.',
    ),
    also=('distilbert.',),
    ignored=r'^(vocab_|pre_classifier|classifier|qa_outputs)|position_ids$',
  ),
  'mpnet': _replace(
    _ROBERTA,
    architecture='MPNetModel',
    fixed={**_ROBERTA.fixed, 'also_relative': True},
    fields=_without(_BERT.fields, 'token_types')
    | _pairs('relative_buckets=relative_attention_num_buckets'),
    defaults={
      **_without(_BERT.defaults, 'type_vocab_size'),
      'relative_attention_num_buckets': 32,
    },
    top=_BERT.top | {'relative_bias': 'encoder.relative_attention_bias'},
    layer=_BERT.layer
    | _pairs(
      'query=attn.q key=attn.k value=attn.v out=attn.o'
      ' attention_norm=LayerNorm',
      'encoder.layer.{i}.attention.',
    ),
    also=('mpnet.',),
  ),
  'modernbert': Family(
    architecture='ModernBertModel',
    fixed={
      'norm': 'layer',
      'causal': False,
      'embed_norm': True,
      'first_norm': False,
    },
    fields=_COMMON
    | _pairs(
      'mlp_dim=intermediate_size activation=hidden_activation norm_eps'
      ' norm_bias qkv_bias=attention_bias out_bias=attention_bias mlp_bias'
    ),
    defaults={
      'hidden_activation': 'gelu',
      'norm_eps': 1e-5,
      'norm_bias': False,
      'attention_bias': False,
      'mlp_bias': False,
      'local_attention': 128,
      'global_rope_theta': 160_000.0,
      'local_rope_theta': 10_000.0,
    },
    only={'position_embedding_type': 'absolute', 'layer_norm_eps': 1e-5},
    letters=lambda fields: (
      'g' + 'w' * (fields.get('global_attn_every_n_layers', 3) - 1)
    ),
    letter_fields=('layer_types', 'global_attn_every_n_layers'),
    windows='local_attention',
    half_windows=True,
    thetas=('global_rope_theta', 'local_rope_theta'),
    top=_pairs(
      'embed=embeddings.tok_embeddings embed_norm=embeddings.norm final_norm'
    ),
    layer=_pairs(
      'attention_norm=attn_norm query=attn.Wqkv|0 key=attn.Wqkv|1'
      ' value=attn.Wqkv|2 out=attn.Wo mlp_norm=mlp_norm gate=mlp.Wi|0'
      ' up=mlp.Wi|1 down=mlp.Wo',
      'layers.{i}.',
    ),
    prefix='',
    also=('model.',),
    ignored=r'^(head|decoder|classifier)\.',
  ),
  't5': _T5,
  'mt5': _replace(
    _T5,
    architecture='MT5EncoderModel',
    defaults={**_T5.defaults, 'feed_forward_proj': 'gated-gelu'},
  ),
}
