# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/compile_for_pod: each code's step, compiled for two TPU slices."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from antjax.jobs import compile_for_pod, plan_models
from antjax.mesh.paro import ELASTIC_CODES, VALID_CODES
from tests.plan import census_test

ROOT = pathlib.Path(__file__).parents[2]
TOY = 'tests.jobs.toy_model:model'
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='needs the TPU compiler: pip install libtpu',
)


def config(**kwargs):
  settings = {'topology': 'v5e:2x2', 'model': TOY, 'sequences': 8}
  return compile_for_pod.Config(**settings | kwargs)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize('code', VALID_CODES)
def test_every_code_on_two_slices_is_as_planned(code):
  result = compile_for_pod.report(config(paro=code))
  assert result['mesh'] == [2, 4]
  lines = [line for line in result['lines'] if line['planned']]
  in_loop, at_end = census_test.expected(code)
  for place, wanted in ((True, in_loop), (False, at_end)):
    found = {
      (line['kind'], line['axis']) for line in lines if line['in_loop'] == place
    }
    assert found == set(wanted)
  assert result['equals_plan']
  for line in result['lines']:
    # What goes between groups goes over the network between slices.
    assert line['is_dcn'] == (line['axis'] == 'inter')
  assert result['crosses_groups_in_loop'] == (code not in ELASTIC_CODES)
  # The compiler's account of the state, but for the batch and tiles.
  arguments = result['memory_bytes']['arguments']
  assert arguments == pytest.approx(result['planned_state_bytes'], rel=0.1)


@needs_libtpu
@pytest.mark.slow
def test_one_micro_batch_and_layers_kept():
  result = compile_for_pod.report(
    config(paro='IIG', num_micro_batches=1, regather=False)
  )
  assert result['equals_plan']


@needs_libtpu
@pytest.mark.slow
def test_groups_smaller_than_a_slice():
  result = compile_for_pod.report(config(paro='IIG', intra=2))
  assert result['mesh'] == [4, 2]
  assert not result['is_comparable']
  assert not result['crosses_groups_in_loop']


@needs_libtpu
@pytest.mark.slow
def test_as_a_user_runs_it(tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'launch.compile_for_pod', '--topology=v5e:2x2'),
      *('--num_slices=2', '--paro=NIG', f'--model={TOY}', f'--out={tmp_path}'),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  assert 'The compiled step equals the plan.' in done.stdout
  assert 'DCN' in done.stdout
  saved = json.loads((tmp_path / 'report.json').read_text())
  assert saved['paro'] == 'NIG' and saved['equals_plan']
  text = (tmp_path / 'step_NIG.hlo.txt').read_text()
  assert '_xla_megascale_transfer_type="REDUCE_SCATTER"' in text


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
  'topology', ['v4:2x2x1', 'v5p:2x2x1', 'v5e:2x2', 'v6e:2x2']
)
def test_slices_of_each_generation_make_groups(topology):
  compile_for_pod.prepare()
  chips = compile_for_pod.devices(topology, 2)
  mesh = compile_for_pod.mesh_lib.make_mesh(intra=4, devices=chips)
  assert mesh.devices.shape == (2, 4)
  for number, group in enumerate(mesh.devices):
    assert {chip.slice_index for chip in group} == {number}


@needs_libtpu
@pytest.mark.slow
def test_a_code_that_xla_has_changed_is_seen():
  # Compiled as one code, compared with another: the plan must not fit.
  layout, compiled = compile_for_pod.compile_step(
    config(paro='NII'), plan_models.load(TOY)
  )
  other, _ = compile_for_pod.compile_step(
    config(paro='NIG'), plan_models.load(TOY)
  )
  found = compile_for_pod.census.collectives(
    compiled.as_text(), layout.mesh.shape
  )
  lines = compile_for_pod.plan_check.compare(other, found, num_micro_batches=4)
  assert not all(line.is_equal for line in lines)


def test_without_libtpu_one_sentence_says_what_to_do(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(RuntimeError, match='pip install libtpu'):
    compile_for_pod.report(config())


def test_a_libtpu_that_does_not_load_is_named_as_that(monkeypatch):
  def refuse(**kwargs):
    raise RuntimeError(f'cannot open shared object ({kwargs["platform"]})')

  monkeypatch.setattr(compile_for_pod.topologies, 'get_topology_desc', refuse)
  with pytest.raises(RuntimeError, match='does not load: cannot open'):
    compile_for_pod.devices('v5e:2x2', 2)


@needs_libtpu
def test_slices_that_are_none_are_named():
  compile_for_pod.prepare()
  with pytest.raises(ValueError, match='knows no such slices'):
    compile_for_pod.devices('v5e:3x5', 2)


def test_an_unknown_model_names_the_known():
  with pytest.raises(ValueError, match='llama-7b'):
    plan_models.load('gpt-9')


def test_a_model_without_a_loss_cannot_be_compiled():
  shapes = plan_models.load('tests.jobs.toy_model:only_shapes')
  with pytest.raises(ValueError, match='loss_fn'):
    compile_for_pod.compile_step(config(), shapes)


@pytest.mark.parametrize(
  'kwargs', [{'paro': 'NIN'}, {'num_slices': 0}, {'seq_len': 0}]
)
def test_bad_flags(kwargs):
  with pytest.raises(ValueError):
    config(**kwargs)
