# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One field at a time of config.json and adapter_config.json is changed.

Our outputs are then those of `transformers` and `peft`, or the file is refused;
they never differ without a word.
"""

import json
import random
import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from antjax.lm import adapter_file, pretrained
from benchmarks import machine
from tests.lm import adapter_file_test, peer_families
from tests.lm.families_golden_test import assert_close, outputs, REAL, TEXTS
from tests.lm.peer_families import CASES, MASK, TOKENS

NUM_CASES, NUM_CHANGES = 30, 4
YARN = {'rope_type': 'yarn', 'original_max_position_embeddings': 8}
LLAMA3 = {'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
# Field -> its other values, or what changes of an object; None removes it.
ROPE = [
  {'rope_theta': 37.0},
  {'rope_type': 'linear', 'factor': 3.0},
  {'rope_type': 'dynamic', 'factor': 3.0},
  {**YARN, 'factor': 4.0},
  {**YARN, 'factor': 4.0, 'beta_fast': 3.0, 'truncate': False},
  {**YARN, 'factor': 4.0, 'mscale': 0.7, 'mscale_all_dim': 0.4},
  {**YARN, **LLAMA3, 'rope_type': 'llama3', 'factor': 4.0},
  {'partial_rotary_factor': 0.5},
]
ACTIVATIONS = ['relu', 'silu', 'gelu', 'gelu_new', 'quick_gelu', 'tanh', None]
FLAG, EPSILON = [True, False, None], [0.3, None]
VALUES = {
  **dict.fromkeys(('rope_parameters', 'rope_scaling'), ROPE),
  **dict.fromkeys(
    'rms_norm_eps layer_norm_eps layer_norm_epsilon norm_eps'.split(), EPSILON
  ),
  **dict.fromkeys(
    'hidden_act activation_function activation hidden_activation'.split(),
    ACTIVATIONS,
  ),
  **dict.fromkeys(
    'attention_bias mlp_bias norm_bias enable_bias tie_word_embeddings'
    ' is_decoder is_causal use_sliding_window norm_topk_prob scale_attn_weights'
    ' scale_attn_by_inverse_layer_idx reorder_and_upcast_attn is_gated_act'
    ' do_layer_norm_before use_bidirectional_attention sinusoidal_pos_embds'
    ' layer_norm_elementwise_affine add_cross_attention'.split(),
    FLAG,
  ),
  **dict.fromkeys(
    'attn_logit_softcapping final_logit_softcapping query_pre_attn_scalar'
    ' attention_multiplier embedding_multiplier residual_multiplier'
    ' logits_scaling rope_theta rope_local_base_freq'.split(),
    [1.7, 0.6, None],
  ),
  **dict.fromkeys(
    'sliding_window local_attention max_window_layers num_experts_per_tok'
    ' no_rope_layer_interval sliding_window_pattern num_key_value_heads'
    ' global_attn_every_n_layers _sliding_window_pattern n_inner'
    ' decoder_sparse_step'.split(),
    [1, 2, 4, None],
  ),
  **dict.fromkeys(
    'num_attention_heads n_head num_heads num_hidden_layers head_dim d_kv'
    ' hidden_size'.split(),
    [2, 4, 12],
  ),
  'layer_types': [['full_attention'] * 3, None],
  'intermediate_size': [12],
  'mlp_only_layers': [[1], []],
  'relative_attention_num_buckets': [8, 64],
  'relative_attention_max_distance': [40, 200],
  'feed_forward_proj': ['relu', 'gated-gelu', 'gated-silu', 'gelu'],
  'max_position_embeddings': [24, 48],
  'type_vocab_size': [1, 3],
  'pad_token_id': [0, 3],
}
LLAMA = ['lora', 'dora']
ADAPTER = {
  'r': [1, 4],
  'lora_alpha': [1, 7.5],
  'use_rslora': FLAG,
  'use_dora': FLAG,
  'fan_in_fan_out': [True],
  'bias': ['all'],
  'target_modules': ['all-linear', r'.*_proj', ['q_proj'], ['proj'], [], None],
  'exclude_modules': [['q_proj'], r'.*\.1\..*', 'q_proj'],
  'layers_to_transform': [0, [0, 1, 2], [1]],
  'layers_pattern': ['layers', 'blocks'],
  'rank_pattern': [{'q_proj': 2}, {'q_proj': 1}, {'x': 1}],
  'alpha_pattern': [{'q_proj': 9}, {'down_proj': 1}, {'_proj': 5}],
  'init_lora_weights': ['pissa', 'gaussian', False],
  'modules_to_save': [['lm_head'], []],
  'task_type': ['CAUSAL_LM'],
}

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not machine.peers_made(), reason='needs make peers'),
]


def changes(fields, values):
  """All versions of fields with another value of one of them, with its name."""
  for name in sorted({*values} & {*fields}):
    for value in values[name]:
      if isinstance(value, dict) and isinstance(fields[name], dict | None):
        value = {**(fields[name] or {}), **value}
      if value != fields[name]:
        new = {**fields, name: value}
        yield name, {k: v for k, v in new.items() if k != name or v is not None}


def chosen():
  """(case, number, changed field, fields) of models."""
  rng = random.Random(0)
  others = [name for name in CASES if ' ' in name]
  names = [name for name in CASES if ' ' not in name]
  names += rng.sample(others, max(0, NUM_CASES - len(names)))
  for case in names:
    every = [*changes(TEXTS[case]['config'], VALUES)]
    for i, one in enumerate(rng.sample(every, min(NUM_CHANGES, len(every)))):
      yield case, i, *one


def compare(results):
  """Fails if any result is silently another; returns how many are equal."""
  equal, refused, wrong = 0, [], []
  for what, folder, run in results:
    if (folder / 'error.txt').exists():
      continue
    theirs = np.load(folder / 'outputs.npz')
    try:
      hidden, logits = run(folder)
    except ValueError as error:
      refused.append(f'{what}: {error}')
      continue
    try:
      if 'hidden' in theirs and hidden is not None:
        assert_close(hidden[REAL], theirs['hidden'][-1][REAL])
      if 'logits' in theirs:
        assert_close(logits[REAL], theirs['logits'][REAL])
      equal += 1
    except (AssertionError, TypeError) as error:
      wrong.append(f'{what}: {error}')
  print(f'{equal} equal, {len(refused)} refused:', *refused, sep='\n')
  assert not wrong, '\n'.join(wrong)
  return equal


def ask_peers(folders):
  command = [machine.peers_python(), peer_families.__file__, 'changed']
  subprocess.run([*command, *folders], check=True)


def test_models_are_those_of_transformers_or_refused(tmp_path):
  def run(folder):
    return outputs(*pretrained.load_pretrained(folder))

  results = []
  for case, i, name, fields in chosen():
    folder = tmp_path / f'{case.replace(" ", "-")}-{i}'
    folder.mkdir()
    (folder / 'config.json').write_text(json.dumps(fields))
    what = f'{case}: {name}={fields.get(name)!r}'
    results.append((what, folder, run))
  ask_peers([folder for _, folder, _ in results])
  assert compare(results) > len(results) / 3


def test_adapters_are_those_of_peft_or_refused(tmp_path):
  base, results = tmp_path / 'base', []
  config, params = adapter_file_test.CONFIG, adapter_file_test.base()
  pretrained.save_pretrained(base, config, adapter_file_test.params_of(params))

  def run(folder):
    model = adapter_file_test.base()
    adapter_file.load(folder / 'adapter', model)
    return None, np.asarray(model.logits(jnp.array(TOKENS), jnp.array(MASK)))

  for kind in LLAMA:
    (tmp_path / kind).mkdir()
    adapter_file_test.folder_of(tmp_path / kind, kind)
    file = tmp_path / kind / adapter_file.CONFIG_NAME
    fields = json.loads(file.read_text())
    for i, (name, new) in enumerate(changes(fields, ADAPTER)):
      folder = tmp_path / f'{kind}-{i}'
      shutil.copytree(base, folder)
      shutil.copytree(tmp_path / kind, folder / 'adapter')
      file = folder / 'adapter' / adapter_file.CONFIG_NAME
      file.write_text(json.dumps(new))
      results.append((f'{kind}: {name}={new.get(name)!r}', folder, run))
  ask_peers([folder for _, folder, _ in results])
  assert compare(results) > len(results) / 5
