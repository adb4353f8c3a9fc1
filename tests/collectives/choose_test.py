# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What is picked, what is refused, and that a pick does what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.collectives import cost_model, measure
from antjax.collectives.choose import Collectives, for_mesh
from antjax.mesh.mesh import make_mesh
from tests.collectives import algorithms_check

# Latency rules small messages, the uplink large ones.
LINKS = cost_model.Links(1e9, 5e7, 1e-3, 1e-3)


def test_auto_takes_what_the_model_says():
  how = Collectives('auto', LINKS)
  for op in cost_model.OPS:
    for num_bytes in (1 << 10, 1 << 26):
      picked = how.pick(op, num_bytes, 2, 4)
      assert picked == cost_model.Cluster(LINKS, 2, 4).fastest(op, num_bytes)
  picks = {how.pick('all_reduce', size, 4, 4) for size in (1 << 10, 1 << 26)}
  assert picks == {'hierarchical', 'ho_ring'}
  assert Collectives('ring').pick('all_reduce', 1, 4, 4) == 'ring'


def test_only_collectives_of_xla_keep_types():
  assert Collectives().is_typed
  assert Collectives('hierarchical').is_typed
  assert not Collectives('hierarchical', payload_dtype='bfloat16').is_typed
  assert not Collectives('ho_ring').is_typed
  assert not Collectives('auto', LINKS).is_typed


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'algorithm': 'tree'}, "'tree'.*use one of xla, ring"),
    ({'algorithm': 'auto'}, "'auto'.*needs links=.*--measure"),
    ({'payload_dtype': 'bfloat16'}, "'xla'.*use algorithm='hierarchical'"),
    ({'algorithm': 'ring', 'payload_dtype': 'int8'}, 'floating-point'),
    ({'bucket_bytes': -1}, 'bucket_bytes=-1'),
  ],
)
def test_wrong_settings_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Collectives(**fields)


@pytest.mark.parametrize(
  'how',
  [
    Collectives(),
    Collectives('hierarchical'),
    Collectives('auto', LINKS, payload_dtype='bfloat16'),
  ],
)
def test_its_methods_equal_lax(how):
  x = algorithms_check.small_integers((8, 16, 3), 0).astype(np.float32)

  def everything(addend):
    piece = how.reduce_scatter(addend)
    return how.all_gather(piece), how.all_reduce(addend)

  for result in algorithms_check.in_shard_map(everything, 2, 4, x):
    for row in np.asarray(result):
      np.testing.assert_array_equal(row, x.sum(0))


def test_xla_results_are_known_to_be_equal_everywhere():
  how = Collectives()
  mesh = make_mesh(intra=4)
  mapped = jax.shard_map(
    lambda x: (how.all_gather(x), how.all_reduce(x)),
    mesh=mesh,
    in_specs=jax.P(('intra', 'inter')),
    out_specs=jax.P(),  # Checked, since check_vma is on.
  )
  gathered, reduced = jax.jit(mapped)(jnp.arange(16.0))
  np.testing.assert_array_equal(gathered, np.arange(16.0))
  np.testing.assert_array_equal(reduced, np.arange(16.0).reshape(8, 2).sum(0))


@pytest.mark.slow
@pytest.mark.parametrize('intra', [2, 1])
def test_measuring_gives_links_and_times_of_algorithms(intra):
  mesh = make_mesh(intra=intra, devices=jax.devices()[:4])
  links = measure.measure(mesh, sizes_bytes=(1 << 10, 1 << 16), repeats=1)
  assert links.intra_bytes_per_s > 0 and links.uplink_bytes_per_s > 0
  assert bool(links.intra_gather_bytes_per_s) == (intra > 1)
  assert {(t.num_groups, t.group_size) for t in links.timings} == {
    (4 // intra, intra)
  }
  assert len(links.timings) == 3 * 4
  assert all(min(t.seconds) > 0 for t in links.timings)


def test_measuring_gives_gathers_their_own_speed(monkeypatch):
  def times(mesh, calls, piece, repeats):
    """A second for each element that a device gets or sends."""
    x = jax.ShapeDtypeStruct((mesh.size * piece,), np.float32)
    return [jax.eval_shape(call, x).size / mesh.size for call in calls]

  monkeypatch.setattr(measure, '_times', times)
  mesh = make_mesh(intra=4)
  links = cost_model.fit(measure.samples(mesh, (1 << 10, 1 << 16), 1))
  # A gather makes 4 blocks of which 3 are sent; permutes, here one for all.
  assert links.intra_gather_bytes_per_s == pytest.approx(3)
  assert links.intra_bytes_per_s == pytest.approx(12)


def test_one_device_has_no_links():
  with pytest.raises(ValueError, match='at least two'):
    measure.measure(make_mesh(intra=1, devices=jax.devices()[:1]))


def test_leaves_share_messages_on_cpu():
  how = for_mesh('ho_ring', make_mesh(intra=4))
  assert how.algorithm == 'ho_ring' and how.bucket_bytes > 0


def run(fn, x, n=2, m=2):
  """What devices make of x, [N, ...] with a row for each device."""
  mesh = make_mesh(intra=m, devices=jax.devices()[: n * m])
  spec = jax.sharding.PartitionSpec(('inter', 'intra'))
  mapped = jax.shard_map(
    lambda x: fn(x[0])[None],
    mesh=mesh,
    in_specs=spec,
    out_specs=spec,
    check_vma=False,
  )
  return np.asarray(jax.jit(mapped)(x))


ALGORITHMS = ['ring', 'hierarchical', 'ho_ring']


@pytest.mark.parametrize('algorithm', ALGORITHMS)
@pytest.mark.parametrize('dim', [-1, -2, -3])
def test_dims_from_the_end_are_those_of_lax(algorithm, dim):
  x = np.arange(4 * 4 * 8 * 12, dtype=np.float32).reshape(4, 4, 8, 12)
  how, xla = Collectives(algorithm), Collectives()
  for op in ('all_gather', 'reduce_scatter'):
    expected = run(lambda x: getattr(xla, op)(x, dim), x)
    got = run(lambda x: getattr(how, op)(x, dim), x)
    np.testing.assert_array_equal(got, expected)
  got = run(lambda x: how.all_gather(x, -1), x[:, 0, 0, :1])
  assert got.shape == (4, 4)


@pytest.mark.parametrize('algorithm', ALGORITHMS)
@pytest.mark.parametrize('op', ['all_gather', 'reduce_scatter'])
def test_a_dim_that_is_not_there_is_refused(algorithm, op):
  how = Collectives(algorithm)
  for dim in (2, -3):
    with pytest.raises(ValueError, match=r'needed is -2 to 1'):
      run(lambda x: getattr(how, op)(x, dim), np.zeros((4, 4, 4), np.float32))
  with pytest.raises(ValueError, match='a scalar has no dim'):
    run(getattr(how, op), np.zeros(4, np.float32))


@pytest.mark.parametrize('algorithm', ALGORITHMS)
def test_empty_arrays_and_bools_are_those_of_lax(algorithm):
  how, xla = Collectives(algorithm), Collectives()
  cases = [
    ('all_gather', np.zeros((4, 3, 0), np.float32)),
    ('reduce_scatter', np.zeros((4, 8, 0), np.float32)),
    ('all_reduce', np.zeros((4, 0, 3), np.float32)),
    ('all_gather', np.eye(4, dtype=bool)),
    ('reduce_scatter', np.eye(4, dtype=bool)),
    ('all_reduce', np.eye(4, dtype=bool)),
  ]
  for op, x in cases:
    expected, got = (run(getattr(one, op), x) for one in (xla, how))
    assert got.dtype == expected.dtype, (op, x.dtype)
    np.testing.assert_array_equal(got, expected)
