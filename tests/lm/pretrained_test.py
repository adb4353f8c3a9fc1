# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights in and out: every bit, every name, at its place."""

import dataclasses
import json

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import safetensors.numpy

from antjax.lm import config_json, pretrained
from antjax.mesh.mesh import make_mesh
from tests.cases import slow_but
from tests.lm import tiny_models

# fp32 sums in another order.
ATOL = 2e-5


def same_bits(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  assert all(
    a.dtype == b.dtype
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected))
  )


@pytest.fixture
def folder(tmp_path):
  config = tiny_models.CONFIGS['llama']
  pretrained.save_pretrained(tmp_path, config, tiny_models.params_of(config))
  return tmp_path


def edit(folder, change):
  """Applies `change` to the dict of all tensors."""
  path = folder / 'model.safetensors'
  tensors = change(safetensors.numpy.load_file(path))
  safetensors.numpy.save_file(tensors, path)


def edit_config(folder, **fields):
  path = folder / 'config.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
  'name',
  slow_but(tiny_models.CONFIGS, 'qwen2', 'bert', 't5-plain'),
)
def test_a_model_comes_back_bit_for_bit(name, tmp_path):
  config = tiny_models.CONFIGS[name]
  dtype = jnp.bfloat16 if name == 'qwen2' else jnp.float32
  params = jax.tree.map(
    lambda x: x.astype(dtype), tiny_models.params_of(config)
  )
  # Several files, for some tensor is larger.
  pretrained.save_pretrained(tmp_path, config, params, max_file_bytes=20_000)
  assert len(list(tmp_path.glob('model-*-of-*.safetensors'))) > 2
  again_config, again = pretrained.load_pretrained(tmp_path, dtype=None)
  assert again_config == config
  same_bits(again, params)


def test_names_and_prefixes_of_other_classes_are_known(folder):
  config, expected = pretrained.load_pretrained(folder)
  edit(folder, lambda ts: {k.removeprefix('model.'): x for k, x in ts.items()})
  same_bits(pretrained.load_pretrained(folder)[1], expected)
  # What a checkpoint may hold besides; an untied output is none of it.
  edit(folder, lambda ts: ts | {'rotary_emb.inv_freq': np.ones(4)})
  same_bits(pretrained.load_pretrained(folder)[1], expected)
  edit_config(folder, tie_word_embeddings=True)
  with pytest.raises(
    ValueError, match='but lm_head.weight differs from embed_t'
  ):
    pretrained.load_pretrained(folder)
  edit(folder, lambda ts: ts | {'lm_head.weight': ts['embed_tokens.weight']})
  tied, params = pretrained.load_pretrained(folder)
  assert tied == dataclasses.replace(config, tie_embeddings=True)
  assert 'lm_head' not in params


def test_a_masked_language_model_is_read_as_its_encoder(tmp_path):
  config = tiny_models.CONFIGS['bert']
  params = tiny_models.params_of(config)
  pretrained.save_pretrained(tmp_path, config, params)
  edit(
    tmp_path,
    lambda ts: (
      {f'bert.{name}': x for name, x in ts.items()}
      | {
        'bert.pooler.dense.weight': np.ones((32, 32), np.float32),
        'cls.predictions.bias': np.ones(61, np.float32),
      }
    ),
  )
  same_bits(pretrained.load_pretrained(tmp_path)[1], params)


def test_the_old_names_of_norms_are_read(tmp_path):
  config = tiny_models.CONFIGS['bert']
  params = tiny_models.params_of(config)
  pretrained.save_pretrained(tmp_path, config, params)

  def old(name):
    name = name.replace('LayerNorm.weight', 'LayerNorm.gamma')
    return 'bert.' + name.replace('LayerNorm.bias', 'LayerNorm.beta')

  edit(tmp_path, lambda ts: {old(name): x for name, x in ts.items()})
  same_bits(pretrained.load_pretrained(tmp_path)[1], params)


def test_two_tensors_for_one_place_are_refused(folder):
  name = 'model.norm.weight'
  edit(folder, lambda ts: ts | {'norm.weight': ts[name]})
  with pytest.raises(ValueError, match=f'{folder}.*norm.weight and .*norm.wei'):
    pretrained.load_pretrained(folder)


def test_weights_that_are_no_floats_are_refused(folder):
  name = 'model.norm.weight'
  edit(folder, lambda ts: ts | {name: np.ones(32, np.int32)})
  with pytest.raises(ValueError, match=f'{folder}: tensor {name} is int32'):
    pretrained.load_pretrained(folder)


def test_leaves_go_straight_to_their_shardings(folder):
  config, expected = pretrained.load_pretrained(folder)
  mesh = make_mesh(intra=4)
  shardings = jax.tree.map(
    lambda x: NamedSharding(
      mesh, P(*[None] * (x.ndim - 1), 'intra' if x.shape[-1] % 4 == 0 else None)
    ),
    expected,
  )
  _, params = pretrained.load_pretrained(
    folder, dtype=jnp.bfloat16, shardings=shardings
  )
  same_bits(params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), expected))
  assert jax.tree.map(lambda x: x.sharding, params) == shardings
  query = params['layers']['query']
  assert query.addressable_shards[0].data.shape == (3, 32, 8)


def test_no_more_of_a_tensor_is_read_than_a_device_holds(folder, monkeypatch):
  _, expected = pretrained.load_pretrained(folder)
  read = pretrained.safetensors_file.SafetensorsFolder.read
  sizes = []

  def count(self, name, index=()):
    piece = read(self, name, index)
    sizes.append(piece.size)
    return piece

  monkeypatch.setattr(
    pretrained.safetensors_file.SafetensorsFolder, 'read', count
  )
  mesh = make_mesh(intra=4)
  home = NamedSharding(mesh, P())
  split = NamedSharding(mesh, P(None, None, ('intra', 'inter')))
  shardings = jax.tree.map(lambda x: split if x.ndim == 3 else home, expected)
  pretrained.load_pretrained(folder, shardings=shardings)
  # Every number is read once, whole tables of the embedding among them.
  assert sum(sizes) == sum(x.size for x in jax.tree.leaves(expected))
  assert max(sizes) == expected['embed'].size


@pytest.mark.parametrize(
  'change, message',
  [
    (
      lambda ts: {k: x for k, x in ts.items() if 'layers.1.' not in k},
      '9 missing: model.layers.1.input_layernorm.weight',
    ),
    (
      lambda ts: ts | {'model.layers.9.mlp.up_proj.weight': np.ones(3)},
      '1 not used: model.layers.9.mlp.up_proj.weight',
    ),
    (
      lambda ts: ts | {'model.norm.weight': np.ones(31, np.float32)},
      r'1 of another shape: model.norm.weight is \(31,\), not \(32,\)',
    ),
  ],
)
def test_tensors_that_do_not_fit_are_listed(folder, change, message):
  edit(folder, change)
  with pytest.raises(ValueError, match=message):
    pretrained.load_pretrained(folder)


@pytest.mark.parametrize(
  'name, fields, message',
  [
    ('llama', {'model_type': 'mamba'}, "model_type='mamba'; known are llama"),
    ('llama', {'rope_scaling': {'rope_type': 'yarn'}}, "rope_type='yarn'"),
    ('llama', {'hidden_act': 'tanh'}, "hidden_act='tanh'; known are silu"),
    ('qwen2', {'layer_types': ['chunked_attention'] * 3}, 'layer_types='),
    (
      'qwen2',
      {'swiglu_limit': 7.0},
      'swiglu_limit=7.0 is not known of a qwen2',
    ),
    ('bert', {'rope_scaling': {'factor': 2.0}}, 'rope_scaling='),
    ('opt', {'word_embed_proj_dim': 512}, 'word_embed_proj_dim=512'),
    ('opt', {'enable_bias': False}, 'enable_bias=False is not supported'),
    ('bert', {'position_embedding_type': 'relative_key'}, 'relative_key'),
    ('t5', {'feed_forward_proj': 'gated-x'}, "feed_forward_proj='gated-x'"),
  ],
)
def test_what_is_not_supported_is_refused(name, fields, message):
  written = config_json.write_config(tiny_models.CONFIGS[name])
  with pytest.raises(ValueError, match=message):
    config_json.read_config({**written, **fields})


@pytest.mark.parametrize(
  'name, field, value',
  [
    ('llama', 'num_attention_heads', 0),
    ('llama', 'hidden_size', '8'),
    ('llama', 'hidden_size', [8]),
    ('llama', 'hidden_size', 8.0),
    ('llama', 'hidden_act', ['silu']),
    ('llama', 'model_type', ['llama']),
    ('llama', 'rope_scaling', 'x'),
    ('llama', 'attention_bias', 'no'),
    ('bert', 'layer_norm_eps', None),
  ],
)
def test_odd_fields_are_named(name, field, value):
  written = config_json.write_config(tiny_models.CONFIGS[name])
  with pytest.raises(ValueError, match=f'x/config.json: {field}='):
    config_json.read_config({**written, field: value}, 'x/config.json')


def test_no_number_of_key_heads_is_that_of_the_heads():
  written = config_json.write_config(tiny_models.CONFIGS['llama'])
  written['num_key_value_heads'] = None
  assert config_json.read_config(written).num_kv_heads == 4


def test_fields_that_are_missing_are_named():
  with pytest.raises(ValueError, match='lacks hidden_size, intermediate_size'):
    config_json.read_config(
      {'model_type': 'bert', 'vocab_size': 9, 'num_hidden_layers': 1}
      | {'num_attention_heads': 1, 'max_position_embeddings': 9}
    )


def test_rotary_settings_are_read_where_versions_write_them():
  fields = config_json.write_config(tiny_models.CONFIGS['llama'])
  del fields['rope_theta']
  assert config_json.read_config(fields).rope_theta == 10_000.0
  fields['rope_parameters'] = {'rope_type': 'default', 'rope_theta': 5e5}
  assert config_json.read_config(fields).rope_theta == 5e5


def test_models_of_no_family_are_refused(tmp_path):
  config = dataclasses.replace(tiny_models.CONFIGS['llama'], norm='layer')
  with pytest.raises(ValueError, match='no family of llama, mistral'):
    pretrained.save_pretrained(tmp_path / 'x', config, {})
  config = tiny_models.CONFIGS['llama']
  params = tiny_models.params_of(config)
  del params['final_norm']
  with pytest.raises(ValueError, match='not those of the config'):
    pretrained.save_pretrained(tmp_path / 'x', config, params)


def test_damaged_and_missing_files_are_named(folder):
  config = tiny_models.CONFIGS['llama']
  with pytest.raises(FileExistsError, match='holds a model'):
    pretrained.save_pretrained(folder, config, tiny_models.params_of(config))
  path = folder / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match='no whole safetensors file'):
    pretrained.load_pretrained(folder)
  path.unlink()
  with pytest.raises(
    FileNotFoundError, match='holds none of model.safetensors'
  ):
    pretrained.load_pretrained(folder)
  index = folder / 'model.safetensors.index.json'
  index.write_text('{"weight_map": {"a": "lost.safetensors"}}')
  with pytest.raises(FileNotFoundError, match='lost.safetensors is not there'):
    pretrained.load_pretrained(folder)
  index.write_text('[]')
  with pytest.raises(ValueError, match='no index of safetensors'):
    pretrained.load_pretrained(folder)
  (folder / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='no JSON'):
    pretrained.load_pretrained(folder)
  with pytest.raises(FileNotFoundError, match='no model at'):
    pretrained.load_pretrained(folder / 'nothing')
