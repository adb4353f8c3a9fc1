# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/plan: table, pick, files, models of one's own, measured links."""

import json
import os
import re

import pytest

from antjax.collectives import cost_model
from antjax.jobs import plan, plan_models
from antjax.mesh.paro import VALID_CODES
from antjax.plan import plan_report
from tests.jobs import processes

TOY = 'tests.jobs.toy_model'


def config(**kwargs):
  return plan.Config(**{'inter': 4, 'intra': 8} | kwargs)


def make(**kwargs):
  settings = config(**kwargs)
  return plan.make_plan(settings, plan.links_of(settings), 4, 8)


def test_presets_have_the_parameters_their_names_say():
  billions = {
    'llama-7b': 6.74,
    'llama-13b': 13.0,
    'llama-65b': 65.3,
    'llama-3-8b': 8.03,
    'smollm2-135m': 0.1345,
  }
  for name, expected in billions.items():
    found = plan_models.lm_cost.num_params(plan_models.PRESETS[name]) / 1e9
    assert found == pytest.approx(expected, rel=5e-3), name


def test_llama_7b_and_65b_on_80_gb():
  small = make(model='llama-7b', uplink_gbps=640)
  assert small.best.fits and small.row('IIG').fits
  large = make(model='llama-65b', uplink_gbps=640)
  assert not large.row('NNG').fits
  assert large.row('GGG').fits


def test_lora_is_the_trainable_share_and_ing_wins():
  found = make(model='llama-65b', lora_rank=16, device_gb=100, compute_s=0)
  full = make(model='llama-65b', compute_s=0)
  assert found.row('NNN').grads_bytes < 0.01 * full.row('NNN').grads_bytes
  # Latencies of many small scatters at every micro-batch: ING has none.
  assert found.best.code == 'ING'


def test_frozen_weights_save_one_pass_of_four():
  # Forward, forward again, gradients of activations; not those of weights.
  full, tuned = (
    plan_models.load('llama-7b', rank).flops_fn(2, 512) for rank in (0, 16)
  )
  assert tuned == pytest.approx(full * 3 / 4)


def test_links_in_units_of_the_flags():
  links = plan.links_of(
    config(intra_gbps=80, uplink_gbps=8, device_inter_gbps=4)
  )
  assert links.intra_bytes_per_s == 1e10
  assert links.uplink_bytes_per_s == 1e9
  assert links.device_inter_bytes_per_s == 5e8
  assert links.inter_latency_s == pytest.approx(20e-6)


def test_links_from_a_file_that_is_not_there():
  with pytest.raises(ValueError, match='links=nothere.json.*--measure writes'):
    make(links='nothere.json')


def test_links_from_a_file(tmp_path):
  links = cost_model.Links(1e9, 2e8)
  cost_model.save(links, tmp_path / 'links.json')
  assert plan.links_of(config(links=str(tmp_path / 'links.json'))) == links


@pytest.mark.parametrize('function', ['model', 'only_shapes'])
def test_a_model_of_ones_own(function):
  found = make(model=f'{TOY}:{function}', compute_s=0.01)
  assert tuple(row.code for row in found.rows) == VALID_CODES


def test_a_model_that_does_not_tell_its_operations():
  with pytest.raises(ValueError, match='give compute_s'):
    make(model=f'{TOY}:only_shapes')


@pytest.mark.parametrize(
  'model',
  [
    'nowhere.at_all:model',
    f'{TOY}:no_such_function',
    'json:loads',
    'os:getcwd',
  ],
)
def test_a_model_that_is_not_there(model):
  with pytest.raises(ValueError, match=re.escape(model)):
    make(model=model)


@pytest.mark.parametrize(
  'kwargs',
  [
    {'efficiency': 0.0},
    {'device_tflops': 0.0},
    {'seq_len': 0},
    {'inter': 2, 'intra': None},
    {'inter': 0},
    {'lora_rank': -1},
    {'device_gb': -5.0},
    {'compute_s': float('nan')},
    {'model': ''},
  ],
)
def test_bad_flags(kwargs):
  with pytest.raises(ValueError, match=next(iter(kwargs))):
    config(**kwargs)


def test_files(tmp_path):
  found = make(device_gb=24)
  paths = plan_report.write(found, tmp_path, {'model': '<llama>'})
  saved = json.loads(paths['plan.json'].read_text())
  assert saved['best'] == found.best.code
  assert [row['code'] for row in saved['rows']] == list(VALID_CODES)
  assert saved['rows'][0]['peak_bytes'] == found.rows[0].peak_bytes
  assert paths['frontier.png'].read_bytes().startswith(b'\x89PNG')
  page = paths['report.html'].read_text()
  assert '&lt;llama&gt;' in page and '<svg' in page
  for code in VALID_CODES:
    assert code in page
  assert '(too much)' in page


def test_a_plan_without_time_or_bound_can_be_drawn():
  found = make(model=f'{TOY}:model', compute_s=0, device_gb=0)
  assert plan_report.html(found, {})


def test_nothing_is_planned_for_the_one_device_at_hand(tmp_path):
  env = os.environ | {'JAX_NUM_CPU_DEVICES': '1'}
  flags = ('-m', 'launch.plan', f'--run_dir={tmp_path}/plan')
  done = processes.run(*flags, env=env, expect=1)
  assert 'Say which are meant' in done.stderr
  assert '--inter=4 --intra=8' in done.stderr
  assert not (tmp_path / 'plan').exists()


def test_as_a_user_runs_it(tmp_path):
  done = processes.run(
    *('-m', 'launch.plan', '--inter=4', '--intra=8', '--model=smollm2-135m'),
    *('--device_gb=16', f'--run_dir={tmp_path}'),
  )
  for code in VALID_CODES:
    assert code in done.stdout
  assert '<- pick' in done.stdout
  assert 'has the least' in done.stdout
  assert (tmp_path / 'plan.json').exists()


@pytest.mark.slow
def test_measured_links_are_read_again(tmp_path):
  processes.run(
    *('-m', 'launch.plan', '--measure', '--intra=4', '--model='),
    f'--run_dir={tmp_path}',
  )
  links = cost_model.load(tmp_path / 'links.json')
  assert links.intra_bytes_per_s > 0
  assert plan.links_of(config(links=str(tmp_path / 'links.json'))) == links
