# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a job of train_lm refuses before it trains, and what it hands on."""

import dataclasses
import json
import shutil

import jax
import pytest

from antjax.jobs import job as job_lib
from antjax.jobs import script
from antjax.jobs import trainer as trainer_lib
from antjax.jobs.lm import job as lm_job
from antjax.jobs.lm import prepare_text
from antjax.jobs.lm.config import Config
from antjax.layers.functional import Functional
from antjax.lm import pretrained, tokenizer, transformer
from antjax.lm.transformer import Transformer
from antjax.mesh.mesh import make_mesh
from antjax.train.optimizer import OptimizerConfig

_MODEL = transformer.Config(
  vocab_size=0, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=32
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('texts')
  (folder / 'a.txt').write_text(
    '\n\n'.join(f'paragraph {i} of a hundred' for i in range(100))
  )
  config = prepare_text.Config(
    source=str(folder / 'a.txt'),
    out=str(folder / 'data'),
    documents='paragraph',
    vocab_size=260,
    validation_share=0.4,
  )
  prepare_text.prepare(config, say=lambda text: None)
  return str(folder / 'data')


@pytest.fixture
def make(data, tmp_path):
  def make(num_devices=8, agent=None, **settings):
    settings = {
      'data': data,
      'run_dir': str(tmp_path),
      'batch_size': 8,
      'seq_len': 32,
      'shard_size': 2,
      'peak_tflops': 0.01,
      'model': _MODEL,
    } | settings
    config = Config(**settings)
    mesh = make_mesh(
      intra=min(num_devices, 4), devices=jax.devices()[:num_devices]
    )
    job = job_lib.Job(mesh, tmp_path, script.stop_request, config, agent)
    texts = lm_job.LMTexts(config, job)
    lm_job.check_samples(config, texts)
    rates = lm_job.speeds(config, texts.model)
    return texts, lambda: lm_job.make_trainer(
      config, job, texts.model, 4, rates
    )

  return make


def learned(max_positions):
  return dataclasses.replace(
    _MODEL, positions='learned', max_positions=max_positions
  )


def test_places_that_the_model_does_not_have_are_refused_at_the_start(make):
  # Looked up, they would be those of the last place.
  with pytest.raises(
    ValueError, match='sequences of 32 tokens.*has 31 learned'
  ):
    make(model=learned(31), sample_tokens=0)
  make(model=learned(32), sample_tokens=0)
  # Not after training, when the samples are written.
  with pytest.raises(ValueError, match='sample_tokens=32: .* has 40 tokens'):
    make(model=learned(39), sample_tokens=32, prompts=('one two',))
  make(model=learned(40), sample_tokens=32, prompts=('one two',))


def test_samples_of_a_model_too_large_for_a_device_are_refused(
  make, monkeypatch
):
  monkeypatch.setattr(trainer_lib, 'memory_of_device', lambda: 1000)
  with pytest.raises(ValueError, match='need the whole model.*set it to 0'):
    make()
  make(sample_tokens=0)


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('sample_tokens', -1, 'sample_tokens=-1: .* 0'),
    ('checkpoint_every', 0, 'checkpoint_every=0: .* 1'),
    ('evaluate_every', -5, 'evaluate_every=-5: .* 0'),
    ('device_gib', float('nan'), 'device_gib=nan: .* 0'),
    ('paro', 'GIN', 'use GIG'),
    ('batch_size', 12, 'batch_size=12 must be a multiple of 8'),
    ('train_on', '(', 'is no regular expression'),
    ('peak_tflops', -1.0, 'must be positive, or 0'),
    (
      'model',
      dataclasses.replace(_MODEL, vocab_size=10),
      'set it to 0 or higher',
    ),
  ],
)
def test_settings_that_would_fail_later(make, name, value, message):
  with pytest.raises(ValueError, match=message):
    make(**{name: value})


def test_validation_is_whole_whatever_hosts_have_come(make):
  # Under agents a batch of 12 was for other hosts than these 8 devices.
  texts, _ = make(agent=object(), batch_size=12)
  batches = list(texts.validation())
  assert {len(batch['tokens']) for batch in batches} == {16}
  read = sum(int((batch['segment_ids'] > 0).sum()) for batch in batches)
  assert read == texts.description['splits']['validation']['tokens']


def test_one_device_has_no_links_to_measure(make):
  trainer = make(num_devices=1, collectives='auto')[1]()
  assert trainer.collectives.bucket_bytes > 0  # As all others have on CPU.
  assert trainer.collectives.pick('all_reduce', 100, 1, 1) == 'xla'


@pytest.mark.parametrize('agent', [None, object()])
def test_auto_takes_an_elastic_code_under_agents(make, monkeypatch, agent):
  asked = {}

  def choose_paro(code, *args, **options):
    asked.update(options)
    return trainer_lib.PaRO.from_code('IIG')

  monkeypatch.setattr(trainer_lib, 'choose_paro', choose_paro)
  trainer = make(agent=agent, paro='auto')[1]()
  assert trainer.paro.code == 'IIG'
  assert asked['elastic_only'] == (agent is not None)
  assert asked['device_bytes'] is None


@pytest.mark.parametrize('code', ['IIG', 'III'])
def test_flags_send_sums_early_or_say_that_nothing_can(make, caplog, code):
  model = dataclasses.replace(_MODEL, num_layers=4, remat='layer')
  options = {'overlap': 'yes', 'early_sums': True, 'min_shard_size': 64}
  texts, make_trainer = make(model=model, paro=code, **options)
  trainer = make_trainer()
  trainer.init(Functional(Transformer, texts.model).init)
  assert trainer.step_spec().crosses_early is (code == 'IIG')
  assert ('early_sums changes nothing' in caplog.text) == (code == 'III')


@pytest.mark.parametrize('code', ['IIG', 'III'])
def test_flags_let_parameters_come_late_or_say_that_none_do(make, caplog, code):
  options = {'overlap': 'yes', 'late_params': True, 'min_shard_size': 64}
  texts, make_trainer = make(paro=code, **options)
  trainer = make_trainer()
  trainer.init(Functional(Transformer, texts.model).init)
  assert trainer.layout.late_params is (code == 'IIG')
  assert ('late_params changes nothing' in caplog.text) == (code == 'III')


@pytest.mark.parametrize('name', ['early_sums', 'late_params'])
def test_flags_that_need_overlap_are_refused_without(make, name):
  with pytest.raises(ValueError, match=f'{name} needs overlap'):
    make(overlap='no', **{name: True})


@pytest.fixture
def folder(data, tmp_path):
  """A pretrained model and the tokenizer of the texts."""
  config = dataclasses.replace(_MODEL, vocab_size=300, remat='none')
  params = Functional(Transformer, config).init(jax.random.key(3))
  pretrained.save_pretrained(tmp_path / 'model', config, params)
  shutil.copy(f'{data}/tokenizer.json', tmp_path / 'model')
  return tmp_path / 'model'


def test_a_pretrained_model_brings_its_shape(make, folder):
  computed = transformer.Config(vocab_size=0, remat='layer')
  texts, _ = make(pretrained=str(folder), model=computed, sample_tokens=0)
  assert texts.model == dataclasses.replace(
    pretrained.read_config(folder), remat='layer'
  )
  other = dataclasses.replace(computed, num_layers=3, mlp_dim=32)
  with pytest.raises(
    ValueError, match=r'leave out model.num_layers=3 \(it has 1\)\.$'
  ):
    make(pretrained=str(folder), model=other)
  with pytest.raises(ValueError, match='init_from=b: a run begins with one'):
    make(pretrained='a', init_from='b')
  fields = json.loads((folder / 'config.json').read_text())
  fields['is_causal'] = False
  (folder / 'config.json').write_text(json.dumps(fields))
  with pytest.raises(ValueError, match='is an encoder'):
    make(pretrained=str(folder), model=computed)


def test_a_pretrained_model_wants_its_tokenizer(make, folder):
  config = Config(pretrained=str(folder))
  texts, _ = make(pretrained=str(folder), model=config.model)
  lm_job.check_tokenizer(config, texts)
  file = folder / 'tokenizer.json'
  content = file.read_text()
  file.write_text(content + ' ')
  with pytest.raises(ValueError, match=f'with --tokenizer={file}'):
    lm_job.check_tokenizer(config, texts)
  # Prepared with it, the texts have it in another form.
  texts.description['config']['tokenizer'] = tokenizer.fingerprint(file)
  lm_job.check_tokenizer(config, texts)
  file.unlink()
  with pytest.raises(FileNotFoundError, match='pretrained=.* has no tokenizer'):
    lm_job.check_tokenizer(config, texts)


@pytest.mark.slow
def test_training_begins_with_the_pretrained_model(data, folder, tmp_path):
  config = Config(
    data=data,
    run_dir=str(tmp_path / 'run'),
    pretrained=str(folder),
    num_steps=1,
    batch_size=8,
    seq_len=32,
    shard_size=2,
    peak_tflops=0.01,
    sample_tokens=0,
    optimizer=OptimizerConfig(learning_rate=1e-9),
  )
  mesh = make_mesh(intra=4, devices=jax.devices())
  job = job_lib.Job(mesh, tmp_path, script.stop_request, config, None)
  loss = lm_job.train(config, job)['validation_loss']
  total = weight = 0.0
  model = pretrained.load(folder)
  for batch in lm_job.LMTexts(config, job).validation():
    found, weights = jax.jit(Transformer.loss)(model, batch)
    total += float((found * weights).sum())
    weight += float(weights.sum())
  assert loss == pytest.approx(total / weight, rel=1e-4)
