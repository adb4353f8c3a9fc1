# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trackers beside metrics.jsonl: what W&B and MLflow are told; profiles."""

import sys
import time
import types

import jax
import jax.numpy as jnp
import pytest

from antjax.report import progress, trackers, watch

CONFIG = {'seed': 3, 'model': {'widths': [64, 32], 'note': 'x' * 600}}


class Calls:
  """A module that notes its calls, and answers them."""

  def __init__(self, **answers):
    self.made, self._answers = [], answers

  def __getattr__(self, name):
    def call(*args, **kwargs):
      self.made.append((name, args, kwargs))
      return self._answers.get(name)

    return call

  def of(self, name):
    return [(args, kwargs) for n, args, kwargs in self.made if n == name]


def write(folder, names, resume_step=0):
  with progress.RunLog(
    folder, resume_step=resume_step, trackers=names, config=CONFIG
  ) as log:
    for step in range(resume_step, resume_step + 2):
      log.write(step, {'loss': 1.5, 'validation_ndcg@10': float('nan')})


def test_wandb_gets_the_numbers_and_goes_on_with_a_resumed_run(
  tmp_path, monkeypatch
):
  run = Calls()
  run.id = 'an_id'
  fake = Calls(init=run)
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  write(tmp_path / 'lm', ['wandb'])
  write(tmp_path / 'lm', ['wandb'], resume_step=1)
  first, second = (kwargs for _, kwargs in fake.of('init'))
  assert first['config'] == CONFIG and first['id'] is None
  assert first['name'] == f'{tmp_path.name}/lm'
  assert second['id'] == 'an_id' and second['resume'] == 'allow'
  logged = run.of('log')
  assert [kwargs['step'] for _, kwargs in logged] == [0, 1, 1, 2]
  assert logged[0][0][0]['loss'] == 1.5
  assert len(run.of('finish')) == 2
  assert not (tmp_path / 'lm' / 'tensorboard').exists()


def test_mlflow_gets_names_and_settings_that_it_takes(tmp_path, monkeypatch):
  run = types.SimpleNamespace(info=types.SimpleNamespace(run_id='an_id'))
  fake = Calls(start_run=run)
  monkeypatch.setitem(sys.modules, 'mlflow', fake)
  write(tmp_path, ['mlflow', 'tensorboard'])
  write(tmp_path, ['mlflow'], resume_step=2)
  assert [k['run_id'] for _, k in fake.of('start_run')] == [None, 'an_id']
  ((settings,), _), *others = fake.of('log_params')
  assert not others  # They stand as the run began.
  assert settings['seed'] == '3' and settings['model.widths'] == '[64, 32]'
  assert len(settings['model.note']) == 500
  (values,), options = fake.of('log_metrics')[0]
  assert set(values) == {'loss', 'validation_ndcg_10'}
  assert options == {'step': 0, 'run_id': 'an_id', 'synchronous': False}
  assert len(fake.of('end_run')) == len(fake.of('flush_async_logging')) == 2
  assert (tmp_path / 'tensorboard').exists()


def test_a_tracker_that_fails_does_not_end_the_run(
  tmp_path, monkeypatch, caplog
):
  class Gone(Calls):
    def log(self, *args, **kwargs):
      raise ConnectionError('no route')

  run = Gone()
  run.id = 'an_id'
  monkeypatch.setitem(sys.modules, 'wandb', Calls(init=run))
  write(tmp_path, ['wandb'])
  assert len(progress.read_metrics(tmp_path / 'metrics.jsonl')) == 2
  (told,) = [
    r.getMessage() for r in caplog.records if 'wandb' in r.getMessage()
  ]
  assert 'no route' in told and 'metrics.jsonl' in told


def test_a_tracker_that_cannot_begin_is_named(tmp_path, monkeypatch):
  def init(**kwargs):
    raise ValueError('No API key configured.')

  fake = types.SimpleNamespace(init=init)
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  with pytest.raises(RuntimeError, match='trackers=wandb.*No API key.*Log in'):
    write(tmp_path, ['wandb'])


def test_what_is_not_there_is_refused_with_the_way_to_get_it(monkeypatch):
  trackers.check(['tensorboard'])
  with pytest.raises(ValueError, match='neptune unknown; use some of tensorbo'):
    trackers.check(['neptune'])
  monkeypatch.setitem(trackers.PACKAGES, 'wandb', 'no_such_wandb')
  with pytest.raises(ValueError, match='run `pip install no_such_wandb`'):
    trackers.check(['tensorboard', 'wandb'])


@pytest.mark.parametrize('text', ['10', '5:5', '7:3', 'a:b', ':4'])
def test_steps_of_a_profile_are_a_range(text):
  with pytest.raises(ValueError, match=f'profile_steps={text}: needed'):
    watch.steps_of(text)
  assert watch.steps_of('') is None
  assert watch.steps_of('10:15') == (10, 15)


def test_a_profile_of_some_steps_is_written_once(tmp_path, monkeypatch):
  made = []
  for name in ('start_trace', 'stop_trace'):
    monkeypatch.setattr(
      jax.profiler, name, lambda *args, name=name: made.append((name, *args))
    )
  with watch.Profile(tmp_path, (3, 5)) as profile:
    for num_done in range(8):
      profile.see(num_done)
      made.append(num_done)
  start = ('start_trace', str(tmp_path / 'profile'))
  assert made == [0, 1, start, 2, 3, 4, ('stop_trace',), 5, 6, 7]


def test_a_run_resumed_behind_its_profile_is_told(tmp_path, caplog):
  with watch.Profile(tmp_path, (3, 5)) as profile:
    for num_done in (7, 8):
      profile.see(num_done)
  told = [r.getMessage() for r in caplog.records]
  assert told == ['No profile: the run had no step of 3:5.']


@pytest.mark.slow
def test_jax_writes_a_profile(tmp_path):
  step = jax.jit(lambda x: x @ x)
  with watch.Profile(tmp_path, (1, 3)) as profile:
    for num_done in range(4):
      profile.see(num_done)
      step(jnp.ones((64, 64))).block_until_ready()
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # W&B's own.
def test_the_real_wandb_offline(tmp_path, monkeypatch):
  pytest.importorskip('wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  write(tmp_path, ['wandb'])
  (file,) = (tmp_path / 'wandb').glob('offline-run-*/run-*.wandb')
  deadline = time.monotonic() + 60  # Its own process writes, after `finish`.
  while b'validation_ndcg@10' not in file.read_bytes():
    assert time.monotonic() < deadline
    time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # MLflow's own.
def test_the_real_mlflow_in_a_file(tmp_path, monkeypatch):
  mlflow = pytest.importorskip('mlflow')
  uri = f'sqlite:///{tmp_path}/mlflow.db'
  mlflow.set_tracking_uri(uri)
  monkeypatch.chdir(tmp_path)
  write(tmp_path / 'run', ['mlflow'])
  write(tmp_path / 'run', ['mlflow'], resume_step=2)
  (run,) = mlflow.MlflowClient(uri).search_runs(['0'])
  history = mlflow.MlflowClient(uri).get_metric_history(run.info.run_id, 'loss')
  assert [(m.step, m.value) for m in history] == [(s, 1.5) for s in range(4)]
  assert run.data.params['seed'] == '3'
