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
from tests.cases import first_fast
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
    ({'rank_pattern': {'q_proj': 3}}, 'rank_pattern='),
    ({'modules_to_save': ['lm_head']}, 'modules_to_save='),
    ({'peft_type': 'IA3'}, "peft_type='IA3'"),
    ({'init_lora_weights': 'pissa'}, "init_lora_weights='pissa'"),
    ({'use_bdlora': True}, 'use_bdlora=True'),
    ({'r': 3}, r'q_proj.lora_A.weight of shape \(3, 32\)'),
  ],
)
def test_other_kinds_are_refused_by_name(tmp_path, fields, message):
  folder_of(tmp_path, 'lora', **fields)
  with pytest.raises(ValueError, match=message):
    adapter_file.load(tmp_path, base())


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


@pytest.mark.slow
def test_peft_reads_what_we_write(tmp_path):
  peft = pytest.importorskip('peft', reason='peers: requirements-bench.txt')
  model = base()
  lora.add(model, rank=3, targets=('out', 'up'), dora=True, rngs=nnx.Rngs(0))
  for name in ('out_lora_b', 'up_lora_b', 'up_lora_m'):
    leaf = getattr(model.layers, name)
    setattr(model.layers, name, nnx.Param(leaf[...] + 0.1))
  adapter_file.save(tmp_path / 'adapter', model)
  pretrained.save_pretrained(tmp_path / 'base', CONFIG, params_of(base()))
  found = _peft_logits(
    lambda theirs: peft.PeftModel.from_pretrained(theirs, tmp_path / 'adapter'),
    tmp_path / 'base',
  )
  expected = model.logits(TOKENS[2:])[..., ::4]
  np.testing.assert_allclose(found, expected, atol=2e-5)


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
