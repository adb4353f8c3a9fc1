# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LoRA of new decoders in BAHE and LLM-Rec, by flags only."""

import json

import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from antjax.lm import adapter_file, config_json, pretrained_tokenizer
from antjax.lm import pretrained as pretrained_lib
from tests.jobs import ratings
from tests.jobs.processes import run
from tests.lm import tiny_models

# Of the published config.json, with fewer and narrower layers: heads of a width
# of their own and norms of them (Qwen3-0.6B), frequencies that are scaled and a
# first token (Llama-3.2-1B), shared keys and no output matrix (both).
_QWEN3 = {
  'architectures': ['Qwen3ForCausalLM'],
  'model_type': 'qwen3',
  'attention_bias': False,
  'attention_dropout': 0.0,
  'bos_token_id': 0,
  'eos_token_id': 1,
  'head_dim': 16,
  'hidden_act': 'silu',
  'hidden_size': 32,
  'initializer_range': 0.02,
  'intermediate_size': 96,
  'max_position_embeddings': 40960,
  'max_window_layers': 3,
  'num_attention_heads': 4,
  'num_hidden_layers': 3,
  'num_key_value_heads': 2,
  'rms_norm_eps': 1e-6,
  'rope_scaling': None,
  'rope_theta': 1000000,
  'sliding_window': None,
  'tie_word_embeddings': True,
  'torch_dtype': 'bfloat16',
  'use_cache': True,
  'use_sliding_window': False,
}
_LLAMA = {
  **_QWEN3,
  'architectures': ['LlamaForCausalLM'],
  'model_type': 'llama',
  'head_dim': 8,
  'max_position_embeddings': 131072,
  'mlp_bias': False,
  'num_key_value_heads': 1,
  'pretraining_tp': 1,
  'rms_norm_eps': 1e-5,
  'rope_scaling': {
    'factor': 32.0,
    'high_freq_factor': 4.0,
    'low_freq_factor': 1.0,
    'original_max_position_embeddings': 8192,
    'rope_type': 'llama3',
  },
  'rope_theta': 500000.0,
}
for _name in ('max_window_layers', 'sliding_window', 'use_sliding_window'):
  del _LLAMA[_name]
# config.json, the token that the tokenizer puts first, the one that ends texts.
_MODELS = {
  'qwen3': (_QWEN3, '', '<|endoftext|>'),
  'llama3.2': (_LLAMA, '<|begin_of_text|>', '<|end_of_text|>'),
}
_COMMON = (
  *('--tuning=lora', '--lora_rank=2', '--lora_targets=query,value,gate'),
  *('--num_steps=2', '--shard_size=8', '--min_shard_size=64'),
  *('--optimizer.warmup_steps=1', '--optimizer.lm_learning_rate=0.01'),
)


@pytest.fixture(scope='module', params=list(_MODELS))
def folder(request, tmp_path_factory):
  """model, and data of both jobs."""
  folder = tmp_path_factory.mktemp('lora')
  ratings.prepare(folder, 'examples', 'clicks')
  ratings.prepare(folder, 'sequences', 'sequences')
  fields, first, end = _MODELS[request.param]
  words = [first or '<|im_start|>', end, '[UNK]', *ratings.WORDS]
  fields = fields | {'vocab_size': len(words)}
  config = config_json.read_config(fields)
  params = tiny_models.params_of(config)
  pretrained_lib.save_pretrained(folder / 'model', config, params)
  (folder / 'model' / 'config.json').write_text(json.dumps(fields))
  tokenizer = tokenizers.Tokenizer(
    models.WordLevel({t: i for i, t in enumerate(words)}, unk_token='[UNK]')
  )
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  if first:
    tokenizer.post_processor = processors.TemplateProcessing(
      single=f'{first} $A', special_tokens=[(first, 0)]
    )
  tokenizer.save(str(folder / 'model' / pretrained_tokenizer.FILE_NAME))
  return folder


def check_adapter(run_dir, model, first_layer):
  """The run's adapter is PEFT's, was trained, and starts at a layer."""
  config = json.loads((run_dir / 'adapter' / 'adapter_config.json').read_text())
  assert config['r'] == 2 and config['base_model_name_or_path'] == str(model)
  names = {name.rsplit('.', 1)[-1] for name in config['target_modules']}
  assert names == {'q_proj', 'v_proj', 'gate_proj'}
  found = safetensors.numpy.load_file(
    run_dir / 'adapter' / adapter_file.FILE_NAME
  )
  layers = {int(name.split('.layers.')[1].split('.')[0]) for name in found}
  assert layers == set(range(first_layer, 3))
  assert all(np.abs(x).max() > 0 for x in found.values())


@pytest.mark.slow
def test_bahe_by_flags(folder, tmp_path):
  store = folder / 'store'
  run(
    'launch/build_behavior_store.py',
    f'--vocabulary={folder / "clicks"}',
    *(f'--model={folder / "model"}', f'--out={store}'),
    *('--num_low=1', '--max_tokens=16'),
  )
  run(
    'launch/train_bahe.py',
    *(f'--data={folder / "clicks"}', f'--model={folder / "model"}'),
    *(f'--store={store}', f'--run_dir={tmp_path}', *_COMMON),
    *('--max_behaviors=5,3', '--batch_size=32', '--pooling=last'),
  )
  check_adapter(tmp_path, folder / 'model', first_layer=1)
  results = json.loads((tmp_path / 'results.json').read_text())
  assert 0 <= results['results']['test']['auc'] <= 1
  assert results['memory']['frozen_share'] > 0


@pytest.mark.slow
def test_llm_rec_by_flags(folder, tmp_path):
  run(
    'launch/train_llm_rec.py',
    *(f'--data={folder / "sequences"}', f'--model={folder / "model"}'),
    *(f'--run_dir={tmp_path}', *_COMMON, '--baselines=', '--nowith_hybrid'),
    *('--max_history=4', '--max_title_tokens=6', '--max_tokens=32'),
    *('--batch_size=16', '--validation_examples=20', '--loss.num_negatives=3'),
    '--held_out.num_negatives=5',
  )
  check_adapter(tmp_path, folder / 'model', first_layer=0)
  results = json.loads((tmp_path / 'results.json').read_text())
  scores = results['results']['llm_rec']['test']['sampled']['all']
  assert 0 <= scores['ndcg@10'] <= scores['recall@10'] <= 1
