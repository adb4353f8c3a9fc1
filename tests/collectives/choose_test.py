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
      assert picked == cost_model.fastest(op, num_bytes, LINKS, 2, 4)
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
  assert {(t.num_groups, t.group_size) for t in links.timings} == {
    (4 // intra, intra)
  }
  assert len(links.timings) == 3 * 4
  assert all(min(t.seconds) > 0 for t in links.timings)


def test_one_device_has_no_links():
  with pytest.raises(ValueError, match='at least two'):
    measure.measure(make_mesh(intra=1, devices=jax.devices()[:1]))


def test_leaves_share_messages_on_cpu():
  how = for_mesh('ho_ring', make_mesh(intra=4))
  assert how.algorithm == 'ho_ring' and how.bucket_bytes > 0
