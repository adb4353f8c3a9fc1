# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Collectives over both axes, on virtual clusters with slow uplinks.

  python -m benchmarks.collectives_bench > results.jsonl

prints one JSON line a case. Needs Linux and root (see `benchmarks.cluster`).

A case is an op on one size (`bytes`, of the whole array) by one algorithm:
`xla` (one collective of XLA over both axes), `flat_ring`, `hierarchical`,
`ho_ring`, `auto` (picked from links that are measured on the same cluster
first). All algorithms of an op and size take turns in one run, after a call
each in which every device checks its result; medians of the turns are compared,
from the end of a barrier to the end of the call on host 0. A case ends early
when its turns have taken `--case_s`.

`uplink_efficiency` is the least that one uplink must carry, 2 (n - 1) / n of
the bytes for an all-reduce and half of that for the others, over its rate and
over the time; headers of TCP and Ethernet make 0.95 the most that can be seen.
`algbw_gbps` and `busbw_gbps` (GB/s) are those of nccl-tests. Lines with `fit`
hold latency and time a byte of each algorithm apart, by least squares of
relative errors over the sizes; a line with `links` holds what was measured for
`auto`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json
import math
import re
import statistics
import sys
import time
from typing import Any

from absl import app, flags
import numpy as np

from benchmarks import cluster as cluster_lib
from benchmarks import harness

OPS = ('all_gather', 'reduce_scatter', 'all_reduce')
ALGORITHMS = {  # As in the lines, and as `Collectives` calls them.
  'xla': 'xla',
  'flat_ring': 'ring',
  'hierarchical': 'hierarchical',
  'ho_ring': 'ho_ring',
  'auto': 'auto',
}

_CLUSTERS = flags.DEFINE_list(
  'clusters', ['2x4', '4x2'], 'Hosts x devices of each.'
)
_UPLINKS = flags.DEFINE_list('uplinks_mbps', ['100', '400'], 'Rates, Mbit/s.')
_SIZES = flags.DEFINE_list('sizes_mb', ['1', '4', '16', '64'], 'MiB.')
_OPS = flags.DEFINE_multi_enum('op', list(OPS), OPS, 'Ops to run.')
_ALGORITHMS = flags.DEFINE_multi_enum(
  'algorithm', list(ALGORITHMS), list(ALGORITHMS), 'Algorithms to run.'
)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Turns of each algorithm.', 1)
_CASE_S = flags.DEFINE_float(
  'case_s', 5.0, 'No new turn of an op and size after so many seconds.'
)
_MAX_UPLINK_S = flags.DEFINE_float(
  'max_uplink_s',
  2.5,
  'Leaves out sizes that keep an uplink busy for longer than this at least.',
)
_PAYLOAD = flags.DEFINE_string(
  'payload_dtype', None, 'Round to this on the wire, e.g. bfloat16; not xla.'
)
_WORKER = flags.DEFINE_bool('worker', False, 'Internal: run on one host.')

_MARK = 'RESULT '


def least_uplink_bytes(op: str, num_bytes: int, num_groups: int) -> float:
  """What must leave each group at least."""
  once = num_bytes * (num_groups - 1) / num_groups
  return once * 2 if op == 'all_reduce' else once


def bus_factor(op: str, num_devices: int) -> float:
  """Factor from algbw to busbw, by nccl-tests."""
  once = (num_devices - 1) / num_devices
  return once * 2 if op == 'all_reduce' else once


def lines_of_case(
  op: str,
  num_bytes: int,
  seconds: dict[str, Sequence[float]],
  *,
  num_groups: int,
  group_size: int,
  uplink_mbps: float,
) -> list[dict[str, Any]]:
  """Turns times of the algorithms into the lines that are printed."""
  medians = {name: statistics.median(times) for name, times in seconds.items()}
  least_s = least_uplink_bytes(op, num_bytes, num_groups) / (
    uplink_mbps * 1e6 / 8
  )
  lines = []
  for name, t in medians.items():
    line: dict[str, Any] = {
      'op': op,
      'algorithm': name,
      'cluster': f'{num_groups}x{group_size}',
      'uplink_mbps': uplink_mbps,
      'bytes': num_bytes,
      'seconds': round(t, 5),
      'uplink_efficiency': round(least_s / t, 3),
    }
    for key, other in (('flat_ring', 'flat_ring'), ('xla', 'xla')):
      if other in medians:
        line[f'speedup_vs_{key}'] = round(medians[other] / t, 3)
    algbw = num_bytes / t / 1e9
    line['algbw_gbps'] = round(algbw, 5)
    line['busbw_gbps'] = round(
      algbw * bus_factor(op, num_groups * group_size), 5
    )
    line['min_s'] = round(min(seconds[name]), 5)
    line['num_turns'] = len(seconds[name])
    lines.append(line)
  return lines


def fit(
  sizes: Sequence[float], seconds: Sequence[float]
) -> tuple[float, float]:
  """(alpha in s, beta in s/byte) of t = alpha + beta * bytes."""
  rows = np.stack([np.ones(len(sizes)), np.asarray(sizes, float)], 1)
  scaled = rows / np.asarray(seconds)[:, None]
  (alpha, beta), *_ = np.linalg.lstsq(scaled, np.ones(len(sizes)), rcond=None)
  return float(alpha), float(beta)


# --- On a host. -------------------------------------------------------------


def _inputs(op: str, num_elements: int, mesh: Any) -> tuple[Any, Callable]:
  """(global input, check of one device's result) with exact sums."""
  import jax
  import jax.numpy as jnp
  from jax.sharding import NamedSharding
  from jax.sharding import PartitionSpec as P

  from antjax.mesh.mesh import BATCH_AXES, GLOBAL_AXES

  num = mesh.size
  spec = GLOBAL_AXES if op == 'all_gather' else BATCH_AXES
  rows = 1 if op == 'all_gather' else num

  def make():
    row = (jnp.arange(num_elements, dtype=jnp.int32) % 1000).astype(jnp.float32)
    addends = jnp.arange(rows, dtype=jnp.float32)
    return (row[None, :] + addends[:, None]).reshape(-1)

  x = jax.jit(make, out_shardings=NamedSharding(mesh, P(spec)))()
  want = (np.arange(num_elements) % 1000).astype(np.float32)
  if op != 'all_gather':
    want = want * num + num * (num - 1) // 2

  def is_right(result: Any, tolerance: float) -> bool:
    for shard in result.addressable_shards:
      expected = want
      if op == 'reduce_scatter':
        expected = want[shard.index[0]]
      got = np.asarray(shard.data)
      if not np.allclose(got, expected, rtol=tolerance, atol=tolerance):
        return False
    return True

  return x, is_right


def _call(op: str, how: Any, mesh: Any) -> Callable:
  import jax
  from jax.sharding import PartitionSpec as P

  from antjax.mesh.mesh import BATCH_AXES, GLOBAL_AXES

  source = GLOBAL_AXES if op == 'all_gather' else BATCH_AXES
  # Equal results of all devices are kept apart, so that each can be checked.
  target = GLOBAL_AXES if op == 'reduce_scatter' else BATCH_AXES
  return jax.jit(
    jax.shard_map(
      getattr(how, op),
      mesh=mesh,
      in_specs=P(source),
      out_specs=P(target),
      check_vma=False,
    )
  )


def _run_case(op, num_bytes, hows, mesh, barrier, emit) -> dict[str, list]:
  """Checks all algorithms, then times them in turns."""
  import jax
  from jax.experimental import multihost_utils

  x, is_right = _inputs(op, num_bytes // 4, mesh)
  calls, seconds = {}, {}
  for name, how in hows.items():
    call = _call(op, how, mesh)
    tolerance = 0.05 if how.payload_dtype else 0.0
    right = is_right(jax.block_until_ready(call(x)), tolerance)
    rights = multihost_utils.process_allgather(np.array([right]))
    if not np.all(rights):
      emit(
        {
          'op': op,
          'algorithm': name,
          'bytes': num_bytes,
          'error': 'a wrong result'
          + (
            '; XLA:CPU is known to give such from reduce-scatter between'
            ' processes at times (jax issue 40830)'
            if name in ('xla', 'hierarchical')
            else ''
          ),
        }
      )
      continue
    calls[name], seconds[name] = call, []
  start = time.perf_counter()
  for _ in range(_REPEATS.value):
    for name, call in calls.items():
      jax.block_until_ready(barrier())
      begin = time.perf_counter()
      jax.block_until_ready(call(x))
      seconds[name].append(time.perf_counter() - begin)
    # All hosts must agree on whether there is one more turn.
    late = time.perf_counter() - start > _CASE_S.value
    late = multihost_utils.broadcast_one_to_all(np.array(late))
    if bool(late):
      break
  return seconds


def _work() -> None:
  """One host's part: all cases of one cluster."""
  import jax
  import jax.numpy as jnp
  from jax.sharding import NamedSharding
  from jax.sharding import PartitionSpec as P

  from antjax.collectives import measure
  from antjax.collectives.choose import for_mesh
  from antjax.jobs import job as job_lib
  from antjax.mesh.mesh import BATCH_AXES, make_mesh

  job_lib.initialize_distributed()
  n, m = jax.process_count(), jax.local_device_count()
  mesh = make_mesh(intra=m)
  uplink_mbps = float(_UPLINKS.value[0])
  head = {'cluster': f'{n}x{m}', 'uplink_mbps': uplink_mbps}

  def emit(line: dict[str, Any]) -> None:
    if jax.process_index() == 0:
      print(_MARK + json.dumps(line), flush=True)

  ones = jax.jit(
    lambda: jnp.ones(n * m), out_shardings=NamedSharding(mesh, P(BATCH_AXES))
  )()
  total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, P()))
  links = measure.measure(mesh)
  emit(head | {'links': dataclasses.asdict(links)})
  hows = {
    name: for_mesh(
      ALGORITHMS[name],
      mesh,
      links=links if name == 'auto' else None,
      payload_dtype=None if name == 'xla' else _PAYLOAD.value,
    )
    for name in _ALGORITHMS.value
  }
  for op in _OPS.value:
    points: dict[str, list[tuple[int, float]]] = {}
    for size_mb in map(float, _SIZES.value):
      num_bytes = int(size_mb * 2**20) // (4 * n * m) * (4 * n * m)
      least = least_uplink_bytes(op, num_bytes, n) / (uplink_mbps * 1e6 / 8)
      if least > _MAX_UPLINK_S.value:
        continue
      seconds = _run_case(
        op,
        num_bytes,
        hows,
        mesh,
        lambda: total(ones),
        lambda line: emit(head | line),
      )
      lines = lines_of_case(
        op,
        num_bytes,
        seconds,
        num_groups=n,
        group_size=m,
        uplink_mbps=uplink_mbps,
      )
      for line in lines:
        name = line['algorithm']
        points.setdefault(name, []).append((num_bytes, line['seconds']))
        if name == 'auto':
          line['picked'] = hows['auto'].pick(op, num_bytes, n, m)
        if _PAYLOAD.value and name != 'xla':
          line['payload_dtype'] = _PAYLOAD.value
        emit(line)
    for name, pairs in points.items():
      if len(pairs) > 1:
        alpha, beta = fit(*zip(*pairs))
        emit(
          head
          | {
            'fit': {'alpha_s': alpha, 'beta_s_per_byte': beta},
            'op': op,
            'algorithm': name,
          }
        )


# --- On the machine that plays the hosts. -----------------------------------


def _show(host: int, line: str) -> None:
  if host == 0 and line.startswith(_MARK):
    print(line[len(_MARK) :], flush=True)


def _shapes() -> list[tuple[int, int]]:
  """(hosts, devices of each) of each cluster, once all flags are checked."""
  for flag in (_UPLINKS, _SIZES):
    for text in flag.value or ['']:
      if not _is_positive(text):
        raise app.UsageError(
          f'--{flag.name}={",".join(flag.value)}: needed are positive numbers,'
          ' such as 16,64.'
        )
  shapes = []
  for text in _CLUSTERS.value or ['']:
    found = re.fullmatch(r'(\d+)x(\d+)', text)
    hosts, devices = map(int, found.groups()) if found else (0, 0)
    if hosts * devices < 2:
      raise app.UsageError(
        f'--clusters={",".join(_CLUSTERS.value)}: needed is hosts x devices, at'
        ' least two devices in all, such as 2x4,4x2.'
      )
    shapes.append((hosts, devices))
  return shapes


def _is_positive(text: str) -> bool:
  try:
    return 0 < float(text) < math.inf
  except ValueError:
    return False


def main(argv: Sequence[str]) -> int:
  if _WORKER.value:
    _work()
    return 0
  harness.start(argv)
  shapes = _shapes()
  command = [sys.executable, '-m', 'benchmarks.collectives_bench', '--worker']
  for flag in (_SIZES, _REPEATS, _CASE_S, _MAX_UPLINK_S):
    value = flag.value
    value = ','.join(value) if isinstance(value, list) else value
    command.append(f'--{flag.name}={value}')
  for flag in (_OPS, _ALGORITHMS):
    command += [f'--{flag.name}={value}' for value in flag.value]
  if _PAYLOAD.value:
    command.append(f'--payload_dtype={_PAYLOAD.value}')
  reason = cluster_lib.missing()
  if reason is not None:
    print(f'collectives_bench: {reason}', file=sys.stderr)
    return 1
  for shape, (hosts, devices) in zip(_CLUSTERS.value, shapes, strict=True):
    for uplink in _UPLINKS.value:
      try:
        with cluster_lib.Cluster(hosts, devices, float(uplink)) as cluster:
          cluster.run([*command, f'--uplinks_mbps={uplink}'], on_line=_show)
      except RuntimeError as error:
        print(f'collectives_bench: {shape}: {error}', file=sys.stderr)
        return 1
  return 0


if __name__ == '__main__':
  app.run(main)
