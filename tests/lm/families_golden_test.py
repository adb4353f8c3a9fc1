# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny models of all families, in the files and to the numbers of their makers.

What `transformers` wrote and computed is in golden/families.npz; see
`tests.lm.peer_families`.
"""

import itertools
import json
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from antjax.lm import config_json, pretrained, split
from antjax.lm.family_tables import FAMILIES
from antjax.lm.transformer import Transformer
from benchmarks import machine
from tests.cases import slow_but
from tests.lm import peer_families
from tests.lm.peer_families import CASES, MASK, STEP, TOKENS

GOLDEN = np.load(peer_families.GOLDEN)
TEXTS = json.loads(GOLDEN['texts'].tobytes())
REAL = MASK > 0
# One of each family, whose name is one word.
NAMES = slow_but(CASES, *(name for name in CASES if ' ' not in name))


def load(name, folder):
  """(config, parameters) of a case, by way of a folder of its maker."""
  peer_families.write(folder / 'model.safetensors', TEXTS[name]['shapes'])
  (folder / 'config.json').write_text(json.dumps(TEXTS[name]['config']))
  return pretrained.load_pretrained(folder)


def outputs(config, params, tokens=TOKENS, mask=MASK):
  """(hidden states, logits or None)."""

  @jax.jit
  def run(params):
    model = Transformer.of(config, params)
    hidden = model.hidden(jnp.asarray(tokens), jnp.asarray(mask))
    return hidden, model.unembed(hidden) if config.causal else None

  return jax.device_get(run(params))


def assert_close(actual, expected, share=1e-5):
  """Within a share of the largest number."""
  np.testing.assert_allclose(
    actual, expected, atol=share * np.abs(expected).max(), rtol=1e-5
  )


@pytest.mark.parametrize('name', NAMES)
def test_outputs_are_those_of_transformers(name, tmp_path):
  config, params = load(name, tmp_path)
  hidden, logits = outputs(config, params)
  assert_close(hidden[REAL][:, ::STEP], GOLDEN[f'{name}/hidden'][REAL])
  assert (logits is None) == (f'{name}/logits' not in GOLDEN)
  if logits is not None:
    expected = GOLDEN[f'{name}/logits'][REAL]
    assert_close(logits[REAL][:, :: 2 * STEP], expected)


@pytest.mark.parametrize('name', NAMES)
def test_files_are_written_as_they_were_read(name, tmp_path):
  (tmp_path / 'theirs').mkdir()
  config, params = load(name, tmp_path / 'theirs')
  pretrained.save_pretrained(tmp_path / 'ours', config, params)
  again, _ = pretrained.load_pretrained(tmp_path / 'ours')
  assert again == config
  fields = json.loads((tmp_path / 'ours' / 'config.json').read_text())
  if fields['model_type'] != name.split()[0]:
    return  # The same model by another family, llama say.
  ours = safetensors.numpy.load_file(tmp_path / 'ours' / 'model.safetensors')
  theirs = TEXTS[name]['shapes']
  prefixes = ('', 'model.', 'transformer.')
  for key, tensor in ours.items():
    found = [
      k for k in theirs if any(p + k == key or p + key == k for p in prefixes)
    ]
    assert len(found) == 1, key
    np.testing.assert_array_equal(
      tensor, peer_families.weight(found[0], theirs[found[0]])
    )
  unused = len(theirs) - len(ours)
  assert unused == sum('pooler' in key for key in theirs)


@pytest.mark.slow
@pytest.mark.skipif(not machine.peers_made(), reason='needs make peers')
def test_transformers_reads_what_we_write(tmp_path):
  models = {}
  for name in CASES:
    folder = tmp_path / name.replace(' ', '-')
    folder.mkdir()
    models[name] = load(name, folder)
    pretrained.save_pretrained(folder / 'ours', *models[name])
  folders = list(tmp_path.glob('*/ours'))
  command = [machine.peers_python(), peer_families.__file__, 'outputs']
  subprocess.run([*command, *folders], check=True)
  for name, (config, params) in models.items():
    file = tmp_path / name.replace(' ', '-') / 'ours' / 'outputs.npz'
    theirs = np.load(file)
    hidden, logits = outputs(config, params)
    assert_close(hidden[REAL], theirs['hidden'][-1][REAL], 4e-5)
    if logits is not None:
      assert_close(logits[REAL], theirs['logits'][REAL], 4e-5)
    model = Transformer.of(config, params)
    for k in range(config.num_layers):
      found = split.LowEncoder(model, k)(jnp.asarray(TOKENS), jnp.asarray(MASK))
      assert_close(found[REAL], theirs['hidden'][k][REAL], 4e-5)


@pytest.mark.parametrize(
  'name, fields, message',
  [
    # Theirs replaces one by the other, with another rope_theta.
    (
      'llama',
      {'rope_scaling': {'factor': 2.0}},
      'beside other rope_parameters',
    ),
    # Theirs is the activation of a file that names two.
    ('t5', {'dense_act_fn': 'silu'}, 'is that of feed_forward_proj='),
    # Theirs is 32 in every file.
    ('mpnet', {'relative_attention_num_buckets': 64}, 'num_buckets=64 is not'),
    # Theirs has the field and does not apply it.
    ('gemma3_text', {'attn_logit_softcapping': 2.0}, 'is not known of a gemma'),
    # Theirs is a window even if use_sliding_window is false.
    (
      'smollm3',
      {'layer_types': ['sliding_attention'] * 3, 'sliding_window': 4},
      'needed is full_attention',
    ),
  ],
)
def test_contradictions_that_transformers_resolves_are_refused(
  name, fields, message
):
  written = TEXTS[name]['config']
  config_json.read_config(written)
  with pytest.raises(ValueError, match=message):
    config_json.read_config({**written, **fields})


def test_values_of_a_wrong_type_are_refused_by_name():
  values = ['x', [], ['x'], {}, {'a': 1}, True, -1, 1.5, 0, np.nan, [None]]
  for text in TEXTS.values():
    for name, value in itertools.product(text['config'], values):
      fields = {**text['config'], name: value}
      try:
        config_json.read_config(fields, 'a/config.json')
      except ValueError as error:  # Never another.
        message = str(error)
        # Names of what it is compared with, or computed from it.
        names = {name, *_NAMED_ELSEWHERE.get(name, '').split()}
        assert any(x in message for x in names), (message, name, value)
  fields = TEXTS['llama']['config']
  for rope in (
    {'rope_type': ['x']},
    {'rope_type': 'linear', 'factor': '2'},
    {'rope_type': 'yarn', 'factor': 2, 'truncate': 1},
    {'rope_type': 'longrope', 'long_factor': [1], 'short_factor': 1},
    {'full_attention': 3},
    {'rope_theta': np.inf},
  ):
    with pytest.raises(ValueError, match=f'config.json: .*{[*rope][-1]}'):
      config_json.read_config({**fields, 'rope_parameters': rope})


# Field -> what messages of its values may name instead.
_NAMED_ELSEWHERE = {
  'head_dim': 'head',
  'hidden_size': 'word_embed_proj_dim',
  'num_local_experts': 'num_experts',
  'rope_parameters': 'rope_type',
  'use_sliding_window': 'sliding_window',
}


def test_the_original_length_of_phi3_is_that_of_transformers():
  # Theirs is 4096 if left out, whatever rope_parameters say.
  fields = dict(TEXTS['phi3 long']['config'])
  assert '"original_max_position_embeddings": 8' in (
    config_json.read_config(fields).rope_scaling
  )
  del fields['original_max_position_embeddings']
  assert '"original_max_position_embeddings": 4096' in (
    config_json.read_config(fields).rope_scaling
  )


def test_every_family_of_the_tables_is_here():
  assert set(FAMILIES) == {name.split()[0] for name in CASES}
  for text in TEXTS.values():
    config = config_json.read_config(text['config'])
    assert config_json.read_config(config_json.write_config(config)) == config
