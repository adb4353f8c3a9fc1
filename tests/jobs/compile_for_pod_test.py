# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/compile_for_pod: each code's step, compiled for TPUs and GPUs."""

import dataclasses
import importlib.util
import json
import re

import numpy as np
import pytest

from antjax.jobs import compile_for_pod, plan_models, pod_models
from antjax.mesh.paro import ELASTIC_CODES, VALID_CODES
from antjax.plan import pod_target
from antjax.plan.pod_target import Target
from tests.jobs import processes
from tests.plan import census_test

TOY = 'tests.jobs.toy_model:model'
needs_libtpu = pytest.mark.skipif(
  not pod_target.is_installed('libtpu'),
  reason='needs the TPU compiler: pip install libtpu',
)
needs_cuda = pytest.mark.skipif(
  not pod_target.is_installed('jax_plugins.xla_cuda13'),
  reason="needs XLA's compiler for GPUs: pip install antjax[pod_gpu]",
)
V6E, H100 = 'v6e:2x2', 'h100:2x4'
both_kinds = pytest.mark.parametrize(
  'topology',
  [pytest.param(V6E, marks=needs_libtpu), pytest.param(H100, marks=needs_cuda)],
)


def config(**kwargs):
  settings = {'topology': 'v5e:2x2', 'model': TOY, 'sequences': 8}
  return compile_for_pod.Config(**settings | kwargs)


# All jobs and codes: tests/plan/pods_test.py.
@pytest.mark.parametrize(
  ('topology', 'code'),
  [
    pytest.param(V6E, 'IIG', marks=needs_libtpu),
    pytest.param(H100, 'IIG', marks=needs_cuda),
    *(
      pytest.param('v5e:2x2', code, marks=[needs_libtpu, pytest.mark.slow])
      for code in VALID_CODES
    ),
  ],
)
def test_a_code_on_two_slices_or_hosts_is_as_planned(topology, code):
  result = compile_for_pod.report(config(paro=code, topology=topology))
  assert result['mesh'] == [2, 4]
  lines = [line for line in result['lines'] if line['planned']]
  in_loop, at_end = census_test.expected(code)
  for place, wanted in ((True, in_loop), (False, at_end)):
    found = {
      (line['kind'], line['axis']) for line in lines if line['in_loop'] == place
    }
    assert found == set(wanted)
  assert result['equals_plan'] and min(result['timeline'].values()) > 0
  assert result['crosses_groups_in_loop'] == (code not in ELASTIC_CODES)
  if topology == H100:
    networks = {'intra': 'NVLink', 'inter': 'fabric', 'both': 'NVLink, fabric'}
    assert result['networks'] == networks and result['fits']
    return
  for line in result['lines']:
    # What goes between groups goes over the network between slices.
    assert line['is_dcn'] == (line['axis'] == 'inter')
  # The compiler's account of the state, but for the batch and tiles.
  arguments = result['memory_bytes']['arguments']
  assert arguments == pytest.approx(result['planned_state_bytes'], rel=0.1)


@pytest.mark.slow
@both_kinds
def test_the_step_of_dlrm_is_as_planned(topology):
  result = compile_for_pod.report(
    config(topology=topology, model='dlrm', sequences=2)
  )
  assert result['equals_plan'] and result['fits']
  assert not result['crosses_groups_in_loop']


@pytest.mark.parametrize('job', ['tiny', 'bahe', 'llm_rec'])
def test_a_job_runs_its_stack_once(job):
  # Else the step is refused: see `layer_piece.OneUse`.
  settings = config(model=job, sums_dtype='int8', sequences=2, seq_len=64)
  settings = dataclasses.replace(settings, early_sums=True, late_params=True)
  mesh = compile_for_pod.mesh_lib.make_mesh(intra=4)
  _, layout, lowered = compile_for_pod.lower_step(settings, mesh)
  assert layout.late_params and lowered.as_text()


# Kernels of attention in compiled text, and parts of their names.
_KERNELS = {
  H100: (r'__cudnn\$fmha\w*', ['Softmax', 'SoftmaxBackward']),
  V6E: (r'splash_mha_\w+', ['fwd', 'dq', 'dkv']),
}


@pytest.mark.slow
@both_kinds
@pytest.mark.parametrize('job', ['tiny', 'llm_rec'])
def test_attention_is_a_fused_kernel_in_the_step_of_language_models(
  job, topology
):
  settings = config(topology=topology, model=job, sequences=2, seq_len=256)
  if topology == H100 and not pod_target.is_installed('nvidia.cudnn'):
    pytest.skip('needs the wheel nvidia-cudnn-cu13 (antjax[pod_gpu])')
  pod_models.prepare(settings.target)
  text = compile_for_pod.compile_step(settings)[2].as_text()
  pattern, parts = _KERNELS[topology]
  names = set(re.findall(pattern, text))
  for part in parts:
    assert any(part in name for name in names), names


@pytest.mark.slow
@needs_cuda
@pytest.mark.skipif(
  not pod_target.is_installed('nvidia.cudnn'), reason='needs antjax[pod_gpu]'
)
@pytest.mark.parametrize(
  ('job', 'mask'),
  [
    ('bahe', 'CAUSAL'),
    ('tests.jobs.toy_model:padded', 'PADDING'),
    ('tests.jobs.toy_model:masked', 'NO_MASK'),
  ],
)
def test_padding_behind_texts_needs_no_mask_of_cudnn(job, mask):
  settings = config(topology=H100, model=job, sequences=2, seq_len=256)
  pod_models.prepare(settings.target)
  text = compile_for_pod.compile_step(settings)[2].as_text()
  assert set(re.findall(r'mask_type": "(\w+)"', text)) == {mask}
  assert ('fmhaScaleBiasSoftmax' in text) == (mask == 'NO_MASK')


# (pod, code) -> most that may be exposed inside groups and between them.
_EXPOSED = {
  (H100, 'IIG'): (0.06, 0.23),
  (H100, 'NIG'): (0.10, 0.23),
  (V6E, 'IIG'): (0.37, 0.06),
}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('topology', 'code'),
  [
    pytest.param(*key, marks=needs_cuda if key[0] == H100 else needs_libtpu)
    for key in _EXPOSED
  ],
)
def test_most_bytes_travel_beside_products(topology, code):
  twelve = {
    'model': 'tests.jobs.toy_model:twelve',
    'sequences': 512,
    'num_micro_batches': 8,
    'early_sums': True,
    'late_params': True,
  }
  result = compile_for_pod.report(
    config(paro=code, topology=topology, **twelve)
  )
  assert result['equals_plan'] and not result['crosses_groups_in_loop']
  found = tuple(
    result['exposure'][axis]['share'] for axis in ('intra', 'inter')
  )
  assert all(x <= most for x, most in zip(found, _EXPOSED[topology, code]))


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8'])
def test_groups_smaller_than_a_host_of_gpus(dtype):
  settings = config(topology=H100, intra=2, sums_dtype=dtype)
  result = compile_for_pod.report(settings)
  assert result['mesh'] == [4, 2]
  assert result['networks']['inter'] == 'NVLink, fabric'
  assert result['is_comparable'] and result['equals_plan']


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
  done = processes.run(
    *('-m', 'launch.compile_for_pod', '--topology=v5e:2x2', '--num_slices=2'),
    *('--paro=NIG', f'--model={TOY}', f'--out={tmp_path}'),
  )
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
  target = Target.of(topology, 2)
  pod_models.prepare(target)
  chips = target.devices()
  mesh = compile_for_pod.mesh_lib.make_mesh(intra=4, devices=chips)
  assert mesh.devices.shape == (2, 4)
  for number, group in enumerate(mesh.devices):
    assert {chip.slice_index for chip in group} == {number}


@needs_libtpu
@pytest.mark.slow
def test_a_code_that_xla_has_changed_is_seen():
  # Compiled as one code, compared with another: the plan must not fit.
  _, layout, compiled = compile_for_pod.compile_step(config(paro='NII'))
  _, other, _ = compile_for_pod.compile_step(config(paro='NIG'))
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

  monkeypatch.setattr(pod_target.topologies, 'get_topology_desc', refuse)
  with pytest.raises(RuntimeError, match='does not load: cannot open'):
    Target.of('v5e:2x2').devices()


@needs_libtpu
def test_slices_that_are_none_are_named():
  target = Target.of('v5e:3x5')
  pod_models.prepare(target)
  with pytest.raises(ValueError, match='knows no such slices'):
    target.devices()


def test_without_the_gpu_compiler_one_sentence_says_what_to_do(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(RuntimeError, match=r'pip install antjax\[pod_gpu\]'):
    compile_for_pod.report(config(topology='h100'))


@dataclasses.dataclass
class _Device:
  process_index: int
  slice_index: int


@pytest.mark.parametrize(
  ('topology', 'shape', 'networks'),
  [
    ('h100:2x4', (2, 4), ('NVLink', 'fabric')),
    ('h100:2x4', (1, 8), ('NVLink, fabric', 'NVLink')),
    ('h100:2x4', (4, 2), ('NVLink', 'NVLink, fabric')),
    ('gb200:2x4', (1, 8), ('NVLink', 'NVLink')),
    ('v5e:2x4', (2, 4), ('ICI', 'ICI')),
  ],
)
def test_networks_of_an_axis_are_told_from_its_devices(
  topology, shape, networks
):
  devices = np.array([_Device(i // 4, 0) for i in range(8)]).reshape(shape)
  found = Target.of(topology).networks(devices)
  assert (found['intra'], found['inter']) == networks


@pytest.mark.parametrize('kind', pod_target.NAMES)
def test_each_kind_has_a_usual_shape_and_a_memory(kind):
  target = Target.of(kind)
  assert target.device_bytes > 10 * 2**30
  assert target.group_size > 1


@pytest.mark.parametrize(
  ('topology', 'num_slices', 'needed'),
  [
    ('h300:2x8', None, 'known are v4, v5e'),
    ('h100:8', None, 'hosts x GPUs, as h100:4x8'),
    ('h100:2x8', 2, 'leave num_slices out'),
  ],
)
def test_pods_that_are_none_are_refused(topology, num_slices, needed):
  with pytest.raises(ValueError, match=needed):
    config(topology=topology, num_slices=num_slices)


def test_an_unknown_model_names_the_known():
  with pytest.raises(ValueError, match='llama-7b'):
    plan_models.load('gpt-9')


def test_a_model_without_a_loss_cannot_be_compiled():
  only = config(model='tests.jobs.toy_model:only_shapes')
  with pytest.raises(ValueError, match='loss_fn'):
    compile_for_pod.load(only, None)


@pytest.mark.parametrize(
  'kwargs', [{'paro': 'NIN'}, {'num_slices': 0}, {'seq_len': 0}]
)
def test_bad_flags(kwargs):
  with pytest.raises(ValueError):
    config(**kwargs)
