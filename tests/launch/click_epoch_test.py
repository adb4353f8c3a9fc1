# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every click model learns from an epoch of real clicks: MovieLens-1M."""

import pathlib

import pytest

import antjax
from antjax.ctr.antm2c import scores
from antjax.ctr.antm2c.model import FieldConfig
from antjax.ctr.models import build
from antjax.input.behavior_examples import ExampleConfig
from launch import common, prepare_behaviors, script, train_antm2c

pytestmark = [
  pytest.mark.slow,
  # Of reading a checkpoint as it is.
  pytest.mark.filterwarnings('ignore:Sharding info not provided'),
]
# The plainest, lr, reaches .73.
_LEAST_AUC = 0.70


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp('clicks') / 'ml-1m'
  prepare_behaviors.main(
    prepare_behaviors.Config(
      out=str(out), examples=ExampleConfig(user_share=0.25)
    )
  )
  return out


# ESMM needs a second label, which these clicks do not have.
@pytest.mark.parametrize('model', [n for n in build.MODELS if n != 'esmm'])
def test_an_epoch_of_real_clicks(model, folder, tmp_path):
  config = train_antm2c.Config(
    data=str(folder),
    run_dir=str(tmp_path),
    model=model,
    scenario='age',
    scenario_groups=('1+18', '25', '35+45+50+56'),
    history='liked',
    max_history=8,
    num_epochs=1,
    batch_size=1024,
    fields=FieldConfig(learning_rate=0.01),
    score=scores.ScoreConfig(num_resamples=0),
    check_memory=False,
  )
  job = common.Job(
    antjax.make_mesh(intra=4),
    pathlib.Path(tmp_path),
    script.StopRequest(),
    config,
  )
  (result,) = train_antm2c.train(config, job)
  assert result.test[scores.ALL].metrics['AUC'].value > _LEAST_AUC
  for part in ('1+18', '25', '35+45+50+56'):
    assert (
      result.test[f'scenario/{part}'].metrics['AUC'].value > _LEAST_AUC - 0.03
    )
