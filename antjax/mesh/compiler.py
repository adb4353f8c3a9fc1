# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""XLA compiler options for a mesh."""

import functools

import jax

Options = dict[str, bool | int | str]
# Library of XLA:CPU's matrix product kernels; empty: Eigen.
_KERNELS = 'xla_cpu_experimental_ynn_fusion_type'
# Collectives that XLA:GPU runs at once. With its default of one, transfers on
# slow links wait for those on fast ones. A layer has gathers and reductions,
# inside a group and between groups, of each of its matrices (llama: 7).
_IN_FLIGHT = 'xla_gpu_experimental_parallel_collective_overlap_limit'
# XLA joins collectives up to 30 MiB each, also those of two layers; the first
# then waits for the second and runs beside no product. With these limits only
# small leaves may be joined. What counts is the result on a device: a piece for
# a reduce-scatter, the whole for a gather.
_JOINED: Options = {
  'xla_gpu_reduce_scatter_combine_threshold_bytes': 2**20,
  'xla_gpu_all_gather_combine_threshold_bytes': 2**22,
}
_GPU: Options = {
  # Without it a collective is awaited right where it starts.
  'xla_gpu_enable_latency_hiding_scheduler': True,
  _IN_FLIGHT: 16,
  **_JOINED,
}
# Gathers and reductions run on a TPU's SparseCores, in parallel with products.
# Otherwise libtpu compiles them to synchronous instructions that block the
# TensorCore.
_SPARSE_CORE: Options = {
  'xla_tpu_enable_sparse_core_collective_offload_all_gather': True,
  'xla_tpu_enable_sparse_core_collective_offload_reduce_scatter': True,
}
# Device kinds whose schedules were inspected, see docs/plan.md.
_WITH_SPARSE_CORES = ('TPU v6 lite',)


def options(mesh: jax.sharding.Mesh) -> Options:
  """`compiler_options` of `jax.jit` for a mesh; empty to keep XLA's own choice.

  XLA:CPU uses YNNPACK for matrix products by default. With Eigen, steps of
  click models, whose input pipeline shares the cores, take up to 12 % less
  time, and products of a small language model's shapes up to a third less
  (jaxlib 0.10, AVX2, 2 cores; benchmarks/results/ctr_cpu_2026-11.md). On GPUs
  and TPUs the options let collectives overlap with products
  (benchmarks/results/pods_compiled_2026-12.md).
  """
  device = mesh.devices.flat[0]
  if device.platform == 'cpu':
    return _known({_KERNELS: ''}, None)
  if device.platform == 'gpu':
    return _known(_GPU, None)  # XLA's options are the same for CPU and GPU.
  if device.device_kind in _WITH_SPARSE_CORES:
    here = jax.process_index()
    mine = [d for d in mesh.devices.flat if d.process_index == here]
    return _known(_SPARSE_CORE, mine[0] if mine else device)
  return {}


def overlaps(mesh: jax.sharding.Mesh) -> bool:
  """Whether XLA overlaps collectives and products on a mesh's devices."""
  return bool(mesh.devices.flat[0].platform != 'cpu')


def _known(wanted: Options, device: jax.Device | None) -> Options:
  """The options that the compiler of a device, or of the CPU, accepts."""
  return {k: x for k, x in wanted.items() if _is_known(((k, x),), device)}


@functools.cache
def _is_known(
  items: tuple[tuple[str, bool | int | str], ...], device: jax.Device | None
) -> bool:
  """Whether this jaxlib accepts the options; other versions may not."""
  if device is None:
    device = jax.local_devices(backend='cpu')[0]
  alone = jax.sharding.Mesh([device], ('device',))
  whole = jax.sharding.NamedSharding(alone, jax.sharding.PartitionSpec())
  number = jax.ShapeDtypeStruct((), 'float32', sharding=whole)
  same = jax.jit(lambda x: x, compiler_options=dict(items))
  try:
    with jax.set_mesh(alone):  # The caller may have set a larger mesh.
      same.lower(number).compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True
