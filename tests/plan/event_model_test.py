# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Seconds of a schedule, instruction by instruction."""

import gzip
import pathlib

import pytest

from antjax.collectives.cost_model import Cluster, Links
from antjax.plan import census, event_model, op_cost
from antjax.plan.event_model import Device

_MESH = {'inter': 2, 'intra': 2}
# A gather inside a group takes 1 ms, a sum between groups 10 ms.
_LINKS = Links(2**20 / 1e-3, 2 * 2**20 / 10e-3)
_DEVICE = Device(2 * 512**3 / 4e-3, 1e30)  # A product takes 4 ms.
_GATHER = (
  '%{0}-start = (f32[256,1024], f32[512,1024]) all-gather-start(%piece),'
  " replica_groups=mesh['inter'=2,'intra'=2] {{'intra'}}, dimensions={{0}}"
)
_SUM = (
  '%{0}-start = f32[256,1024] all-reduce-start(%piece),'
  " replica_groups=mesh['inter'=2,'intra'=2] {{'inter'}}, to_apply=%add"
)
_DONE = '%{0} = f32[] {1}-done(%{0}-start)'
_PRODUCT = (
  '%{0} = f32[512,512] dot(%x, %x), lhs_contracting_dims={{1}},'
  ' rhs_contracting_dims={{0}}'
)
_DEFINED = (
  '%x = f32[512,512] parameter(0)',
  '%piece = f32[256,1024] parameter(1)',
)


def seconds(lines, loop=(), trips=3, device=_DEVICE):
  """(computing, waiting) in milliseconds, of a program with a loop."""
  body = ['%body () {', *(f'  {x}' for x in (*_DEFINED, *loop)), '}']
  loops = [
    '%w = () while(%x), body=%body, condition=%c,'
    f' backend_config={{"known_trip_count":{{"n":"{trips}"}}}}'
  ]
  main = [f'  {x}' for x in (*_DEFINED, *lines, *(loops if loop else ()))]
  text = ['HloModule m, num_partitions=4', *body, 'ENTRY %main () {', *main]
  program = census.program('\n'.join([*text, '}']), _MESH)
  time = event_model.run(program, Cluster(_LINKS, 2, 2), device)
  return 1e3 * time.compute_s, 1e3 * time.waiting_s


def gather(name):
  return _GATHER.format(name), _DONE.format(name, 'all-gather')


def summed(name):
  return _SUM.format(name), _DONE.format(name, 'all-reduce')


def test_what_computes_hides_a_transfer_as_long_as_itself():
  start, done = gather('g')
  product = _PRODUCT.format('p')
  assert seconds([start, done, product]) == pytest.approx((4, 1))
  assert seconds([start, product, done]) == pytest.approx((4, 0))
  start, done = summed('s')
  assert seconds([start, product, done]) == pytest.approx((4, 6))


def test_links_of_two_networks_work_at_once_and_of_one_in_turn():
  (fast, fast_done), (slow, slow_done) = gather('g'), summed('s')
  assert seconds([slow, fast, fast_done, slow_done]) == pytest.approx((0, 10))
  other, other_done = gather('h')
  assert seconds([fast, other, fast_done, other_done]) == pytest.approx((0, 2))


def test_a_loop_runs_as_often_as_it_says():
  start, done = summed('s')
  turn = [start, _PRODUCT.format('p'), done]
  assert seconds([], turn) == pytest.approx((12, 18))
  assert seconds([], turn, trips=1) == pytest.approx((4, 6))


def test_a_single_instruction_is_waited_for():
  line = _GATHER.format('g').replace('all-gather-start', 'all-gather')
  line = line.replace('(f32[256,1024], f32[512,1024])', 'f32[512,1024]')
  assert seconds([line]) == pytest.approx((0, 1))


def test_cycles_of_the_compiler_go_before_operations():
  line = _PRODUCT.format('p') + ', backend_config={"estimated_cycles":"5000"}'
  assert seconds([line]) == pytest.approx((4, 0))
  clocked = Device(1e9, 1e9, cycles_per_s=1e6)
  assert seconds([line], device=clocked) == pytest.approx((5, 0))


def test_a_fusion_moves_what_it_uses():
  bodies = {
    'update': [
      '  %stack = f32[12,1024] parameter(0)',
      '  %row = f32[1,1024] parameter(1)',
      '  %at = s32[] parameter(2)',
      '  ROOT %u = f32[12,1024] dynamic-update-slice(%stack, %row, %at, %at)',
    ],
    'read': [
      '  %stack = f32[12,1024] parameter(0)',
      '  %at = s32[] parameter(1)',
      '  %row = f32[1,1024] dynamic-slice(%stack, %at, %at)',
      '  ROOT %twice = f32[1,1024] add(%row, %row)',
    ],
    'main': [
      '  %s = f32[12,1024] parameter(0)',
      '  %u = f32[12,1024] fusion(%s, %s), kind=kLoop, calls=%update',
      '  %r = f32[1,1024] fusion(%s, %s), kind=kLoop, calls=%read',
    ],
  }
  costs = op_cost.Costs(bodies)
  lines = costs.instructions('main')
  sizes = [costs.num_bytes(lines[name], 'main') for name in ('s', 'u', 'r')]
  assert sizes == [0, 2 * 4096 + 4, 2 * 4096 + 4]


@pytest.mark.parametrize('name', ['h100_IIG_early_late', 'v6e_NIG'])
def test_a_compiled_step_takes_what_its_links_or_its_products_do(name):
  path = pathlib.Path(__file__).parent / 'compiled' / f'{name}.hlo.gz'
  text = gzip.decompress(path.read_bytes()).decode()
  program = census.program(text, {'inter': 2, 'intra': 4})
  links = Links(450e9, 200e9)

  def run(links, device):
    return event_model.run(program, Cluster(links, 2, 4), device)

  never = Device(1e30, 1e30)
  found = program.read()
  inside = sum(c.num_runs() * c.intra_bytes for c in found) / 450e9
  between = sum(c.num_runs() * c.inter_bytes for c in found) / 50e9
  waits = run(links, never).waiting_s
  assert max(inside, between) <= waits * 1.001 <= 1.01 * (inside + between)
  # Some of it is beside products, none of it is longer than alone.
  real = run(links, Device(5e14, 3e12))
  assert 0 < real.waiting_s < waits and real.compute_s > 0
  assert run(Links(1e30, 1e30), never).step_s == pytest.approx(0, abs=1e-9)
