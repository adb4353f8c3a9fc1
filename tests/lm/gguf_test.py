# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""GGUF: numbers, order of rows, and refusal of what is no such file."""

import struct

import jax
import numpy as np
import pytest

from antjax.lm import gguf_model, pretrained
from tests.lm import tiny_models

_TYPES = {'F32': 0, 'F16': 1, 'Q4_1': 3, 'Q8_0': 8}


def text(value):
  data = value.encode()
  return struct.pack('<Q', len(data)) + data


def metadata(key, value):
  """One entry of the head."""
  if isinstance(value, str):
    return text(key) + struct.pack('<I', 8) + text(value)
  if isinstance(value, float):
    return text(key) + struct.pack('<If', 6, value)
  if isinstance(value, list):
    kind, items = 5, struct.pack(f'<{len(value)}i', *map(_number, value))
    if isinstance(value[0], str):
      kind, items = 8, b''.join(map(text, value))
    return text(key) + struct.pack('<IIQ', 9, kind, len(value)) + items
  return text(key) + struct.pack('<II', 4, value)


def _number(value):
  return value if isinstance(value, int) else 0


def encode(x, kind):
  """Blocks of a tensor, and the numbers that they stand for."""
  if kind in ('F32', 'F16'):
    stored = x.astype({'F32': '<f4', 'F16': '<f2'}[kind])
    return stored.tobytes(), stored.astype(np.float32)
  blocks = x.reshape(-1, 32)
  if kind == 'Q8_0':
    scale = (np.abs(blocks).max(axis=1) / 127).astype('<f2')
    q = np.round(blocks / scale[:, None].astype(np.float32)).astype('i1')
    data = b''.join(s.tobytes() + row.tobytes() for s, row in zip(scale, q))
    values = scale[:, None].astype(np.float32) * q
  else:
    least = blocks.min(axis=1).astype('<f2')
    scale = (np.ptp(blocks, axis=1) / 15).astype('<f2')
    wide, low = (a[:, None].astype(np.float32) for a in (scale, least))
    q = np.clip(np.round((blocks - low) / wide), 0, 15).astype('u1')
    pairs = q[:, :16] | (q[:, 16:] << 4)
    data = b''.join(
      s.tobytes() + m.tobytes() + row.tobytes()
      for s, m, row in zip(scale, least, pairs)
    )
    values = wide * q + low
  return data, values.reshape(x.shape).astype(np.float32)


def write(path, entries, tensors):
  """Writes {key: value} and {name: (array, type)}; returns the numbers."""
  head = b'GGUF' + struct.pack('<IQQ', 3, len(tensors), len(entries))
  head += b''.join(metadata(k, v) for k, v in entries.items())
  data, numbers = b'', {}
  for name, (x, kind) in tensors.items():
    encoded, numbers[name] = encode(x, kind)
    head += text(name) + struct.pack('<I', x.ndim)
    head += struct.pack(f'<{x.ndim}Q', *x.shape[::-1])
    head += struct.pack('<IQ', _TYPES[kind], len(data))
    data += encoded + bytes(-len(encoded) % 32)
  path.write_bytes(head + bytes(-len(head) % 32) + data)
  return numbers


@pytest.fixture
def file(tmp_path):
  """A file with a tensor of each type, and its numbers."""
  random = np.random.RandomState(0)
  tensors = {
    kind: (random.standard_normal((6, 96)).astype(np.float32), kind)
    for kind in _TYPES
  }
  entries = {'name': 'x', 'sizes': [1, 2, 3], 'words': ['a', 'é'], 'eps': 0.5}
  path = tmp_path / 'x.gguf'
  return path, write(path, entries, tensors)


def test_numbers_are_those_of_the_format(file):
  path, numbers = file
  read = gguf_model.GgufFile(path)
  assert read.metadata['name'] == 'x' and read.metadata['eps'] == 0.5
  assert read.metadata['words'] == ['a', 'é']
  np.testing.assert_array_equal(read.metadata['sizes'], [1, 2, 3])
  for kind, expected in numbers.items():
    assert read.shapes[kind] == (6, 96)
    np.testing.assert_array_equal(read.read(kind), expected)
    rows = np.asarray([4, 0])
    np.testing.assert_array_equal(
      read.read(kind, (rows, slice(5, 40))), expected[rows, 5:40]
    )
    np.testing.assert_array_equal(
      read.read(kind, (slice(1, 3),)), expected[1:3]
    )


def test_every_cut_is_refused_in_one_line(file):
  path, _ = file
  data = path.read_bytes()
  for size in [*range(0, 400, 7), len(data) - 32]:
    path.write_bytes(data[:size])
    with pytest.raises(ValueError, match='no GGUF file that can be read') as e:
      gguf_model.GgufFile(path)
    assert '\n' not in str(e.value)


def test_garbage_is_refused_or_read_but_never_anything_else(file):
  path, _ = file
  data = path.read_bytes()
  random = np.random.RandomState(1)
  refused = 0
  for _ in range(200):
    damaged = bytearray(data)
    for at in random.randint(0, 350, 3):
      damaged[at] = random.randint(256)
    path.write_bytes(damaged)
    try:
      read = gguf_model.GgufFile(path)
      for name in read.shapes:
        read.read(name)
    except ValueError as error:
      assert 'no GGUF file' in str(error)
      refused += 1
  assert refused > 50


def test_a_name_that_is_listed_twice_is_refused(file):
  path, _ = file
  path.write_bytes(path.read_bytes().replace(text('F16'), text('F32'), 1))
  with pytest.raises(ValueError, match='duplicated tensor with name F32'):
    gguf_model.GgufFile(path)


# Inverse of gguf_model's names, and llama.cpp's own order of rows.
def to_gguf(name):
  for theirs, ours in gguf_model._TOP.items():
    if name == ours:
      return theirs
  _, _, i, rest = name.split('.', 3)
  module, part = rest.rsplit('.', 1)
  table = {v: k for k, v in gguf_model._LAYER.items()}
  return f'blk.{i}.{table[module]}.{part}'


def turn(x, num_heads):
  """`permute` of llama.cpp's converter."""
  heads = x.reshape(num_heads, 2, x.shape[0] // num_heads // 2, *x.shape[1:])
  return heads.swapaxes(1, 2).reshape(x.shape)


@pytest.mark.parametrize('name', ['llama', 'qwen2'])
def test_a_model_is_that_of_the_hugging_face_folder(name, tmp_path):
  config = tiny_models.CONFIGS[name]
  params = tiny_models.params_of(config)
  pretrained.save_pretrained(tmp_path / 'hf', config, params)
  hf = pretrained.safetensors_file.SafetensorsFolder(tmp_path / 'hf')
  tensors = {}
  for key in hf.shapes:
    x = hf.read(key)
    if name == 'llama' and ('q_proj' in key or 'k_proj' in key):
      heads = config.num_heads if 'q_proj' in key else config.num_kv_heads
      x = turn(x, heads)
    tensors[to_gguf(key)] = x, 'F32'
  entries = {
    'general.architecture': name,
    f'{name}.block_count': config.num_layers,
    f'{name}.embedding_length': config.embed_dim,
    f'{name}.feed_forward_length': config.mlp_dim,
    f'{name}.attention.head_count': config.num_heads,
    f'{name}.attention.head_count_kv': config.num_kv_heads,
    f'{name}.attention.layer_norm_rms_epsilon': config.norm_eps,
    f'{name}.rope.freq_base': config.rope_theta,
  }
  write(tmp_path / 'x.gguf', entries, tensors)
  again_config, again = pretrained.load_pretrained(tmp_path / 'x.gguf')
  assert again_config == config
  jax.tree.map(np.testing.assert_array_equal, again, params)
  # A model of another architecture, and one without its sizes.
  write(tmp_path / 'x.gguf', entries | {'general.architecture': 'gpt'}, tensors)
  with pytest.raises(ValueError, match="architecture 'gpt'; known are llama"):
    pretrained.load_pretrained(tmp_path / 'x.gguf')
  del entries[f'{name}.block_count']
  write(tmp_path / 'x.gguf', entries, tensors)
  with pytest.raises(ValueError, match='lacks block_count'):
    pretrained.load_pretrained(tmp_path / 'x.gguf')


_HEAD = {
  'general.architecture': 'llama',
  'llama.block_count': 1,
  'llama.embedding_length': 32,
  'llama.feed_forward_length': 64,
  'llama.attention.head_count': 4,
  'llama.attention.layer_norm_rms_epsilon': 1e-5,
}
_TABLES = {
  'token_embd.weight': (np.ones((5, 32), np.float32), 'F32'),
  'output_norm.weight': (np.ones(32, np.float32), 'F32'),
}
_NEUTRAL = {
  'llama.rope.scaling.type': 'none',
  'llama.rope.scaling.factor': 1.0,
  'llama.rope.scale_linear': 1.0,
  'llama.rope.dimension_count': 8,
  'llama.attention.key_length': 8,
  'llama.attention.value_length': 8,
  'llama.attention.scale': 8**-0.5,
  'llama.logit_scale': 1.0,
  'llama.expert_count': 0,
}


def test_settings_that_change_nothing_are_accepted(tmp_path):
  write(tmp_path / 'x.gguf', _HEAD | _NEUTRAL, _TABLES)
  model = gguf_model.GgufModel(tmp_path / 'x.gguf')
  assert model.fields['hidden_size'] == 32


@pytest.mark.parametrize(
  'key, value',
  [
    ('rope.scaling.type', 'yarn'),
    ('rope.scaling.factor', 2.0),
    ('rope.scale_linear', 4.0),
    ('rope.dimension_count', 4),
    ('attention.value_length', 16),
    ('attention.scale', 0.5),
    ('logit_scale', 0.5),
    ('expert_count', 8),
    ('expert_count', [8, 8]),
  ],
)
def test_settings_that_change_the_computation_are_refused(key, value, tmp_path):
  path = tmp_path / 'x.gguf'
  write(path, _HEAD | {f'llama.{key}': value}, _TABLES)
  with pytest.raises(ValueError, match=f'x.gguf: llama.{key}=.*; needed is'):
    gguf_model.GgufModel(path)


@pytest.mark.parametrize('value', [0, [4, 4], 'x', 4.0])
def test_sizes_that_are_none_are_refused(value, tmp_path):
  path = tmp_path / 'x.gguf'
  write(path, _HEAD | {'llama.attention.head_count': value}, _TABLES)
  with pytest.raises(ValueError, match='x.gguf: llama.attention.head_count='):
    gguf_model.GgufModel(path)
