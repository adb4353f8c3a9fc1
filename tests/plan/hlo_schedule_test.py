# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a schedule hides, read from forms that compilers write."""

import pytest

from antjax.plan import census, plan_check

MESH = {'inter': 2, 'intra': 4}
INSIDE = 'replica_groups=[2,4]<=[8], dimensions={0}'
HEADER = 'HloModule m, is_scheduled=true, num_partitions=8\n\n'
PRODUCT = '%d{} = f32[8,8]{{1,0}} dot(%x, %x), lhs_contracting_dims={{1}}'
GATHER = (
  '%g = (f32[8]{0}, f32[32]{0}) all-gather-start(%p), ' + INSIDE,
  '%h = f32[32]{0} all-gather-done(%g)',
)


def hidden(*lines, before=''):
  """Name -> whether it is hidden, of a program with these instructions."""
  body = '\n'.join(f'  {line}' for line in lines)
  text = HEADER + before + 'ENTRY %main (p: f32[8]) -> f32[8] {\n'
  found = census.collectives(f'{text}{body}\n}}\n', MESH)
  return {c.name: c.is_hidden for c in found}


def test_a_product_between_start_and_end_hides():
  start, done = GATHER
  product = PRODUCT.format(0)
  assert hidden(start, product, done) == {'g': True}
  assert hidden(start, done, product) == {'g': False}
  assert hidden(product, start, '%a = f32[8]{0} add(%p, %p)', done) == {
    'g': False
  }


def test_a_single_instruction_is_exposed():
  sync = '%g = f32[32]{0} all-gather(%p), ' + INSIDE
  assert hidden(PRODUCT.format(0), sync, PRODUCT.format(1)) == {'g': False}


@pytest.mark.parametrize(
  'kernel',
  [
    '%k = f32[8]{0} custom-call(%x), custom_call_target="__cublas$lt$matmul"',
    '%k = f32[8]{0} custom-call(%x), custom_call_target="__cudnn$fmhaSoftmax"',
    '%k = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call"',
    '%k = f32[8]{0} fusion(%x), kind=kOutput, calls=%product',
    '%k = f32[8]{0} while(%x), condition=%none, body=%product',
  ],
)
def test_products_of_each_form(kernel):
  start, done = GATHER
  product = (
    '%product (x: f32[8,8]) -> f32[8,8] {\n'
    '  %x = f32[8,8]{1,0} parameter(0)\n'
    '  ROOT %c = f32[8,8]{1,0} convolution(%x, %x), dim_labels=bf_io->bf\n'
    '}\n\n'
  )
  assert hidden(start, kernel, done, before=product) == {'g': True}


def test_a_transfer_between_slices_lasts_until_it_is_received():
  key = '_xla_host_transfer_rendezvous="psum.1"'
  kind = '_xla_megascale_transfer_type="ALL_REDUCE"'
  more = f'frontend_attributes={{{key},_xla_megascale_target="{{0,1}}x{{0:3}}"'
  more += f',{kind}}}'
  both = (
    f'%s = (f32[8,8]{{1,0}}, u32[], token[]) send(%p, %t), {more}',
    f'%r = (f32[8,8]{{1,0}}, u32[], token[]) recv(%t), {more}',
  )
  ends = (
    '%e = token[] send-done(%s), channel_id=1',
    '%f = (f32[8,8]{1,0}, token[]) recv-done(%r), channel_id=2',
  )
  assert hidden(*both, PRODUCT.format(0), *ends) == {'s': True}
  assert hidden(*both, *ends, PRODUCT.format(0)) == {'s': False}
  # Sent early, the other side's part taken late.
  assert hidden(*both, ends[0], PRODUCT.format(0), ends[1]) == {'s': True}


@pytest.mark.parametrize('is_beside', [True, False])
def test_a_part_of_a_chain_that_is_fused_with_a_product(is_beside):
  part = '%g{0} = f32[32]{{0}} all-gather(%x), ' + INSIDE.replace(
    '{0}', '{{0}}'
  )
  part += ', frontend_attributes={{chain_id="3"}}\n'
  before = '%alone (x: f32[8]) -> f32[32] {\n  ' + part.format(1) + '}\n\n'
  before += '%with (x: f32[8]) -> f32[32] {\n  ' + part.format(2)
  before += f'  {PRODUCT.format(0)}\n' * is_beside + '}\n\n'
  found = hidden(
    '%a = f32[32]{0} fusion(%p), kind=kCustom, calls=%alone',
    '%b = f32[32]{0} fusion(%a), kind=kCustom, calls=%with',
    before=before,
  )
  assert found == {'g1': is_beside}


def test_a_kernel_of_a_sparse_core_begins_when_it_gets_its_data():
  before = (
    '%core (x: f32[32]) -> f32[8] {\n'
    '  ROOT %r = f32[8]{0} reduce-scatter(%x), ' + INSIDE + '\n}\n\n'
  )
  start = '%s = () custom-call-start(), called_computations={%core}'
  update = '%u = () custom-call-update(%s, %p)'
  done = '%e = f32[8]{0} custom-call-done(%u)'
  product = PRODUCT.format(0)
  assert hidden(start, update, product, done, before=before) == {'r': True}
  assert hidden(start, product, update, done, before=before) == {'r': False}


def test_shares_are_of_bytes_and_of_each_axis():
  def gather(num_bytes, is_hidden, **sent):
    sent = {'intra_bytes': 0.0, 'inter_bytes': 0.0} | sent
    return census.Collective(
      *('all-gather', 'intra', (2,), num_bytes, num_bytes // 4, 'f32'),
      **sent,
      is_hidden=is_hidden,
    )

  found = plan_check.exposure(
    [
      gather(400, True, intra_bytes=300.0),
      gather(400, False, intra_bytes=100.0, inter_bytes=50.0),
    ]
  )
  assert (found['intra'].sent_bytes, found['intra'].share) == (800, 0.25)
  assert (found['inter'].sent_bytes, found['inter'].share) == (100, 1)
