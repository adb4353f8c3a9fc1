# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a schedule hides, read from forms that compilers write."""

import collections
import gzip
import pathlib
import re

import pytest

from antjax.plan import census, plan_check

MESH = {'inter': 2, 'intra': 4}
INSIDE = 'replica_groups=[2,4]<=[8], dimensions={0}'
# Of `compile_for_pod --model=tests.jobs.toy_model:twelve --sequences=512
# --num_micro_batches=8`, December 2026, cut to collectives, products and loops.
COMPILED = pathlib.Path(__file__).parent / 'compiled'
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


def compiled(name):
  return gzip.decompress((COMPILED / f'{name}.hlo.gz').read_bytes()).decode()


@pytest.mark.parametrize(
  ('name', 'num_hidden', 'num_exposed', 'intra', 'inter'),
  [
    ('v6e_NIG', 5, 15, 0.0986, 1.0),
    ('h100_IIG_early_late', 52, 27, 0.0577, 0.2088),
  ],
)
def test_exposure_of_compiled_steps(
  name, num_hidden, num_exposed, intra, inter
):
  text = compiled(name)
  found = census.collectives(text, MESH)
  count = collections.Counter(c.is_hidden for c in found)
  assert (count[True], count[False]) == (num_hidden, num_exposed)
  shares = {k: x.share for k, x in plan_check.exposure(found).items()}
  assert shares == pytest.approx({'intra': intra, 'inter': inter}, abs=1e-4)
  # Nothing that each layer of each micro-batch moves is waited for.
  assert all(c.is_hidden for c in found if len(c.loops) == 2)
  # Without products nothing is hidden, whatever starts early.
  idle = re.sub(r'(__cublas|__cudnn|__triton|tpu_custom_call)', 'other', text)
  idle = re.sub(r' (dot|convolution)\(', ' add(', idle)
  assert not any(c.is_hidden for c in census.collectives(idle, MESH))


def test_what_is_exposed_in_a_step_of_nig_for_v6e():
  found = census.collectives(compiled('v6e_NIG'), MESH)
  names = [(c.name, c.axis, c.loops) for c in found if not c.is_hidden]
  in_loop = [x[0] for x in names if x[2]]
  # The first layer's gradient, a single instruction, and the embedding's.
  assert in_loop == ['reduce-scatter.54', 'reduce-scatter.55']
  # All that crosses slices, and the updated parameters inside them.
  assert len([x for x in names if x[1] == 'inter']) == 8
  assert {'all-gather.13', 'all-gather.14'} <= {x[0] for x in names}
