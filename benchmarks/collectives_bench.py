# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Collectives over both axes, on virtual clusters with slow uplinks.

  python -m benchmarks.collectives_bench > results.jsonl

prints one JSON line per case. Needs Linux and root (see `benchmarks.cluster`).

A case is an op on one size (`bytes`, of the whole array) by one algorithm:
`xla` (one collective of XLA over both axes), `flat_ring`, `hierarchical`,
`ho_ring`, `auto` (chosen from links measured first on the same cluster). All
algorithms of an op and size take turns in one run, after one call each in which
every device checks its result. Medians of the turns are compared, from the end
of a barrier to the end of the call on host 0. A case ends early when its turns
have taken `--case_s`.

`uplink_efficiency` is the minimum that one uplink must carry, 2 (n - 1) / n of
the bytes for an all-reduce and half of that for the others, divided by its rate
and by the time; headers of TCP and Ethernet limit it to 0.95. `algbw_gbps` and
`busbw_gbps` (GB/s) are defined as in nccl-tests. Lines with `fit` have latency
and time per byte of each algorithm, by least squares of relative errors over
the sizes; a line with `links` has the measurements for `auto`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import json
import re
import statistics
import sys
import time
from typing import Annotated, Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.collectives import choose, measure
from antjax.mesh.mesh import BATCH_AXES, GLOBAL_AXES, make_mesh
from benchmarks import cluster as cluster_lib
from benchmarks import harness

OPS = ('all_gather', 'reduce_scatter', 'all_reduce')
ALGORITHMS = {  # Name in the lines -> name in `Collectives`.
  'xla': 'xla',
  'flat_ring': 'ring',
  'hierarchical': 'hierarchical',
  'ho_ring': 'ho_ring',
  'auto': 'auto',
}
_MARK = 'RESULT '


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  clusters: Annotated[tuple[str, ...], 'Hosts x devices.'] = ('2x4', '4x2')
  uplinks_mbps: Annotated[tuple[float, ...], 'Rates, Mbit/s.'] = (100.0, 400.0)
  sizes_mb: Annotated[tuple[float, ...], 'MiB.'] = (1.0, 4.0, 16.0, 64.0)
  op: Annotated[tuple[str, ...], 'Ops to run.'] = OPS
  algorithm: Annotated[tuple[str, ...], 'Algorithms to run.'] = (*ALGORITHMS,)
  repeats: Annotated[int, 'Turns of each algorithm.'] = 5
  case_s: Annotated[float, 'Then an op and size has no new turn.'] = 5.0
  max_uplink_s: Annotated[float, 'Sizes that need more are left out.'] = 2.5
  payload_dtype: Annotated[str | None, 'Wire dtype; not of xla.'] = None

  def shapes(self) -> list[tuple[int, int]]:
    """Checks all flags; returns (hosts, devices per host) of each cluster."""
    for name in ('uplinks_mbps', 'sizes_mb'):
      values = getattr(self, name)
      if not values or not all(0 < x < float('inf') for x in values):
        sys.exit(f'--{name}: needed are positive numbers, such as 16,64.')
    harness.choose('op', self.op, dict.fromkeys(OPS))
    harness.choose('algorithm', self.algorithm, ALGORITHMS)
    shapes = []
    for text in self.clusters:
      found = re.fullmatch(r'(\d+)x(\d+)', text)
      hosts, devices = map(int, found.groups()) if found else (0, 0)
      if hosts * devices < 2:
        sys.exit(
          f'--clusters={",".join(self.clusters)}: needed is hosts x devices, at'
          ' least two devices in all, such as 2x4,4x2.'
        )
      shapes.append((hosts, devices))
    return shapes


def least_uplink_bytes(op: str, num_bytes: int, num_groups: int) -> float:
  """Minimum number of bytes that must leave each group."""
  once = num_bytes * (num_groups - 1) / num_groups
  return once * 2 if op == 'all_reduce' else once


def bus_factor(op: str, num_devices: int) -> float:
  """Factor from algbw to busbw, as in nccl-tests."""
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
  """Converts times of the algorithms to output lines."""
  medians = {name: statistics.median(times) for name, times in seconds.items()}
  least_s = least_uplink_bytes(op, num_bytes, num_groups) / (
    uplink_mbps * 1e6 / 8
  )
  lines = []
  for name, t in medians.items():
    algbw = num_bytes / t / 1e9
    speedups = {
      f'speedup_vs_{other}': medians[other] / t
      for other in ('flat_ring', 'xla')
      if other in medians
    }
    lines.append(
      {
        'op': op,
        'algorithm': name,
        'cluster': f'{num_groups}x{group_size}',
        'uplink_mbps': uplink_mbps,
        'bytes': num_bytes,
        'seconds': t,
        'uplink_efficiency': least_s / t,
        **speedups,
        'algbw_gbps': algbw,
        'busbw_gbps': algbw * bus_factor(op, num_groups * group_size),
        'min_s': min(seconds[name]),
        'num_turns': len(seconds[name]),
      }
    )
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


def _inputs(op: str, num_elements: int, mesh: Mesh) -> tuple[Any, Callable]:
  """(global input, check of one device's result) with exact sums."""
  num = mesh.size
  is_gather = op == 'all_gather'
  rows = 1 if is_gather else num

  def make():
    row = (jnp.arange(num_elements, dtype=jnp.int32) % 1000).astype(jnp.float32)
    addends = jnp.arange(rows, dtype=jnp.float32)
    return (row[None, :] + addends[:, None]).reshape(-1)

  spec = P(GLOBAL_AXES if is_gather else BATCH_AXES)
  x = jax.jit(make, out_shardings=NamedSharding(mesh, spec))()
  want = (np.arange(num_elements) % 1000).astype(np.float32)
  if not is_gather:
    want = want * num + num * (num - 1) // 2

  def is_right(result: Any, tolerance: float) -> bool:
    return all(
      np.allclose(
        np.asarray(shard.data),
        want[shard.index[0]] if op == 'reduce_scatter' else want,
        rtol=tolerance,
        atol=tolerance,
      )
      for shard in result.addressable_shards
    )

  return x, is_right


def _call(op: str, how: Any, mesh: Mesh) -> Callable:
  source = GLOBAL_AXES if op == 'all_gather' else BATCH_AXES
  # Equal results of devices are kept separately, so that each can be checked.
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


def _run_case(
  config: Config,
  op: str,
  num_bytes: int,
  hows: Mapping[str, Any],
  mesh: Mesh,
  barrier: Callable[[], Any],
) -> tuple[dict[str, list[float]], list[str]]:
  """Seconds of algorithms in turns, and names of those with wrong results."""
  x, is_right = _inputs(op, num_bytes // 4, mesh)
  calls, wrong = {}, []
  for name, how in hows.items():
    call = _call(op, how, mesh)
    tolerance = 0.05 if how.payload_dtype else 0.0
    right = is_right(jax.block_until_ready(call(x)), tolerance)
    if np.all(multihost_utils.process_allgather(np.array([right]))):
      calls[name] = call
    else:
      wrong.append(name)
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  start = time.perf_counter()
  for _ in range(config.repeats):
    for name, call in calls.items():
      jax.block_until_ready(barrier())
      begin = time.perf_counter()
      jax.block_until_ready(call(x))
      seconds[name].append(time.perf_counter() - begin)
    # All hosts must agree on one more turn.
    late = time.perf_counter() - start > config.case_s
    if bool(multihost_utils.broadcast_one_to_all(np.array(late))):
      break
  return seconds, wrong


def time_on_host(order: dict[str, Any]) -> None:
  """One host's part: all cases of one cluster, see `benchmarks.host_steps`."""
  uplink_mbps = order.pop('uplink_mbps')
  config = Config(**order)
  n, m = jax.process_count(), jax.local_device_count()
  head = {'cluster': f'{n}x{m}', 'uplink_mbps': uplink_mbps}
  for line in _lines(config, n, m, uplink_mbps):
    if jax.process_index() == 0:
      print(_MARK + json.dumps(harness.rounded(head | line)), flush=True)


def _lines(
  config: Config, n: int, m: int, uplink_mbps: float
) -> Iterator[dict[str, Any]]:
  mesh = make_mesh(intra=m)
  ones = jax.jit(
    lambda: jnp.ones(n * m), out_shardings=NamedSharding(mesh, P(BATCH_AXES))
  )()
  total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, P()))
  links = measure.measure(mesh)
  yield {'links': dataclasses.asdict(links)}
  hows = {
    name: choose.for_mesh(
      ALGORITHMS[name],
      mesh,
      links=links if name == 'auto' else None,
      payload_dtype=None if name == 'xla' else config.payload_dtype,
    )
    for name in config.algorithm
  }
  known = (
    '; XLA:CPU is known to give such from reduce-scatter between processes at'
    ' times (jax issue 40830)'
  )
  for op in config.op:
    points: dict[str, list[tuple[int, float]]] = {}
    for size_mb in config.sizes_mb:
      num_bytes = int(size_mb * 2**20) // (4 * n * m) * (4 * n * m)
      least = least_uplink_bytes(op, num_bytes, n) / (uplink_mbps * 1e6 / 8)
      if least > config.max_uplink_s:
        continue
      case = op, num_bytes
      seconds, wrong = _run_case(config, *case, hows, mesh, lambda: total(ones))
      for name in wrong:
        why = known if name in ('xla', 'hierarchical') else ''
        error = {'error': f'a wrong result{why}'}
        yield {'op': op, 'algorithm': name, 'bytes': num_bytes} | error
      for line in lines_of_case(
        *case, seconds, num_groups=n, group_size=m, uplink_mbps=uplink_mbps
      ):
        name = line['algorithm']
        points.setdefault(name, []).append((num_bytes, line['seconds']))
        if name == 'auto':
          line['picked'] = hows['auto'].pick(*case, n, m)
        if config.payload_dtype and name != 'xla':
          line['payload_dtype'] = config.payload_dtype
        yield line
    for name, pairs in points.items():
      if len(pairs) > 1:
        alpha, beta = fit(*zip(*pairs))
        found = {'alpha_s': alpha, 'beta_s_per_byte': beta}
        yield {'fit': found, 'op': op, 'algorithm': name}


# --- On the real machine. ---------------------------------------------------


def _show(host: int, line: str) -> None:
  if host == 0 and line.startswith(_MARK):
    print(line[len(_MARK) :], flush=True)


def main(config: Config) -> int:
  harness.start()
  shapes = config.shapes()
  work = 'benchmarks.collectives_bench:time_on_host'
  for shape, (hosts, devices) in zip(config.clusters, shapes, strict=True):
    for uplink in config.uplinks_mbps:
      order = dataclasses.asdict(config) | {'uplink_mbps': uplink}
      command = cluster_lib.host_command(work, order)
      try:
        with cluster_lib.Cluster(hosts, devices, uplink) as cluster:
          cluster.run(command, on_line=_show)
      except RuntimeError as error:
        print(f'collectives_bench: {shape}: {error}', file=sys.stderr)
        return 1
  return 0


if __name__ == '__main__':
  harness.run(main, Config())
