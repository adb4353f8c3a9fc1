# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""When HO-Ring's permutes are in flight at once, as XLA schedules for H100.

A permute without computation between its start and its end becomes a single
instruction in a pass after scheduling (gpu-convert-async-collectives-to-sync),
even if it overlaps another permute. So HO-Ring alone runs one permute after
the other; beside products a gather has both networks in flight.
"""

import re

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import pytest

import antjax
from antjax.mesh import compiler
from antjax.mesh.mesh import GLOBAL_AXES, make_mesh
from antjax.plan import pod_target
from antjax.plan.pod_target import Target

M = 4  # GPUs of a host.
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not pod_target.is_installed('jax_plugins.xla_cuda13'),
    reason="needs XLA's compiler for GPUs: pip install antjax[pod_gpu]",
  ),
]
_PERMUTE = re.compile(
  r'%?([\w.\-]+) = .* collective-permute(-start|-done|)\(%?([\w.\-]*)'
)


def compiled_text(name, num_products):
  """A ring of 2 x 4 H100 beside products that it does not depend on."""
  mesh = make_mesh(intra=M, devices=Target.of(f'h100:2x{M}', None).devices())
  move = getattr(antjax.Collectives('ho_ring'), name)
  specs = P(GLOBAL_AXES), P()
  given, found = specs if name == 'all_gather' else specs[::-1]

  def both(x, w):
    h = w
    for _ in range(num_products):
      h = h @ w
    return move(x), h

  def shape(dims, dtype, spec):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=NamedSharding(mesh, spec))

  mapped = jax.shard_map(
    both,
    mesh=mesh,
    in_specs=(given, P()),
    out_specs=(found, P()),
    check_vma=False,
  )
  traced = jax.jit(mapped, compiler_options=compiler.options(mesh)).trace(
    shape((8 << 20,), jnp.float32, given),
    shape((4096, 4096), jnp.bfloat16, P()),
  )
  lowered = traced.lower(lowering_platforms=('cuda',))
  return lowered.compile({'xla_gpu_autotune_level': '0'}).as_text()


def permutes(text):
  """(axes of synchronous permutes, sets of axes in flight over time)."""
  axes, alone, moments, open_ = {}, [], [], {}
  for line in text[text.index('ENTRY') :].splitlines():
    found = _PERMUTE.search(line)
    if not found:
      continue
    name, kind, operand = found.groups()
    if kind == '-done':
      del open_[operand]
      continue
    pairs = re.search(r'source_target_pairs=\{(.*?)\}\}', line)[1]
    source, target = map(int, re.search(r'(\d+),(\d+)', pairs).groups())
    axes[name] = 'intra' if source // M == target // M else 'inter'
    if kind == '-start':
      open_[name] = axes[name]
      moments.append(set(open_.values()))
    else:
      alone.append(axes[name])
  return alone, moments


def test_alone_permutes_run_one_after_the_other():
  for name in ('all_gather', 'reduce_scatter'):
    alone, moments = permutes(compiled_text(name, 0))
    assert 'inter' in alone and 'intra' in alone
    assert {'inter', 'intra'} not in moments


def test_beside_products_a_gather_has_both_networks_in_flight():
  alone, moments = permutes(compiled_text('all_gather', 8))
  assert 'inter' not in alone
  assert {'inter', 'intra'} in moments


def test_beside_products_a_scatter_still_sends_between_hosts_last():
  alone, moments = permutes(compiled_text('reduce_scatter', 8))
  assert 'inter' not in alone
  # Not what we want: XLA schedules all rounds inside hosts before.
  assert {'inter', 'intra'} not in moments
