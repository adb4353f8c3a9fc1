# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Adapters go to PEFT and come from there.

  python -m tests.lm.adapter_file_test

writes golden/adapters.npz: two adapters that PEFT made, and its logits.
"""

import json
import pathlib
import tempfile

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from antjax.layers.functional import params_of
from antjax.lm import adapter_file, lora, pretrained, quantized, split
from antjax.lm.transformer import Transformer
from tests.cases import first_fast, slow_but
from tests.lm import tiny_models

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'adapters.npz'
CONFIG = tiny_models.CONFIGS['llama']
TOKENS = np.random.RandomState(7).randint(0, 61, (3, 17)).astype(np.int32)
CASES = {
  'lora': {'target_modules': ['q_proj', 'down_proj'], 'lora_alpha': 3},
  'dora': {
    'target_modules': ['v_proj', 'gate_proj'],
    'use_dora': True,
    'use_rslora': True,
  },
}


def base():
  return Transformer.of(CONFIG, tiny_models.params_of(CONFIG))


def folder_of(folder, name, **fields):
  """Writes a golden adapter's folder; returns its tensors and logits."""
  golden = np.load(GOLDEN)
  tensors = {
    key.removeprefix(f'{name}/'): golden[key]
    for key in golden
    if key.startswith(f'{name}/base_model')
  }
  config = json.loads(str(golden[f'{name}/config'])) | fields
  (folder / adapter_file.CONFIG_NAME).write_text(json.dumps(config))
  safetensors.numpy.save_file(tensors, folder / adapter_file.FILE_NAME)
  return tensors, golden[f'{name}/logits']


@pytest.mark.parametrize('name', CASES)
def test_an_adapter_of_peft_and_back(tmp_path, name):
  tensors, logits = folder_of(tmp_path, name)
  model = base()
  adapter_file.load(tmp_path, model)
  run = jax.jit(Transformer.logits)
  found = run(model, TOKENS[2:])[..., ::4]
  np.testing.assert_allclose(found, logits, atol=2e-5)
  adapter_file.save(tmp_path / 'out', model)
  written = tmp_path / 'out' / adapter_file.FILE_NAME
  back = safetensors.numpy.load_file(written)
  assert back.keys() == tensors.keys()
  for key, x in tensors.items():
    np.testing.assert_array_equal(back[key], x)
  again = base()
  adapter_file.load(tmp_path / 'out', again)
  assert again.config.lora_scale == pytest.approx(model.config.lora_scale)
  lora.merge(model)
  assert set(params_of(model)['layers']) == set(params_of(base())['layers'])
  found = run(model, TOKENS[2:])[..., ::4]
  np.testing.assert_allclose(found, logits, atol=2e-4)
  with pytest.raises(FileExistsError):
    adapter_file.save(tmp_path / 'out', again)
  with pytest.raises(ValueError, match='no adapters; lora.add'):
    adapter_file.save(tmp_path / 'other', model)


def test_an_adapter_of_a_part(tmp_path):
  high = split.HighEncoder(base(), 1)
  lora.add(high, rank=2, scale=0.5, rngs=nnx.Rngs(0))
  adapter_file.save(tmp_path, high, first_layer=1)
  names = safetensors.numpy.load_file(tmp_path / adapter_file.FILE_NAME)
  assert {name.split('.layers.')[1][0] for name in names} == {'1', '2'}
  other = split.HighEncoder(base(), 1)
  adapter_file.load(tmp_path, other, first_layer=1)
  np.testing.assert_array_equal(
    other.layers.query_lora_a[...], high.layers.query_lora_a[...]
  )
  with pytest.raises(ValueError, match='in all 3 layers'):
    adapter_file.load(tmp_path, base())


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'bias': 'all'}, "bias='all' is not supported"),
    ({'rank_pattern': {'q_proj': 3}}, r'q_proj.lora_A.weight of shape \(3, 32'),
    ({'r': '2'}, "r='2', lora_alpha=3; needed"),
    ({'modules_to_save': ['lm_head']}, 'modules_to_save='),
    ({'peft_type': 'IA3'}, "peft_type='IA3'"),
    ({'init_lora_weights': 'pissa'}, "init_lora_weights='pissa'"),
    ({'use_bdlora': True}, 'use_bdlora=True'),
    ({'r': 3}, r'q_proj.lora_A.weight of shape \(3, 32\)'),
    (
      {'target_modules': ['v_proj']},
      'leave out model.layers.0.self_attn.q_proj',
    ),
    (
      {'target_modules': '.*v_proj'},
      'leave out model.layers.0.self_attn.q_proj',
    ),
    ({'exclude_modules': ['q_proj']}, 'leave out .*0.self_attn.q_proj'),
    ({'layers_to_transform': 0}, 'leave out model.layers.1.self_attn.q_proj'),
    (
      {'layers_to_transform': [0, 1, 2], 'layers_pattern': 'blocks'},
      'leave out model.layers.0.self_attn.q_proj',
    ),
    # PEFT chooses by the base model, or fails.
    ({'target_modules': None}, 'target_modules=None; needed is a list'),
    ({'target_modules': []}, r'target_modules=\[\]; needed is a list'),
    ({'target_modules': 3}, 'adapter_config.json: target_modules=3; needed'),
    ({'target_modules': '*'}, r"target_modules='\*'; needed"),
    (
      {'target_modules': 'all-linear', 'layers_to_transform': [0]},
      r"layers_to_transform=\[0\] beside target_modules='all-linear'",
    ),
    ({'exclude_modules': [3]}, r'exclude_modules=\[3\]; needed'),
    ({'layers_to_transform': '0'}, "layers_to_transform='0'; needed"),
    ({'rank_pattern': [1]}, r'rank_pattern=\[1\]; needed is an object'),
    ({'alpha_pattern': {'(': 1}}, 'alpha_pattern=.*needed is an object'),
    ({'use_dora': 'yes'}, "use_dora='yes'; needed is true or false"),
  ],
)
def test_other_kinds_are_refused_by_name(tmp_path, fields, message):
  folder_of(tmp_path, 'lora', **fields)
  with pytest.raises(ValueError, match=message):
    adapter_file.load(tmp_path, base())


def test_an_adapter_of_phi3_fits_a_model_that_is_a_llama(tmp_path):
  model = base()  # As Phi-3's, whose tensors are fused.
  lora.add(model, rank=2, targets=('query', 'key', 'value'), rngs=nnx.Rngs(0))
  layers = model.layers
  for name in ('query', 'key', 'value'):
    b = getattr(layers, f'{name}_lora_b')
    b[...] = jnp.cos(jnp.arange(b.size)).reshape(b.shape)
    getattr(layers, f'{name}_lora_a')[...] = layers.query_lora_a[...]
  tensors = {}
  for i in range(model.config.num_layers):
    key = f'base_model.model.model.layers.{i}.self_attn.qkv_proj.lora_'
    b = [getattr(layers, f'{x}_lora_b')[i] for x in ('query', 'key', 'value')]
    tensors[f'{key}A.weight'] = np.array(layers.query_lora_a[i].T)
    tensors[f'{key}B.weight'] = np.array(jnp.concatenate(b, axis=1).T)
  safetensors.numpy.save_file(tensors, tmp_path / adapter_file.FILE_NAME)
  fields = {'peft_type': 'LORA', 'r': 2, 'target_modules': ['qkv_proj']}
  fields['lora_alpha'] = 2 * model.config.lora_scale
  (tmp_path / adapter_file.CONFIG_NAME).write_text(json.dumps(fields))
  read = base()
  adapter_file.load(tmp_path, read)
  np.testing.assert_allclose(
    read.logits(TOKENS), model.logits(TOKENS), atol=1e-6
  )


def test_a_tensor_of_no_layer_is_refused(tmp_path):
  tensors, _ = folder_of(tmp_path, 'lora')
  tensors['base_model.model.lm_head.lora_A.weight'] = np.zeros((2, 32))
  path = tmp_path / adapter_file.FILE_NAME
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(ValueError, match='1 tensors are of no layer .* lm_head'):
    adapter_file.load(tmp_path, base())


@pytest.mark.parametrize(
  'kind, part',
  first_fast(('int4', 14), ('int8', 254)),
)
def test_quantized_matrices_are_as_near_as_said(kind, part):
  matrix = jnp.asarray(np.random.RandomState(0).standard_normal((2, 36, 5)))
  q, scale = quantized.split(matrix, kind)
  found = quantized.restored(q, scale)
  assert q.nbytes == matrix.size // (1 if kind == 'int8' else 2)
  limit = np.abs(matrix).max(axis=1, keepdims=True) / part
  assert (np.abs(found - matrix) <= limit * 1.001).all()
  zeros = quantized.split(jnp.zeros((4, 3)), kind)
  assert not np.asarray(quantized.restored(*zeros)).any()
  # Numbers on the grid come back as they are.
  again = quantized.restored(*quantized.split(found, kind))
  np.testing.assert_allclose(again, found, atol=1e-6)


# Families with fused tensors, ranks that differ, and targets with DoRA.
SAVED = {
  'llama': ('llama', {'out': 3, 'up': 3}, ('out', 'up')),
  'some dora': ('llama', {'out': 3, 'up': 2}, ('up',)),
  'gpt2': ('gpt2', {'query': 2, 'value': 3, 'up': 4}, ()),
  'gpt2 dora': ('gpt2', {'key': 2, 'out': 2}, ('key',)),
  'phi3': ('phi3', {'query': 2, 'gate': 2, 'up': 2}, ()),
}


def adapted(family, ranks, dora):
  """A model with adapters that change its outputs."""
  config = {**tiny_models.FAMILIES, 'llama': CONFIG}[family]
  model = Transformer.of(config, tiny_models.params_of(config))
  rng = np.random.default_rng(0)
  for target, rank in ranks.items():
    options = {'rank': rank, 'scale': 0.5, 'dora': target in dora}
    lora.add(model, targets=(target,), rngs=nnx.Rngs(rank), **options)
    for part in 'bm' if target in dora else 'b':
      leaf = getattr(model.layers, f'{target}_lora_{part}')
      leaf[...] += 0.1 + 0.3 * rng.standard_normal(leaf.shape, np.float32)
  return model


@pytest.mark.parametrize('case', slow_but(SAVED, 'gpt2'))
def test_what_we_write_comes_back(tmp_path, case):
  model = adapted(*SAVED[case])
  adapter_file.save(tmp_path, model)
  plain = tiny_models.params_of(model.config)
  again = Transformer.of(model.config, plain)
  adapter_file.load(tmp_path, again)
  for target in SAVED[case][1]:
    np.testing.assert_allclose(
      again.layers.adapted(target), model.layers.adapted(target), atol=1e-5
    )
  run = jax.jit(Transformer.logits)
  expected = run(model, TOKENS[2:])
  np.testing.assert_allclose(run(again, TOKENS[2:]), expected, atol=1e-4)


def test_an_adapter_of_a_fused_tensor_and_of_one_rank_more(tmp_path):
  config = tiny_models.FAMILIES['gpt2']
  model = Transformer.of(config, tiny_models.params_of(config))
  rng, width = np.random.default_rng(0), config.embed_dim
  tensors = {}
  for i in range(config.num_layers):
    for name, rank, size in ('c_attn', 2, 3 * width), ('c_proj', 3, width):
      module = f'base_model.model.transformer.h.{i}.attn.{name}'
      for part, shape in ('A', (rank, width)), ('B', (size, rank)):
        x = rng.standard_normal(shape).astype(np.float32)
        tensors[f'{module}.lora_{part}.weight'] = x
  fields = {'peft_type': 'LORA', 'r': 2, 'lora_alpha': 3}
  fields |= {'target_modules': ['c_attn', 'attn.c_proj']}
  fields |= {'rank_pattern': {'attn.c_proj': 3}, 'alpha_pattern': {'c_proj': 5}}
  (tmp_path / adapter_file.CONFIG_NAME).write_text(json.dumps(fields))
  safetensors.numpy.save_file(tensors, tmp_path / adapter_file.FILE_NAME)
  before = {x: np.asarray(model.layers.matrix(x)) for x in ('key', 'out')}
  adapter_file.load(tmp_path, model)
  module = 'base_model.model.transformer.h.1.attn'
  a, b = (tensors[f'{module}.c_attn.lora_{x}.weight'] for x in 'AB')
  change = np.asarray(model.layers.adapted('key') - before['key'])[1]
  expected = 3 / 2 * (b @ a).T[:, width : 2 * width]
  np.testing.assert_allclose(change, expected, atol=1e-5)
  a, b = (tensors[f'{module}.c_proj.lora_{x}.weight'] for x in 'AB')
  change = np.asarray(model.layers.adapted('out') - before['out'])[1]
  np.testing.assert_allclose(change, 5 / 3 * (b @ a).T, atol=1e-5)
  adapter_file.save(tmp_path / 'out', model)  # They still share A.
  written = tmp_path / 'out' / adapter_file.FILE_NAME
  back = safetensors.numpy.load_file(written)
  for name, x in tensors.items():
    if 'c_attn' in name:
      np.testing.assert_array_equal(back[name], x)


@pytest.mark.slow
@pytest.mark.parametrize('case', SAVED)
def test_peft_reads_what_we_write(tmp_path, case):
  peft = pytest.importorskip('peft', reason='peers: requirements-bench.txt')
  model = adapted(*SAVED[case])
  adapter_file.save(tmp_path / 'adapter', model)
  plain = tiny_models.params_of(model.config)
  pretrained.save_pretrained(tmp_path / 'base', model.config, plain)
  found = _peft_logits(
    lambda theirs: peft.PeftModel.from_pretrained(theirs, tmp_path / 'adapter'),
    tmp_path / 'base',
  )
  expected = np.asarray(model.logits(TOKENS[2:])[..., ::4])
  limit = 1e-5 * np.abs(expected).max()
  np.testing.assert_allclose(found, expected, atol=max(limit, 2e-5))


def _peft_logits(wrap, folder):
  import torch
  import transformers

  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation='eager'
  )
  theirs = wrap(theirs).eval()
  with torch.no_grad():
    result = theirs(torch.from_numpy(TOKENS[2:]).long())
  return result.logits.numpy()[..., ::4]


def main():
  import peft
  import torch

  arrays = {}
  with tempfile.TemporaryDirectory() as folder:
    pretrained.save_pretrained(f'{folder}/base', CONFIG, params_of(base()))
    for name, case in CASES.items():

      def wrap(theirs, name=name, case=case):
        torch.manual_seed(0)
        made = peft.get_peft_model(theirs, peft.LoraConfig(r=2, **case))
        for key, x in made.named_parameters():
          if 'lora_' in key:
            x.data += 0.3 * torch.randn(x.shape)
        made.save_pretrained(f'{folder}/{name}')
        return made

      arrays[f'{name}/logits'] = _peft_logits(wrap, f'{folder}/base')
      made = pathlib.Path(folder, name)
      for key, x in safetensors.numpy.load_file(
        made / adapter_file.FILE_NAME
      ).items():
        arrays[f'{name}/{key}'] = x
      config = (made / adapter_file.CONFIG_NAME).read_text()
      arrays[f'{name}/config'] = config
  np.savez_compressed(GOLDEN, **arrays)


if __name__ == '__main__':
  main()
