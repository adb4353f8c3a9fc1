# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's config.json to a `Config`, and back."""

from collections.abc import Mapping
import dataclasses
import math
import re
import typing
from typing import Any

from antjax.lm import families, layer_fields
from antjax.lm.config import Config
from antjax.lm.families import Family

# Fields of Config that no config.json holds: how to compute, not what.
_OURS_ONLY = ('remat', 'attention', 'lora_scale', 'layers_per_step')
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
# Numbers that may be null, which stands for 0 or for what follows from others.
_NULLABLE = ('head_dim', 'score_cap', 'logit_cap')
# What changes no output at inference: tokens, training, files, other heads.
_HARMLESS = re.compile(
  r"""_token_ids?$|_token_index$|dropout|_pdrop$|layerdrop|^_?initializer|init_
  |^(torch_)?dtype$|^output_|^summary_|^classifier|^decoder_|label2id|id2label
  |^use_cache$|^(_name_or_path|_commit_hash|architectures|auto_map|model_type
  |transformers.*|unsloth.*|torchscript|return_dict|problem_type|pretraining_tp
  |tie_word_embeddings|tie_encoder_decoder|is_encoder_decoder|is_decoder
  |gradient_checkpointing|chunk_size_feed_forward|task_specific_params
  |finetuning_task|prefix|n_ctx|n_positions|max_position_embeddings|use_bfloat16
  |output_past|original_max_position_embeddings|model_max_length|_attn_.*
  |cache_implementation|router_aux_loss_coef|reorder_and_upcast_attn
  |deterministic_flash_attn|reference_compile|repad_logits_with_grad
  |sparse_pred.*|sinusoidal_pos_embds|num_decoder_layers|dense_act_fn
  |is_llama_config|tie_weights_|directionality|pooler_.*|_?num_labels|n_special
  |predict_special_tokens|do_sample|max_length|min_length|num_beams|top_[kp]
  |temperature|repetition_penalty|no_repeat_ngram_size|early_stopping
  |is_gated_act|scale_decoder_outputs|intermediate_size|max_window_layers
  |vocab_size|language|license|init_std
  |tokenizer_class|use_return_dict)$""",
  re.VERBOSE,
)
_HINTS = typing.get_type_hints(Config)


def _kind(ours: str, theirs: str) -> str:
  """Kind of a field's value in config.json: size, number, flag or text."""
  if ours == 'norm_place':
    return 'flag'
  if theirs == 'feed_forward_proj':
    return 'text'
  kinds = {float: 'number', bool: 'flag', int: 'size'}
  hint = _HINTS[ours]
  of = [k for k in typing.get_args(hint) if k is not type(None)]
  return kinds.get(of[0] if len(of) == 1 else hint, 'text')


def read_config(fields: Mapping[str, Any], path: Any = 'config.json') -> Config:
  """The config of a model, of the content of a config.json; errors name `path`.

  Raises:
    ValueError: An unknown family, a field that is missing or not known, or one
      whose value is not supported.
  """
  family = families.family_of(fields, path)
  fields = {k: v for k, v in fields.items() if v is not None} | {
    k: None for k in family.defaults if k in fields and fields[k] is None
  }
  if 'num_local_experts' in fields:
    fields['num_experts'] = fields.pop('num_local_experts')
  only = {**family.only, 'quantization_config': None, 'pruned_heads': {}}
  only['rope_interleaved'] = False
  if 'hidden_size' in fields:  # OPT-350m maps between two widths.
    only['word_embed_proj_dim'] = fields['hidden_size']
  for name, value in only.items():
    if fields.get(name, value) != value:
      raise ValueError(
        f'{path}: {name}={fields[name]!r} is not supported; needed is'
        f' {value!r}, or a model without it.'
      )
  known = {*only, *family.fields.values(), *layer_fields.names(family)}
  for name, value in fields.items():
    if name not in known and not _HARMLESS.search(name):
      raise ValueError(
        f'{path}: {name}={value!r} is not known of a'
        f' {fields["model_type"]} model; needed is a model without it. Delete'
        ' the field if it changes no output.'
      )
  fields = {**family.defaults, **fields}
  # Models from before grouped queries leave their number out.
  if fields.get('num_key_value_heads') is None:
    fields['num_key_value_heads'] = fields.get('num_attention_heads')
  if 'n_inner' in fields and fields['n_inner'] is None:
    fields['n_inner'] = 4 * fields.get('n_embd', 0)
  missing = sorted(set(family.fields.values()) - set(fields))
  if missing:
    raise ValueError(f'{path} lacks {", ".join(missing)}.')
  values = dict(family.fixed)
  for ours, theirs in family.fields.items():
    values[ours] = _read_field(ours, theirs, fields[theirs], path)
  if fields['model_type'] == 'gemma' and fields['hidden_act'] == 'gelu':
    values['activation'] = 'gelu_tanh'  # What its first files mean.
  values |= layer_fields.read(family, fields, values, path)
  width = values['embed_dim'] / values['num_heads']
  if values.get('head_dim') == width:
    values['head_dim'] = None
  width = values.get('head_dim') or width
  if values.get('attention_scale') == width**-0.5:
    values['attention_scale'] = None
  if values.get('embed_scale') == 'root':
    values['embed_scale'] = values['embed_dim'] ** 0.5
  if family.padded_positions:
    values['max_positions'] -= values['position_offset']
  return Config(**values)


def _read_field(ours: str, theirs: str, value: Any, path: Any) -> Any:
  kind = _kind(ours, theirs)
  is_bool, is_number = isinstance(value, bool), isinstance(value, int | float)
  if kind == 'number':
    fits = is_number and not is_bool and 0 < value < math.inf
    needed = 'a number above 0'
  elif kind == 'size':
    least = 0 if ours in ('vocab_size', 'token_types') else 1
    fits = isinstance(value, int) and not is_bool and value >= least
    needed = f'a whole number of at least {least}'
  else:
    fits = isinstance(value, bool if kind == 'flag' else str)
    needed = 'true or false' if kind == 'flag' else 'a text'
  if value is None and ours in _NULLABLE:
    return None if ours == 'head_dim' else 0.0
  if not fits:
    raise ValueError(f'{path}: {theirs}={value!r}; needed is {needed}.')
  if ours == 'norm_place':
    return 'pre' if value else 'post'
  if theirs == 'use_bidirectional_attention':
    return not value
  if theirs == 'query_pre_attn_scalar':
    return value**-0.5
  if ours not in ('activation', 'gated_mlp'):
    return float(value) if kind == 'number' else value
  names: Mapping[str, Any] = _ACTIVATIONS
  if theirs == 'feed_forward_proj':
    place = ('activation', 'gated_mlp').index(ours)
    names = {k: v[place] for k, v in _FEED_FORWARD.items()}
  if value not in names:
    raise ValueError(
      f'{path}: {theirs}={value!r}; known are {", ".join(names)}.'
    )
  return names[value]


def write_config(config: Config) -> dict[str, Any]:
  """The config.json of a model: `read_config` gives the config back.

  Raises:
    ValueError: The model is of no family that Hugging Face knows.
  """
  for name, family in families.FAMILIES.items():
    architecture = family.architecture
    if not config.causal:
      architecture = architecture.replace('ForCausalLM', 'Model')
    fields: dict[str, Any] = {
      'architectures': [architecture],
      'model_type': name,
      **family.only,
    }
    for ours, theirs in family.fields.items():
      fields[theirs] = _write_field(family, config, ours, theirs)
    fields |= layer_fields.write(family, config)
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
  chosen = {
    x.name: getattr(config, x.name)
    for x in dataclasses.fields(config)
    if getattr(config, x.name) != x.default
  }
  raise ValueError(
    f'no family of {", ".join(families.FAMILIES)} has models like {chosen};'
    ' save the parameters with antjax.train.checkpoint instead.'
  )


def _write_field(family: Family, config: Config, ours: str, theirs: str) -> Any:
  value = getattr(config, ours)
  if ours == 'norm_place':
    return value == 'pre'
  if ours == 'head_dim':
    return config.head_width
  if ours == 'attention_scale':
    value = config.head_width**-0.5 if value is None else value
    if theirs == 'query_pre_attn_scalar':
      square = value**-2
      return round(square) if round(square) ** -0.5 == value else square
  if theirs == 'use_bidirectional_attention':
    return not value
  if theirs == 'feed_forward_proj':
    pair = config.activation, config.gated_mlp
    return next((k for k, v in _FEED_FORWARD.items() if v == pair), None)
  if ours == 'activation':
    return next(k for k, v in _ACTIVATIONS.items() if v == value)
  if ours == 'max_positions' and family.padded_positions:
    return value + config.position_offset
  return value or None if ours in ('score_cap', 'logit_cap') else value
