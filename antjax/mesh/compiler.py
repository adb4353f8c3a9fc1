# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What XLA is told when it compiles for a mesh."""

import functools

import jax

# Library whose kernels XLA:CPU takes for matrix products; none: Eigen's.
_KERNELS = 'xla_cpu_experimental_ynn_fusion_type'


def options(mesh: jax.sharding.Mesh) -> dict[str, str]:
  """`compiler_options` of `jax.jit` for a mesh; empty to keep XLA's own choice.

  XLA:CPU gives matrix products to YNNPACK unless it is told not to. With
  Eigen's, steps of click models, whose inputs the same cores make ready
  meanwhile, take up to 12 % less time, and products at the shapes of a small
  language model up to a third (jaxlib 0.10, AVX2, 2 cores;
  benchmarks/results/ctr_cpu_2026-11.md).
  """
  if mesh.devices.flat[0].platform != 'cpu':
    return {}
  found = {_KERNELS: ''}
  return found if _is_known(tuple(found.items())) else {}


@functools.cache
def _is_known(items: tuple[tuple[str, str], ...]) -> bool:
  """Whether this jaxlib accepts the options; other versions may not."""
  cpu = jax.sharding.Mesh(jax.local_devices(backend='cpu')[:1], ('device',))
  whole = jax.sharding.NamedSharding(cpu, jax.sharding.PartitionSpec())
  number = jax.ShapeDtypeStruct((), 'float32', sharding=whole)
  same = jax.jit(lambda x: x, compiler_options=dict(items))
  try:
    with jax.set_mesh(cpu):  # The caller may have set one of more devices.
      same.lower(number).compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True
