# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The census on recorded lines of XLA's text, one for each form it takes."""

import pytest

from antjax.plan import census, hlo_text

MESH = {'inter': 2, 'intra': 4}
LIST_INTRA = '{{0,1,2,3},{4,5,6,7}}'
LIST_INTER = '{{0,4},{1,5},{2,6},{3,7}}'
HEADER = 'HloModule jit_step, is_scheduled=true, num_partitions=8\n'
# Of a program for 2 slices of v5e:2x2, jaxlib 0.10.2 and libtpu 0.0.52.
TRANSFER = (
  '_xla_host_transfer_handler_name="xla_megascale_runtime",'
  '_xla_host_transfer_rendezvous="%s",%s_xla_megascale_target=%s,'
  '_xla_megascale_transfer_type="%s"'
)


def entry(*lines, header=HEADER):
  body = '\n'.join(f'  {line}' for line in lines)
  return f'{header}\nENTRY %main.1 (p: f32[8]) -> f32[8] {{\n{body}\n}}\n'


def only(*lines, mesh=MESH, header=HEADER):
  (found,) = census.collectives(entry(*lines, header=header), mesh)
  return found


@pytest.mark.parametrize(
  'groups, axis',
  [
    (LIST_INTRA, 'intra'),
    (LIST_INTER, 'inter'),
    ('{{0,1,2,3,4,5,6,7}}', 'both'),
    ('{}', 'both'),
    ('{{0,1},{2,3},{4,5},{6,7}}', 'other'),
    ('{{0,5},{1,4},{2,6},{3,7}}', 'other'),
    ('[2,4]<=[8]', 'intra'),
    ('[4,2]<=[2,4]T(1,0)', 'inter'),
    ('[1,8]<=[8]', 'both'),
    ("mesh['a'=2,'b'=4] {'b'}", 'intra'),
    ("mesh['a'=2,'b'=4] {'a'}", 'inter'),
    ("mesh['a'=2,'b'=4] {'b','a'}", 'both'),
    ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", 'inter'),
    ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", 'intra'),
    ("mesh['a'=4,'b'=2], device_ids=(0,4,1,5,2,6,3,7) {'b'}", 'inter'),
    (
      "mesh['axis_0'=1,'axis_1'=8], device_ids=([2,4]T(1,0)) {'axis_1'}",
      'both',
    ),
  ],
)
def test_axis_from_each_form_of_replica_groups(groups, axis):
  found = only(
    '%ar = f32[32]{0} all-reduce(%p), channel_id=1,'
    f' replica_groups={groups}, use_global_device_ids=true, to_apply=%add'
  )
  assert found.axis == axis


def test_unknown_groups_are_an_error_not_a_guess():
  with pytest.raises(ValueError, match='cannot read the replica groups'):
    only("%a = f32[8] all-reduce(%p), replica_groups=mesh['a'=8] {'a':(1)2}")


@pytest.mark.parametrize(
  'op, result, groups, num_bytes, intra, inter',
  [
    ('all-gather', 'f32[32,64]{0,1}', LIST_INTRA, 8192, 6144, 0),
    ('all-gather', 'f32[32,64]{0,1}', LIST_INTER, 8192, 0, 4096),
    ('all-gather', 'f32[32,64]{0,1}', '{}', 8192, 6144, 1024),
    ('reduce-scatter', 'f32[32,16]{0,1}', LIST_INTRA, 8192, 6144, 0),
    ('reduce-scatter', 'bf16[32,8]{0,1}', LIST_INTER, 1024, 0, 512),
    ('all-reduce', 'f32[32,64]{1,0}', LIST_INTRA, 8192, 12288, 0),
    ('all-reduce', 'f32[32,64]{1,0}', '{}', 8192, 12288, 2048),
    ('all-to-all', 'f32[32,64]{1,0}', LIST_INTER, 8192, 0, 4096),
    # Combined ones have a tuple for a result.
    ('all-reduce', '(f32[], f32[], bf16[3]{0})', LIST_INTER, 14, 0, 14),
    (
      *('all-gather', '(f32[32]{0}, /*index=1*/bf16[64]{0:T(8,128)(2,1)})'),
      *(LIST_INTRA, 256, 192, 0),
    ),
    ('reduce-scatter', '(f32[8]{0}, f32[4]{0})', LIST_INTRA, 192, 144, 0),
    ('all-reduce', 'pred[64]{0}', LIST_INTER, 64, 0, 64),
    # Asynchronous ones name their operands too.
    (
      *('all-gather-start', '(f32[8,4]{1,0}, f32[32,4]{1,0})', LIST_INTRA),
      *(512, 384, 0),
    ),
    (
      'all-gather-start',
      '((f32[8]{0}, s8[8]{0}), (f32[32]{0}, s8[32]{0}))',
      *(LIST_INTRA, 160, 120, 0),
    ),
    ('all-reduce-start', 'f32[32]{0:T(128)S(1)}', LIST_INTER, 128, 0, 128),
    ('all-reduce-start', '(f32[32]{0}, f32[8]{0})', LIST_INTER, 160, 0, 160),
    (
      'reduce-scatter-start',
      '((f32[32]{0}), f32[8]{0}, u32[]{:S(2)})',
      *(LIST_INTRA, 128, 96, 0),
    ),
  ],
)
def test_bytes(op, result, groups, num_bytes, intra, inter):
  found = only(
    f'%x = {result} {op}(%p, %q), channel_id=1, replica_groups={groups},'
    ' dimensions={1}, use_global_device_ids=true, to_apply=%add'
  )
  assert found.kind == op.removesuffix('-start')
  assert found.num_bytes == num_bytes
  assert (found.intra_bytes, found.inter_bytes) == (intra, inter)


def test_done_and_update_do_not_count_again():
  groups = f'replica_groups={LIST_INTRA}'
  assert (
    only(
      f'%s = (f32[8]{{0}}, f32[32]{{0}}) all-gather-start(%p), {groups}',
      '%d = f32[32]{0} all-gather-done(%s)',
    ).name
    == 's'
  )


def test_an_all_reduce_that_names_its_operands_too_is_counted_once():
  found = only(
    '%c = ((f32[32]{0}), f32[32]{0}) all-reduce-start(%p),'
    ' replica_groups=[2,4]<=[8]',
    '%d = f32[32]{0} all-reduce-done(%c)',
  )
  assert (found.num_bytes, found.shapes) == (128, ((32,),))


def test_a_wrapped_asynchronous_collective_is_found_once():
  text = HEADER + (
    '\n%async_computation (p.1: f32[32]) -> f32[8] {\n'
    '  %p.1 = f32[32]{0} parameter(0)\n'
    '  ROOT %rs = f32[8]{0} reduce-scatter(%p.1), channel_id=1,'
    f' replica_groups={LIST_INTRA}, dimensions={{0}}, to_apply=%add\n'
    '}\n\n'
    'ENTRY %main (p: f32[32]) -> f32[8] {\n'
    '  %p = f32[32]{0} parameter(0)\n'
    '  %s = ((f32[32]{0}), f32[8]{0}, u32[]) async-start(%p),'
    ' calls=%async_computation\n'
    '  %u = ((f32[32]{0}), f32[8]{0}, u32[]) async-update(%s),'
    ' calls=%async_computation\n'
    '  ROOT %d = f32[8]{0} async-done(%u), calls=%async_computation\n'
    '}\n'
  )
  (found,) = census.collectives(text, MESH)
  assert (found.kind, found.num_bytes) == ('reduce-scatter', 128)


@pytest.mark.parametrize(
  'pairs, axis, intra, inter',
  [
    ('{{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}', 'intra', 128, 0),
    (
      '{{0,4},{1,5},{2,6},{3,7},{4,0},{5,1},{6,2},{7,3}}',
      *('inter', 0, 128),
    ),
    # The flat ring: 2 of 8 devices send to the other group.
    (
      '{{0,1},{1,2},{2,3},{3,4},{4,5},{5,6},{6,7},{7,0}}',
      *('both', 96, 32),
    ),
  ],
)
@pytest.mark.parametrize('is_async', [False, True])
def test_permutes(pairs, axis, intra, inter, is_async):
  op, result = 'collective-permute', 'f32[32]{0}'
  if is_async:
    op += '-start'
    result = '(f32[32]{0}, f32[32]{0:S(1)}, u32[]{:S(2)}, u32[]{:S(2)})'
  found = only(f'%c = {result} {op}(%p), source_target_pairs={pairs}')
  assert (found.kind, found.axis) == ('collective-permute', axis)
  assert (found.num_bytes, found.intra_bytes) == (128, intra)
  assert found.inter_bytes == inter


def test_a_permute_taken_apart_on_gpu():
  attributes = 'frontend_attributes={_xla_send_recv_source_target_pairs='
  found = only(
    '%s = (f32[32]{0}, u32[], token[]) send(%p, %t), channel_id=1,'
    f' {attributes}{{{{0,4}},{{4,0}}}}}}',
    '%r = (f32[32]{0}, u32[], token[]) recv(%t), channel_id=1,'
    f' {attributes}{{{{0,4}},{{4,0}}}}}}',
    '%sd = token[] send-done(%s), channel_id=1',
  )
  assert (found.kind, found.axis, found.is_dcn) == (
    *('collective-permute', 'inter'),
    False,
  )
  assert found.inter_bytes == 128 * 2 / 8


@pytest.mark.parametrize(
  'transfer, sent, received, kind, num_bytes, inter',
  [
    ('ALL_GATHER', 'f32[64,256]', 'f32[128,256]', 'all-gather', 131072, 65536),
    (
      *('REDUCE_SCATTER', 'f32[256,1,128]', 'f32[128,1,128]'),
      *('reduce-scatter', 131072, 65536),
    ),
    ('ALL_REDUCE', 'f32[32,8]', 'f32[32,8]', 'all-reduce', 1024, 1024),
    ('ALL_TO_ALL', 'f32[2,8]', 'f32[2,8]', 'all-to-all', 64, 32),
  ],
)
def test_host_transfers_between_slices(
  transfer, sent, received, kind, num_bytes, inter
):
  reduce = '_xla_megascale_reduce_operation="SUM",' * ('REDUCE' in transfer)
  attributes = TRANSFER % ('x_0', reduce, '"{1,2}x{0:3}"', transfer)
  other = TRANSFER % ('y_0', '', '"{1,2}x{0:3}"', transfer)
  found = census.collectives(
    entry(
      f'%s = ({sent}{{1,0:T(8,128)}}, u32[], token[]) send(%p, %t),'
      f' channel_id=3, frontend_attributes={{{attributes}}}',
      f'%r = ({received}{{1,0}}, u32[], token[]) recv(%t), channel_id=2,'
      f' frontend_attributes={{{attributes}}}',
      '%q = (f32[4096]{0}, u32[], token[]) recv(%t), channel_id=5,'
      f' frontend_attributes={{{other}}}',
      '%sd = token[] send-done(%s), channel_id=3',
      '%rd = (f32[8], token[]) recv-done(%r), channel_id=2',
      header='HloModule jit_step, num_partitions=4\n',
    ),
    MESH,
  )
  assert [(c.kind, c.axis, c.is_dcn) for c in found] == [(kind, 'inter', True)]
  assert (found[0].num_bytes, found[0].inter_bytes) == (num_bytes, inter)


def test_a_permute_between_slices():
  target = '{{100003->200000},{200003->100000}}'
  attributes = TRANSFER % ('x_0', '', target, 'ONE_TO_ONE')
  found = only(
    '%s = (f32[32]{0}, u32[], token[]) send(%p, %t), channel_id=3,'
    f' frontend_attributes={{{attributes}}}',
    header='HloModule jit_step, num_partitions=4\n',
  )
  assert found.inter_bytes == 128 * 2 / 8


def test_an_unknown_transfer_is_an_error():
  attributes = TRANSFER % ('x_0', '', '"{1,2}x{0:3}"', 'TELEPORT')
  with pytest.raises(ValueError, match='TELEPORT'):
    only(
      '%s = (f32[32]{0}, u32[], token[]) send(%p, %t), channel_id=3,'
      f' frontend_attributes={{{attributes}}}'
    )


def test_axes_inside_a_slice_of_several_groups():
  mesh = {'inter': 4, 'intra': 4}  # 2 slices of 2 groups each.
  found = only(
    '%a = f32[32]{0} all-gather(%p), replica_groups={{0,4},{1,5},{2,6},{3,7}}',
    mesh=mesh,
  )
  assert found.axis == 'inter'
  assert found.inter_bytes == 64


def test_a_mesh_that_does_not_fit():
  with pytest.raises(ValueError, match='8 partitions'):
    only('%a = f32[32] all-reduce(%p)', mesh={'inter': 1, 'intra': 6})


def nested(outer_condition, outer_attributes=''):
  return HEADER + (
    '\n%layer (w: (s32[], f32[8])) -> (s32[], f32[8]) {\n'
    f'  %g = f32[32]{{0}} all-gather(%x), replica_groups={LIST_INTRA}\n'
    '}\n\n'
    '%layer_condition (w: (s32[], f32[8])) -> pred[] {\n'
    '  %constant.1 = s32[]{:T(128)} constant(12), metadata={op_name="n"}\n'
    '  %i = s32[]{:T(128)} get-tuple-element(%w), index=0\n'
    '  ROOT %lt = pred[]{:T(512)} compare(%i, %constant.1), direction=LT\n'
    '}\n\n'
    '%micro_batch (w: (s32[], f32[8])) -> (s32[], f32[8]) {\n'
    '  %while.1 = (s32[], f32[8]{0}) while(%t), condition=%layer_condition,'
    ' body=%layer\n'
    '  %f = f32[8]{0} fusion(%y), kind=kCustom, calls=%fused\n'
    '}\n\n'
    '%fused (q: f32[32]) -> f32[8] {\n'
    f'  ROOT %r = f32[8]{{0}} reduce-scatter(%q), replica_groups={LIST_INTRA},'
    ' to_apply=%add\n'
    '}\n\n'
    f'%condition (w: (s32[], f32[8])) -> pred[] {{\n{outer_condition}\n}}\n\n'
    'ENTRY %main (p: f32[8]) -> f32[8] {\n'
    '  %while.2 = (s32[], f32[8]{0}) while(%t), condition=%condition,'
    f' body=%micro_batch{outer_attributes}\n'
    f'  ROOT %e = f32[8]{{0}} all-reduce(%z), replica_groups={LIST_INTER}\n'
    '}\n'
  )


def test_a_kernel_whose_metadata_break_the_line():
  # As libtpu writes those of a Pallas kernel.
  text = entry(
    '%k.1 = f32[8]{0} custom-call(%p), custom_call_target="tpu_custom_call",'
    ' frontend_attributes={kernel_metadata={',
    '%ar = f32[32]{0} all-reduce(%k.1), channel_id=1,'
    f' replica_groups={LIST_INTRA}, use_global_device_ids=true, to_apply=%add',
  )
  broken = '"xprof_metadata":"{\\"block_q\\": 512}"\n}}, metadata={}\n'
  text = text.replace('kernel_metadata={\n', 'kernel_metadata={\n' + broken)
  (found,) = census.collectives(text, MESH)
  assert found.kind == 'all-reduce'


def test_loops_and_their_trip_counts():
  known = ', backend_config={"known_trip_count":{"n":"5"}}'
  gather, scatter, reduce = census.collectives(nested('', known), MESH)
  assert (gather.loops, scatter.loops, reduce.loops) == ((5, 12), (5,), ())
  assert gather.in_loop and scatter.in_loop and not reduce.in_loop
  assert [c.num_runs() for c in (gather, scatter, reduce)] == [60, 5, 1]
  assert gather.intra_bytes == scatter.intra_bytes == 96
  assert reduce.inter_bytes == 32


def test_a_loop_of_unknown_count():
  dynamic = '  ROOT %lt = pred[] compare(%i, %n), direction=LT'
  found = census.collectives(nested(dynamic), MESH)
  assert found[0].loops == (None, 12)
  assert found[0].num_runs(unknown=3) == 36


def test_both_branches_of_a_conditional_count():
  text = HEADER + (
    '\n%yes (p.1: f32[8]) -> f32[8] {\n'
    f'  ROOT %a = f32[8]{{0}} all-reduce(%p.1), replica_groups={LIST_INTER}\n'
    '}\n\n'
    '%no (p.2: f32[8]) -> f32[8] {\n'
    '  ROOT %b = f32[8]{0} negate(%p.2)\n'
    '}\n\n'
    'ENTRY %main (p: f32[8]) -> f32[8] {\n'
    '  ROOT %c = f32[8]{0} conditional(%i, %p, %p),'
    ' branch_computations={%no, %yes}\n'
    '}\n'
  )
  assert [c.name for c in census.collectives(text, MESH)] == ['a']


def test_a_chain_of_fusions_is_one_collective():
  # TPU cuts an asynchronous all-gather up and fuses its parts with other work.
  def part(i, chain):
    return (
      f'%fused.{i} (p.{i}: f32[8]) -> f32[32] {{\n'
      f'  %g.{i} = f32[32]{{0}} all-gather(%p.{i}), channel_id=53,'
      f' replica_groups={LIST_INTRA}, dimensions={{0}},'
      f' frontend_attributes={{chain_id="{chain}"}}\n'
      '}\n\n'
    )

  text = (
    HEADER
    + '\n'
    + part(0, 5)
    + part(1, 5)
    + part(2, 6)
    + 'ENTRY %main (p: f32[8]) -> f32[32] {\n'
    + ''.join(
      f'  %f.{i} = f32[32] fusion(%p), kind=kCustom, calls=%fused.{i}\n'
      for i in range(3)
    )
    + '}\n'
  )
  assert [c.name for c in census.collectives(text, MESH)] == ['g.0', 'g.2']


def test_elements_of_nested_tuples():
  assert hlo_text.elements(
    '((f32[2,3]{1,0}, s8[]), f32[4]{0:T(8)}, u32[])'
  ) == [
    '(f32[2,3]{1,0}, s8[])',
    ' f32[4]{0:T(8)}',
    ' u32[]',
  ]
