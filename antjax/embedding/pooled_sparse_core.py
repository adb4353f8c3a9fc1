# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sums of rows by bags on the SparseCores of TPUs, by a Pallas kernel.

Bags are cut into blocks, which the subcores take in turn. A subcore gathers the
rows of a chunk of entries into its memory while it adds those of the chunk
before to the sums of the block. The rows of the entries never enter the TPU's
main memory.
"""

import jax
from jax import lax
import jax.numpy as jnp

# Shape suffixes: see `pooled`.

_BLOCK = 64  # Bags whose sums a subcore holds.
_CHUNK = 64  # Entries that are gathered at once.
_ALIGNED = 8  # Slices of lists start at multiples of this.
_WORDS = 16  # Of a block's line: the first entry and the number of chunks.
# Kinds of TPUs with SparseCores for which this has been compiled.
_KINDS = ('TPU v6 lite', 'TPU7x')


def is_for(dim: int, device_kind: str) -> bool:
  """Whether there is a kernel for rows of this width on such a device."""
  return dim % 128 == 0 and device_kind in _KINDS


def sums(
  rows_RD: jax.Array,
  index_N: jax.Array,
  weights_N: jax.Array | None,
  starts_G: jax.Array,
) -> jax.Array:
  """See `pooled.Kernel`."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import tpu as pltpu
  from jax.experimental.pallas import tpu_sc as plsc

  num_bags, dim = starts_G.size - 1, rows_RD.shape[1]
  num_blocks = -(-num_bags // _BLOCK)
  is_there_N = (index_N >= 0) & (index_N < rows_RD.shape[0])
  if weights_N is None:
    weights_N = jnp.ones(index_N.shape, jnp.float32)
  weights_N = jnp.where(is_there_N, weights_N.astype(jnp.float32), 0)
  # Entries, and bags behind the last.
  rest = -index_N.size % _ALIGNED + _CHUNK
  marks_N = jnp.zeros(index_N.size + rest, jnp.int32)
  marks_N = marks_N.at[starts_G].add(1, mode='drop')
  bag_N = jnp.cumsum(marks_N) - 1
  index_N = jnp.pad(jnp.where(is_there_N, index_N, 0), (0, rest))
  weights_N = jnp.pad(weights_N, (0, rest))
  edges = jnp.pad(starts_G, (0, num_blocks * _BLOCK - num_bags), mode='edge')[
    ::_BLOCK
  ]
  first = edges[:-1] // _ALIGNED * _ALIGNED
  num_chunks = jnp.where(
    edges[1:] > edges[:-1], -(-(edges[1:] - first) // _CHUNK), 0
  )
  lines = jnp.stack([first, num_chunks], axis=1)
  lines = jnp.pad(lines, ((0, 0), (0, _WORDS - 2))).reshape(-1)

  info = plsc.get_sparse_core_info()
  num_workers, lanes = info.num_cores * info.num_subcores, info.num_lanes
  columns = [pl.ds(at, lanes) for at in range(0, dim, lanes)]

  def kernel(rows, index, bags, weights, lines, out, *scratch):
    line, at, bag, weight, found, total, semaphores = scratch
    core, subcore = lax.axis_index('core'), lax.axis_index('subcore')
    worker = core * info.num_subcores + subcore

    def gather(slot):
      return pltpu.make_async_copy(
        rows.at[at.at[slot]], found.at[slot], semaphores.at[slot]
      )

    def fetch(entry, slot):
      entries = pl.ds(pl.multiple_of(entry, _ALIGNED), _CHUNK)
      pltpu.sync_copy(index.at[entries], at.at[slot])
      gather(slot).start()
      pltpu.sync_copy(bags.at[entries], bag.at[slot])
      pltpu.sync_copy(weights.at[entries], weight.at[slot])

    @pl.loop(0, (num_blocks - worker + num_workers - 1) // num_workers)
    def _(turn):
      block = turn * num_workers + worker
      pltpu.sync_copy(
        lines.at[pl.ds(pl.multiple_of(block * _WORDS, _WORDS), _WORDS)], line
      )
      words = line[pl.ds(0, lanes)]
      first, num_chunks = words[0], words[1]

      @pl.loop(0, _BLOCK)
      def _(g):
        for part in columns:
          total[g, part] = jnp.zeros((lanes,), jnp.float32)

      @pl.when(num_chunks > 0)
      def _():
        fetch(first, 0)

      @pl.loop(0, num_chunks)
      def _(chunk):
        slot = lax.rem(chunk, 2)

        @pl.when(chunk + 1 < num_chunks)
        def _():
          fetch(first + (chunk + 1) * _CHUNK, 1 - slot)

        gather(slot).wait()

        @pl.loop(0, _CHUNK, step=lanes)
        def _(start):
          some = pl.ds(start, lanes)
          # Entries of other blocks are added to a line that is not written.
          place = bag[slot, some] - block * _BLOCK
          is_mine = (place >= 0) & (place < _BLOCK)
          place = jnp.where(is_mine, place, _BLOCK)
          factors = weight[slot, some]
          for i in range(lanes):
            for part in columns:
              row = found[slot, start + i, part]
              # A row that is not there may hold anything.
              row = jnp.where(factors[i] == 0, 0, row * factors[i])
              plsc.addupdate(total.at[place[i], part], row)

      mine = pl.ds(pl.multiple_of(block * _BLOCK, _BLOCK), _BLOCK)
      pltpu.async_copy(
        total.at[pl.ds(0, _BLOCK)], out.at[mine], src_sem=semaphores.at[0]
      ).wait()

  call = pl.kernel(
    kernel,
    out_type=jax.typeof(rows_RD).update(
      shape=(num_blocks * _BLOCK, dim), dtype=jnp.dtype(jnp.float32)
    ),
    mesh=plsc.VectorSubcoreMesh(
      core_axis_name='core', subcore_axis_name='subcore'
    ),
    scratch_types=[
      pltpu.VMEM((_WORDS,), jnp.int32),
      pltpu.VMEM((2, _CHUNK), jnp.int32),
      pltpu.VMEM((2, _CHUNK), jnp.int32),
      pltpu.VMEM((2, _CHUNK), jnp.float32),
      pltpu.VMEM((2, _CHUNK, dim), jnp.float32),
      pltpu.VMEM((_BLOCK + 1, dim), jnp.float32),
      pltpu.SemaphoreType.DMA((2,)),
    ],
    compiler_params=pltpu.CompilerParams(
      use_tc_tiling_on_sc=False, needs_layout_passes=False
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * index_N.size * dim,
      bytes_accessed=4 * (index_N.size * (dim + 3) + num_bags * dim),
      transcendentals=0,
    ),
    name='pool_rows',
  )
  found_GD = call(rows_RD.astype(jnp.float32), index_N, bag_N, weights_N, lines)
  return found_GD[:num_bags].astype(rows_RD.dtype)
