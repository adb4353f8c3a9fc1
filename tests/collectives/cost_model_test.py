# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The model against its formulas, its limits, and timings made up from it."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from antjax.collectives import cost_model
from antjax.collectives.cost_model import Cluster, Links, Sample

GB = 1e9
# The dossier's machine: 2000 Gb/s inside, one 80 Gb/s card a group.
ONE_CARD = Links(2000e9 / 8, 80e9 / 8)
SHAPES = [(2, 4), (4, 2), (3, 3), (1, 4), (4, 1), (16, 8)]


def ms(algorithm, n, m, links=ONE_CARD, op='all_gather', size=GB):
  return 1e3 * Cluster(links, n, m).seconds(op, algorithm, size)


@pytest.mark.parametrize(
  ('n', 'want'),
  [(2, (93.8, 53.5, 51.8)), (4, (96.9, 78.5, 75.9)), (16, (99.2, 97.2, 94.0))],
)
def test_figures_derived_by_hand_for_one_card_a_group(n, want):
  got = [ms(a, n, 8) for a in ('ring', 'hierarchical', 'ho_ring')]
  assert got == pytest.approx(want, abs=0.06)


def test_a_cap_of_each_device_replaces_its_share_of_the_uplink():
  links = dataclasses.replace(
    ONE_CARD, uplink_bytes_per_s=8 * 10e9, device_inter_bytes_per_s=5e9
  )
  assert links.lane_bytes_per_s(8) == 5e9
  assert links.lane_bytes_per_s(32) == 2.5e9
  assert ms('hierarchical', 2, 8, links) == pytest.approx(
    1e3 * (GB / 16 / 5e9 + 7 * 2 * GB / 16 / (2000e9 / 8))
  )


def test_gathers_inside_a_group_may_have_a_rate_of_their_own():
  plain = Cluster(Links(4e9, 1e8), 2, 4)
  slow = Cluster(Links(4e9, 1e8, intra_gather_bytes_per_s=1e9), 2, 4)

  def ratio(op, axis='intra'):
    return slow.axis_seconds(op, axis, GB) / plain.axis_seconds(op, axis, GB)

  assert [ratio(op) for op in cost_model.OPS] == pytest.approx([4.0, 1.0, 2.5])
  assert ratio('all_gather', 'inter') == 1.0
  with pytest.raises(ValueError, match='intra_gather_bytes_per_s=0'):
    Links(4e9, 1e8, intra_gather_bytes_per_s=0)


@pytest.mark.parametrize('shape', SHAPES)
def test_what_must_hold_for_any_links(shape):
  cluster = Cluster(Links(3e9, 1e8, 1e-5, 3e-4), *shape)
  for op, algorithm in itertools.product(cost_model.OPS, cost_model.ALGORITHMS):
    times = [cluster.seconds(op, algorithm, size) for size in (0, 1e6, 1e8)]
    assert 0 < times[0] < times[1] < times[2]
  for size in (1e3, 1e8):
    best = cluster.fastest('all_gather', size)
    assert cluster.seconds('all_gather', best, size) == min(
      cluster.seconds('all_gather', a, size) for a in cost_model.ALGORITHMS
    )


def test_on_one_axis_all_flat_forms_are_the_same_ring():
  links = Links(3e9, 1e8, 1e-5, 3e-4)
  for n, m, axis in ((1, 4, 'intra'), (4, 1, 'inter')):
    cluster = Cluster(links, n, m)
    want = cluster.axis_seconds('all_gather', axis, 1e8)
    for algorithm in cost_model.ALGORITHMS:
      got = cluster.seconds('all_gather', algorithm, 1e8)
      assert got == pytest.approx(want)


def test_two_phases_are_the_sum_of_the_axes():
  cluster = Cluster(Links(3e9, 1e8, 1e-5, 3e-4), 2, 4)
  want = cluster.axis_seconds('reduce_scatter', 'intra', 1e8)
  want += cluster.axis_seconds('reduce_scatter', 'inter', 1e8 / 4)
  got = cluster.seconds('reduce_scatter', 'hierarchical', 1e8)
  assert got == pytest.approx(want)


def test_small_messages_avoid_what_costs_latency():
  links = Links(3e9, 1e8, intra_latency_s=1e-3, inter_latency_s=1.1e-3)
  # n (m - 1) = 8 intra steps of HO-Ring against 1 + 4 steps of two phases.
  assert Cluster(links, 2, 5).fastest('all_gather', 64) == 'hierarchical'


@pytest.mark.parametrize('device', [None, 2e7])
@pytest.mark.parametrize('shape', [(2, 4), (4, 2)])
def test_fit_finds_the_links_that_made_the_timings(shape, device):
  links = Links(2.5e9, 1e8, 3e-5, 4e-4, device)
  samples = []
  for axis, size in itertools.product(('intra', 'inter'), (1e4, 1e6, 1e7)):
    for op in ('all_gather', 'all_reduce'):
      seconds = Cluster(links, *shape).axis_seconds(op, axis, size)
      samples.append(Sample(op, axis, size, *shape, seconds))
  for size in (1e4, 1e6, 1e7):
    n = shape[0]
    step = links.inter_latency_s + size / n / links.lane_bytes_per_s(1)
    samples.append(
      Sample('all_gather', 'inter', size, *shape, (n - 1) * step, num_lanes=1)
    )
  got = cost_model.fit(samples)
  for name in ('intra_bytes_per_s', 'intra_latency_s', 'inter_latency_s'):
    assert getattr(got, name) == pytest.approx(getattr(links, name), rel=1e-3)
  if device is None:
    assert got.device_inter_bytes_per_s is None
    assert got.uplink_bytes_per_s == pytest.approx(1e8, rel=1e-3)
  for size in (1e5, 1e8):  # What is predicted is the same, whoever caps it.
    one, other = (
      Cluster(found, *shape).seconds('all_reduce', 'hierarchical', size)
      for found in (got, links)
    )
    assert one == pytest.approx(other, rel=1e-3)


def test_fit_tells_gathers_from_what_is_summed():
  links = Links(2.5e9, 1e8, 3e-5, intra_gather_bytes_per_s=1e9)
  cluster = Cluster(links, 2, 4)
  samples = [
    Sample(op, axis, size, 2, 4, cluster.axis_seconds(op, axis, size))
    for op in ('all_gather', 'reduce_scatter')
    for axis in ('intra', 'inter')
    for size in (1e4, 1e6, 1e7)
  ]
  got = cost_model.fit(samples)
  assert got.intra_bytes_per_s == pytest.approx(2.5e9, rel=1e-3)
  assert got.intra_gather_bytes_per_s == pytest.approx(1e9, rel=1e-3)
  # Gathers that take no more than the latency are as fast as the fastest.
  quick = [dataclasses.replace(s, seconds=8e-5) for s in samples[:3]]
  got = cost_model.fit([*quick, *samples[3:]])
  assert got.intra_gather_bytes_per_s == pytest.approx(7.5e6 / 8e-5)


def test_a_burst_makes_no_link_faster_than_its_long_messages():
  # 100 Mbit/s behind a bucket of 128 KiB, which two devices fill.
  samples = [
    Sample(
      *('reduce_scatter', 'inter', size, 3, 2),
      seconds=1e-3 + max(0.0, 2 * 2 / 3 * size - 2**17) / 12.5e6,
    )
    for size in (2**16, 2**19, 2**22)
  ]
  found = cost_model.fit(samples).uplink_bytes_per_s
  assert found == pytest.approx(12.5e6, rel=0.03)


def test_fit_bears_noise_and_one_axis_only():
  falling = [
    Sample('all_gather', 'intra', size, 1, 4, time)
    for size, time in ((1e3, 1e-3), (1e6, 0.9e-3))
  ]
  links = cost_model.fit(falling)
  assert links.intra_bytes_per_s > 0 and links.intra_latency_s >= 0
  assert links.inter_latency_s == links.intra_latency_s
  with pytest.raises(ValueError, match='several devices'):
    cost_model.fit([Sample('all_gather', 'inter', 1e3, 1, 4, 1e-3)])


def test_what_was_measured_goes_before_the_formula():
  slow = cost_model.Timing(
    'all_gather', 'ho_ring', 2, 4, (0, 10**6), (1.0, 2.0)
  )
  links = Links(3e9, 1e8, timings=(slow,))
  measured, other = Cluster(links, 2, 4), Cluster(links, 4, 2)
  assert measured.seconds('all_gather', 'ho_ring', 1e6) == 2.0
  assert other.seconds('all_gather', 'ho_ring', 1e6) < 0.1
  assert measured.seconds('all_reduce', 'ho_ring', 1e6) < 0.1
  assert measured.fastest('all_gather', 1e6) == 'hierarchical'
  assert other.fastest('all_gather', 1e8) == 'ho_ring'


def test_times_lie_on_the_lines_between_what_was_measured():
  timing = cost_model.Timing(
    'all_reduce', 'xla', 2, 4, (10, 20, 40), (1.0, 3.0, 4.0)
  )
  sizes = (1, 10, 15, 20, 30, 40, 80)
  want = [1.0, 1.0, 2.0, 3.0, 3.5, 4.0, 6.0]
  np.testing.assert_allclose([timing.at(size) for size in sizes], want)
  faster_beyond = dataclasses.replace(timing, seconds=(1.0, 3.0, 2.0))
  assert faster_beyond.at(80) == 2.0
  single = dataclasses.replace(timing, sizes_bytes=[10], seconds=[1.0])
  assert single.at(30) == 3.0
  for sizes, times in (((), ()), ((2, 1), (1.0, 1.0)), ((1,), (1.0, 2.0))):
    with pytest.raises(ValueError, match='ascending sizes and as many times'):
      dataclasses.replace(timing, sizes_bytes=sizes, seconds=times)


def test_links_survive_a_file_and_bad_ones_are_named(tmp_path):
  timing = cost_model.Timing('all_reduce', 'xla', 2, 4, (9, 99), (1e-3, 1.0))
  links = Links(2.5e9, 1e8, 3e-5, 4e-4, 5e7, (timing, timing))
  path = tmp_path / 'links.json'
  cost_model.save(links, path)
  assert cost_model.load(path) == links
  for text in ('{"speed": 1}', '[]', 'x', '{"intra_bytes_per_s": 1}'):
    path.write_text(text)
    with pytest.raises(ValueError, match='links.json.*uplink_bytes_per_s'):
      cost_model.load(path)
  whole = json.dumps(dataclasses.asdict(links))
  for damage in (
    whole[:-20].encode(),
    b'\xff' + whole.encode(),
    whole.replace('0.001', 'NaN').encode(),
    whole.replace('"xla"', '"ala"').encode(),
    whole.replace('"all_reduce"', '"all_reduse"').encode(),
  ):
    assert damage != whole.encode()
    path.write_bytes(damage)
    with pytest.raises(ValueError, match='links.json.*uplink_bytes_per_s'):
      cost_model.load(path)
  with pytest.raises(ValueError, match='uplink_bytes_per_s=0'):
    Links(1.0, 0)
  with pytest.raises(ValueError, match='inter_latency_s=-1'):
    Links(1.0, 1.0, 0, -1)
  with pytest.raises(ValueError, match="algorithm='tree'; use one of xla"):
    Cluster(links, 2, 2).seconds('all_gather', 'tree', 1)
  with pytest.raises(ValueError, match="axis='both'"):
    Cluster(links, 2, 2).axis_seconds('all_gather', 'both', 1)
