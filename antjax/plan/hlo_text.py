# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parses parts of an HLO instruction's text for the census.

Every function takes the text after the opcode's parenthesis, or a type.
"""

from collections.abc import Sequence
import math
import re

import numpy as np

# What the parts of one transfer, or of one collective in fusions, share.
RENDEZVOUS = re.compile(r'_xla_host_transfer_rendezvous="([^"]*)"')
CHAIN = re.compile(r'chain_id="(\w+)"')
_CALLED = re.compile(
  r'(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)'
)
_CALLED_LISTS = re.compile(
  r'(?:branch_computations|called_computations)=\{([^}]*)\}'
)
_ARRAY = re.compile(r'([a-z][a-z0-9]*)\[([\d,]*)\]')
# Device ids of a slice start at its number times this.
_SLICE_STRIDE = 100_000


def called(rest: str) -> list[str]:
  """Names of the computations that an instruction calls, except loops."""
  names = _CALLED.findall(rest)
  for listed in _CALLED_LISTS.findall(rest):
    names += [name.strip().lstrip('%') for name in listed.split(',')]
  return names


def elements(shape: str) -> list[str]:
  """Top-level elements of a tuple type; for another type, itself."""
  shape = shape.strip()
  if not shape.startswith('('):
    return [shape]
  parts, depth, start = list[str](), 0, 1
  for i, char in enumerate(shape):
    if char in ',)' and depth == 1:
      parts.append(shape[start:i])
      start = i + 1
    depth += (char in '([{') - (char in ')]}')
    if depth == 0:
      break
  return parts


def arrays(shape: str) -> list[tuple[str, int]]:
  """(dtype, number of elements) of each array in a type."""
  found = [
    (dtype, math.prod(int(d) for d in dims.split(',') if d))
    for dtype, dims in _ARRAY.findall(shape)
  ]
  if not found:
    raise ValueError(f'census.collectives: no array in the type {shape!r}.')
  return found


def shapes(shape: str) -> list[tuple[int, ...]]:
  """Dims of each array in a type."""
  return [
    tuple(int(d) for d in dims.split(',') if d)
    for _, dims in _ARRAY.findall(shape)
  ]


def num_bytes(arrays: Sequence[tuple[str, int]]) -> int:
  """Bytes of arrays given as (dtype, number of elements)."""
  bits = 0
  for dtype, num in arrays:
    digits = re.search(r'\d+', dtype)
    bits += num * (int(digits[0]) if digits else 8)  # pred has none.
  return bits // 8


def slices(target: str) -> set[int]:
  """Numbers of the slices that a host transfer connects."""
  product = re.match(r'"?\{([\d,:]+)\}x', target)
  if not product:
    return {int(i) // _SLICE_STRIDE for i in re.findall(r'\d+', target)}
  slices = set[int]()
  for part in product[1].split(','):
    first, _, last = part.partition(':')
    slices |= set(range(int(first), int(last or first) + 1))
  return slices


def source_target_pairs(rest: str) -> list[tuple[int, int]]:
  """(sender, receiver) of each part of a collective-permute."""
  pairs = re.search(r'source_target_pairs=\{(.*?)\}\}', rest)
  if not pairs:
    raise ValueError(f'census.collectives: no source_target_pairs in {rest!r}.')
  return [
    (int(a), int(b)) for a, b in re.findall(r'\{(\d+),(\d+)', pairs[1] + '}')
  ]


def _iota(dims: str, order: str | None) -> np.ndarray:
  """Flat device ids of `[2,4]T(1,0)`, given '2,4' and '1,0'."""
  shape = [int(d) for d in dims.split(',')]
  ids = np.arange(math.prod(shape)).reshape(shape)
  if order:
    ids = ids.transpose([int(d) for d in order.split(',')])
  return ids.reshape(-1)


def replica_groups(rest: str, num_devices: int) -> list[list[int]]:
  """Device groups, from the iota, mesh or list form."""
  iota = re.search(
    r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', rest
  )
  if iota:
    ids = _iota(iota[3], iota[4])
    return ids.reshape(int(iota[1]), int(iota[2])).tolist()
  mesh = re.search(
    r'replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}', rest
  )
  if mesh:
    axes = [(name, int(n)) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh[1])]
    ids = np.arange(num_devices)
    order = re.match(r'\[([\d,]+)\](?:T\(([\d,]+)\))?', mesh[2] or '')
    if order:
      ids = _iota(order[1], order[2])
    elif mesh[2]:
      ids = np.array([int(d) for d in re.findall(r'\d+', mesh[2])])
    over = re.findall(r"'(\w+)'", mesh[3])
    if ':' not in mesh[3]:  # Part of an axis is written 'axis':(1)2.
      last = [i for i, (name, _) in enumerate(axes) if name in over]
      first = [i for i in range(len(axes)) if i not in last]
      size = math.prod(axes[i][1] for i in last)
      ids = ids.reshape([n for _, n in axes]).transpose(first + last)
      return ids.reshape(-1, size).tolist()
  if 'replica_groups={}' in rest:
    return [list(range(num_devices))]
  plain = re.search(r'replica_groups=\{(\{.*?\})\}', rest)
  if not plain:
    raise ValueError(
      'census.collectives: cannot read the replica groups of'
      f' ...({rest[:200]}...; teach replica_groups this form.'
    )
  return [
    [int(i) for i in group.split(',')]
    for group in re.findall(r'\{([\d,]+)\}', plain[1])
  ]
