# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny models of peer_families.toml, made and run by `transformers`.

  $PEERS_PYTHON tests/lm/peer_families.py golden
  $PEERS_PYTHON tests/lm/peer_families.py outputs FOLDER ...
  $PEERS_PYTHON tests/lm/peer_families.py changed FOLDER ...

The first writes golden/families.npz: for each case the config.json and the
tensors' shapes as `transformers` saves them, and a slice of the outputs. The
second runs the model in each folder and writes outputs.npz there. The third
does so for folders with a config.json alone, whose weights it writes, and for
folders with an adapter; where it fails, it writes error.txt. Weights come of a
tensor's name, by a generator whose numbers are the same in all versions of
numpy.
"""

import json
import pathlib
import sys
import tempfile
import tomllib
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


def _cases():
  """Case -> fields of its config.json that are not the defaults."""
  text = pathlib.Path(__file__).with_suffix('.toml').read_text('utf-8')
  tables = tomllib.loads(text)
  bases = tables.pop('of')
  cases = {name: bases[x.pop('of')] | x for name, x in tables.items()}
  return {
    name: {k: None if v == 'null' else v for k, v in fields.items()}
    for name, fields in cases.items()
  }


CASES = _cases()


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


def outputs(folder, adapter=None):
  """Hidden states of all layers, and logits or None, of a folder's model."""
  import torch
  import transformers

  config = transformers.AutoConfig.from_pretrained(folder)
  model = model_of(folder, config)
  if adapter is not None:
    import peft

    model = peft.PeftModel.from_pretrained(model, adapter).eval()
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
  hidden = np.stack([x.numpy() for x in result.hidden_states])
  return hidden, None if logits is None else logits.numpy()


def golden():
  import transformers

  arrays, texts = {}, {}
  for case, fields in CASES.items():
    config = transformers.AutoConfig.for_model(case.split()[0], **fields)
    with tempfile.TemporaryDirectory() as folder:
      model_of(None, config).save_pretrained(folder)
      shapes = make(folder, config)
      hidden, logits = outputs(folder)
      text = json.loads(pathlib.Path(folder, 'config.json').read_text())
    texts[case] = {'config': text, 'shapes': shapes}
    arrays[f'{case}/hidden'] = hidden[-1][..., ::STEP].astype(np.float32)
    if logits is not None:
      arrays[f'{case}/logits'] = logits[..., :: 2 * STEP].astype(np.float32)
    print(case, np.abs(hidden).max(), flush=True)
  arrays['texts'] = np.frombuffer(json.dumps(texts).encode(), np.uint8)
  np.savez_compressed(GOLDEN, **arrays)
  print(f'{GOLDEN}: {GOLDEN.stat().st_size:,} bytes', file=sys.stderr)


def make(folder, config):
  """Writes weights of a config's model; returns their shapes."""
  with tempfile.TemporaryDirectory() as made:
    model_of(None, config).save_pretrained(made)
    file = pathlib.Path(made, 'model.safetensors')
    with safetensors.safe_open(file, 'np') as tensors:
      shapes = {k: tensors.get_slice(k).get_shape() for k in tensors.keys()}
  write(pathlib.Path(folder, 'model.safetensors'), shapes)
  return shapes


def changed(folder):
  """Outputs of a folder's config.json, and adapter if any, or the error."""
  import transformers

  adapter = folder / 'adapter' if (folder / 'adapter').exists() else None
  try:
    if adapter is None:
      make(folder, transformers.AutoConfig.from_pretrained(folder))
    save(folder, outputs(folder, adapter))
  except Exception as error:  # Theirs are of every type.
    (folder / 'error.txt').write_text(f'{type(error).__name__}: {error}')


def save(folder, found):
  names = zip(('hidden', 'logits'), found)
  arrays = {k: x for k, x in names if x is not None}
  np.savez(pathlib.Path(folder, 'outputs.npz'), **arrays)


def write(file, shapes):
  """Writes a file of weights."""
  tensors = {name: weight(name, shape) for name, shape in shapes.items()}
  safetensors.numpy.save_file(tensors, file, metadata={'format': 'pt'})


if __name__ == '__main__':
  if sys.argv[1] == 'golden':
    golden()
  else:
    for folder in map(pathlib.Path, sys.argv[2:]):
      if sys.argv[1] == 'changed':
        changed(folder)
      else:
        save(folder, outputs(folder))
