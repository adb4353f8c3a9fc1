# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny models of many families, made and run by `transformers`.

  $PEERS_PYTHON tests/lm/peer_families.py golden
  $PEERS_PYTHON tests/lm/peer_families.py outputs FOLDER FILE

The first writes golden/families.npz: for each case the config.json and the
tensors' shapes as `transformers` saves them, and a slice of the outputs. The
second runs the model in a folder. Weights come of a tensor's name, by a
generator whose numbers are the same in all versions of numpy.
"""

import json
import pathlib
import sys
import tempfile
import zlib

import numpy as np
import safetensors
import safetensors.numpy

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'families.npz'
# Padded on the left, on the right, not at all.
TOKENS = np.random.RandomState(7).randint(3, 61, (3, 17)).astype(np.int32)
MASK = np.ones((3, 17), np.int32)
MASK[0, :5] = 0
MASK[1, 11:] = 0
STEP = 4  # Every fourth number of a hidden state is kept, of a logit every 8th.

_SIZES = {
  'vocab_size': 61,
  'num_hidden_layers': 3,
  'hidden_size': 24,
  'num_attention_heads': 3,
  'intermediate_size': 20,
  'pad_token_id': 1,
  'bos_token_id': 0,
  'eos_token_id': 2,
}
_BIASES = {'attention_bias': True, 'mlp_bias': True}
_GQA = {**_SIZES, 'num_attention_heads': 6, 'num_key_value_heads': 2}
_MHA = {**_SIZES, 'num_key_value_heads': 3}
_MQA = {**_SIZES, 'num_key_value_heads': 1, 'tie_word_embeddings': True}
_WIDE = {**_GQA, 'head_dim': 6, 'hidden_size': 20, 'num_attention_heads': 4}
_LIMIT = {'max_position_embeddings': 32}
_LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
}
_YARN = {'rope_type': 'yarn', 'factor': 4.0}
_YARN['original_max_position_embeddings'] = 16
_LONG = {
  'rope_type': 'longrope',
  'short_factor': [1.0, 1.1, 1.3],
  'long_factor': [1.5, 2.0, 4.0],
}
_GEMMA = {'head_dim': 10, 'query_pre_attn_scalar': 7}
_GPT2 = {'vocab_size': 61, 'n_positions': 40, 'n_embd': 24, 'n_layer': 3}
_GPT2 |= {'bos_token_id': 0, 'eos_token_id': 2}
_BERT = {**_SIZES, 'max_position_embeddings': 40}
_DISTIL = {'vocab_size': 61, 'n_layers': 3, 'dim': 24, 'n_heads': 3}
_DISTIL |= {'hidden_dim': 20, 'max_position_embeddings': 40, 'pad_token_id': 0}
_T5 = {'vocab_size': 61, 'd_model': 24, 'd_kv': 10, 'd_ff': 20}
_T5 |= {'num_layers': 3, 'num_heads': 3}
_MOE = {'num_experts': 5, 'num_experts_per_tok': 2, 'moe_intermediate_size': 12}
_MODERN = {**_SIZES, 'num_hidden_layers': 4, 'local_attention': 8}
_MODERN |= {'sep_token_id': 2, 'cls_token_id': 0}
_WINDOW = {'sliding_window': 5}
_QWEN_WINDOW = {**_WINDOW, 'use_sliding_window': True, 'max_window_layers': 1}
# Case, its first word the model_type -> fields that are not the defaults.
CASES = {
  'llama': {**_GQA, 'rope_parameters': {**_LLAMA3, 'rope_theta': 100.0}},
  'llama dynamic': {
    **_MQA,
    **_BIASES,
    'max_position_embeddings': 8,
    'rope_parameters': {
      'rope_type': 'dynamic',
      'factor': 2.0,
      'rope_theta': 1e4,
    },
  },
  'llama yarn': {
    **_WIDE,
    **_LIMIT,
    'rope_parameters': {**_YARN, 'rope_theta': 1e4},
  },
  'llama linear': {
    **_MHA,
    'rope_parameters': {
      'rope_type': 'linear',
      'factor': 3.0,
      'rope_theta': 1e4,
    },
  },
  'mistral': {**_GQA, **_WINDOW},
  'mistral wide': {**_WIDE, 'sliding_window': 3, 'tie_word_embeddings': True},
  'mistral whole': {**_MQA, 'sliding_window': None},
  'qwen2': {**_GQA, **_QWEN_WINDOW},
  'qwen2 encoder': {**_MHA, 'is_causal': False},
  'qwen2 local_encoder': {**_MQA, **_QWEN_WINDOW, 'is_causal': False},
  'qwen3': {**_WIDE, 'tie_word_embeddings': True},
  'qwen3 biases': {**_GQA, 'head_dim': 4, 'attention_bias': True},
  'qwen3 window': {**_MQA, 'head_dim': 8, **_QWEN_WINDOW},
  'qwen3_moe': {**_GQA, **_MOE, 'head_dim': 4, 'norm_topk_prob': True},
  'qwen3_moe plain': {**_MQA, **_MOE, 'head_dim': 8, 'norm_topk_prob': False},
  'qwen3_moe biases': {
    **_MHA,
    **_MOE,
    'head_dim': 6,
    'attention_bias': True,
    **_QWEN_WINDOW,
  },
  'gemma': {**_GQA, 'head_dim': 10},
  'gemma one': {**_MQA, 'head_dim': 8, 'hidden_act': 'gelu'},
  'gemma untied': {**_MHA, 'head_dim': 6, 'tie_word_embeddings': False},
  'gemma2': {**_GQA, **_GEMMA, 'sliding_window': 4},
  'gemma2 caps': {
    **_MHA,
    **_GEMMA,
    'sliding_window': 6,
    'attn_logit_softcapping': 1.5,
    'final_logit_softcapping': 2.0,
  },
  'gemma2 uncapped': {
    **_MQA,
    **_GEMMA,
    'attn_logit_softcapping': None,
    'final_logit_softcapping': None,
    'attention_bias': True,
  },
  'gemma3_text': {
    **_GQA,
    **_GEMMA,
    'sliding_window': 4,
    'sliding_window_pattern': 2,
  },
  'gemma3_text encoder': {
    **_MQA,
    **_GEMMA,
    'sliding_window': 6,
    'sliding_window_pattern': 3,
    'use_bidirectional_attention': True,
  },
  'gemma3_text scaled': {
    **_MHA,
    **_GEMMA,
    'sliding_window': 5,
    'final_logit_softcapping': 3.0,
    'layer_types': ['sliding_attention', 'full_attention', 'full_attention'],
    'rope_parameters': {
      'full_attention': {
        'rope_type': 'linear',
        'factor': 8.0,
        'rope_theta': 1e6,
      },
      'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4},
    },
  },
  'phi3': {**_GQA, **_WINDOW},
  'phi3 long': {
    **_MHA,
    **_LIMIT,
    'original_max_position_embeddings': 8,
    'partial_rotary_factor': 0.75,
    'rope_parameters': {**_LONG, 'rope_theta': 1e4},
  },
  'phi3 short': {
    **_MQA,
    'max_position_embeddings': 64,
    'original_max_position_embeddings': 32,
    'partial_rotary_factor': 0.75,
    'rope_parameters': {**_LONG, 'rope_theta': 1e4},
  },
  'smollm3': {**_GQA, 'no_rope_layer_interval': 2},
  'smollm3 biases': {**_MHA, **_BIASES, 'no_rope_layers': [0, 1, 1]},
  'smollm3 untied': {**_MQA, 'tie_word_embeddings': False},
  'olmo2': _GQA,
  'olmo2 one': _MQA,
  'olmo2 biases': {**_MHA, 'attention_bias': True},
  'granite': {
    **_GQA,
    'embedding_multiplier': 3.0,
    'residual_multiplier': 0.3,
    'attention_multiplier': 0.2,
    'logits_scaling': 4.0,
  },
  'granite biases': {**_MHA, **_BIASES, 'residual_multiplier': 0.5},
  'granite tied': {**_MQA, 'logits_scaling': 2.0},
  'gpt2': {**_GPT2, 'n_head': 3},
  'gpt2 inner': {**_GPT2, 'n_head': 4, 'n_inner': 20},
  'gpt2 untied': {**_GPT2, 'n_head': 2, 'tie_word_embeddings': False},
  'bert': _BERT,
  'bert relu': {**_BERT, 'hidden_act': 'relu', 'num_attention_heads': 4},
  'bert types': {**_BERT, 'type_vocab_size': 3, 'layer_norm_eps': 1e-6},
  'roberta': {**_BERT, 'type_vocab_size': 1, 'layer_norm_eps': 1e-5},
  'roberta tanh': {**_BERT, 'hidden_act': 'gelu_new'},
  'xlm-roberta': {**_BERT, 'type_vocab_size': 1, 'num_attention_heads': 4},
  'distilbert': _DISTIL,
  'distilbert heads': {**_DISTIL, 'n_heads': 4},
  'distilbert relu': {**_DISTIL, 'activation': 'relu'},
  'mpnet': _BERT,
  'mpnet heads': {**_BERT, 'num_attention_heads': 4},
  'mpnet relu': {**_BERT, 'hidden_act': 'relu'},
  'modernbert': _MODERN,
  'modernbert biases': {**_MODERN, **_BIASES, 'norm_bias': True},
  'modernbert every': {**_MODERN, 'global_attn_every_n_layers': 2},
  't5': _T5,
  't5 gated': {**_T5, 'feed_forward_proj': 'gated-gelu', 'num_heads': 2},
  't5 buckets': {
    **_T5,
    'relative_attention_num_buckets': 8,
    'relative_attention_max_distance': 12,
  },
  'mt5': _T5,
  'mt5 heads': {**_T5, 'num_heads': 4, 'd_kv': 6},
  'mt5 relu': {**_T5, 'feed_forward_proj': 'relu'},
}


def weight(name: str, shape) -> np.ndarray:
  """Far from those at birth, so that every part of a model shows."""
  random = np.random.RandomState(zlib.crc32(name.encode()))
  x = random.standard_normal(shape).astype(np.float32)
  if len(shape) == 1 and not name.endswith('bias'):
    return 1 + np.float32(0.3) * x
  # T5 divides no scores: its queries are small instead.
  return (
    np.float32(0.08 if name.endswith('SelfAttention.q.weight') else 0.2) * x
  )


def model_of(folder, config):
  """The model in a folder; with a language model's head if it is causal."""
  import transformers

  is_encoder = not getattr(config, 'is_causal', True) or getattr(
    config, 'use_bidirectional_attention', False
  )
  kinds = {'t5': 'T5EncoderModel', 'mt5': 'MT5EncoderModel'}
  name = kinds.get(config.model_type, 'AutoModel')
  encoders = 'bert roberta xlm-roberta distilbert mpnet modernbert t5 mt5'
  if not is_encoder and config.model_type not in encoders.split():
    name = 'AutoModelForCausalLM'
  made = getattr(transformers, name)
  if folder is None:
    return made.from_config(config) if 'Auto' in name else made(config)
  model, info = made.from_pretrained(
    folder,
    attn_implementation='eager',
    output_loading_info=True,
    **({'add_pooling_layer': False} if _has_pooler(config) else {}),
  )
  wrong = {k: set(v) for k, v in info.items() if v and k.endswith('keys')}
  if wrong.keys() == {'unexpected_keys'}:
    wrong = [x for x in wrong['unexpected_keys'] if not x.startswith('pooler.')]
  assert not wrong, wrong
  return model.eval()


def _has_pooler(config) -> bool:
  return config.model_type in ('bert', 'roberta', 'xlm-roberta', 'mpnet')


def outputs(folder):
  """(last hidden state, logits or None) of the model in a folder."""
  import torch
  import transformers

  config = transformers.AutoConfig.from_pretrained(folder)
  model = model_of(folder, config)
  options = {}
  places = np.maximum(np.cumsum(MASK, axis=1) - 1, 0)
  if config.model_type in ('roberta', 'xlm-roberta', 'mpnet'):
    places += 2
  if config.model_type not in ('t5', 'mt5'):
    options['position_ids'] = torch.from_numpy(places)
  with torch.no_grad():
    result = model(
      torch.from_numpy(TOKENS).long(),
      attention_mask=torch.from_numpy(MASK).long(),
      output_hidden_states=True,
      **options,
    )
  logits = getattr(result, 'logits', None)
  hidden = result.hidden_states[-1] if logits is not None else result[0]
  return hidden.numpy(), None if logits is None else logits.numpy()


def golden():
  import transformers

  arrays, texts = {}, {}
  for case, fields in CASES.items():
    config = transformers.AutoConfig.for_model(case.split()[0], **fields)
    with tempfile.TemporaryDirectory() as folder:
      model_of(None, config).save_pretrained(folder)
      file = pathlib.Path(folder, 'model.safetensors')
      with safetensors.safe_open(file, 'np') as tensors:
        shapes = {k: tensors.get_slice(k).get_shape() for k in tensors.keys()}
      write(file, shapes)
      hidden, logits = outputs(folder)
      text = json.loads(pathlib.Path(folder, 'config.json').read_text())
    texts[case] = {'config': text, 'shapes': shapes}
    arrays[f'{case}/hidden'] = hidden[..., ::STEP].astype(np.float32)
    if logits is not None:
      arrays[f'{case}/logits'] = logits[..., :: 2 * STEP].astype(np.float32)
    print(case, np.abs(hidden).max(), flush=True)
  arrays['texts'] = np.frombuffer(json.dumps(texts).encode(), np.uint8)
  np.savez_compressed(GOLDEN, **arrays)
  print(f'{GOLDEN}: {GOLDEN.stat().st_size:,} bytes', file=sys.stderr)


def write(file, shapes):
  """Writes a file of weights."""
  tensors = {name: weight(name, shape) for name, shape in shapes.items()}
  safetensors.numpy.save_file(tensors, file, metadata={'format': 'pt'})


if __name__ == '__main__':
  if sys.argv[1] == 'golden':
    golden()
  else:
    found = dict(zip(('hidden', 'logits'), outputs(sys.argv[2])))
    np.savez(sys.argv[3], **{k: x for k, x in found.items() if x is not None})
