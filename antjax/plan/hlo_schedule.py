# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds the collectives of a scheduled program that overlap with products.

The text of a compiled program is in the order in which a device issues its
instructions. A collective is hidden if a matrix product is between its start
and its end. One that is a single instruction, or ends before the next product,
is exposed.
"""

from collections.abc import Iterator, Mapping, Sequence
import re

from antjax.plan import hlo_text

_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%?([\w.\-]+) = .*? ([a-z][\w\-]*)\(')
_OPERAND = re.compile(r'\(%?([\w.\-]+)')
# Product kernels of libraries, Triton and Pallas.
_KERNELS = re.compile(
  r'custom_call_target="(?:__cublas|__cudnn|__triton|tpu_custom_call)'
)
_COLLECTIVE = re.compile(
  r'(all-gather|reduce-scatter|all-reduce|all-to-all|collective-permute'
  r'|collective-broadcast|ragged-all-to-all|send|recv)(-start)?$'
)


def hidden(bodies: Mapping[str, Sequence[str]]) -> frozenset[str]:
  """Names of the collectives that overlap with a product.

  Args:
    bodies: Computation -> lines of its instructions, as scheduled.
  """
  reader = _Reader(bodies)
  found: set[str] = set()
  for name in bodies:
    found |= reader.hidden_in(name)
  return frozenset(found)


class _Reader:
  """Computations of one module, each read once."""

  def __init__(self, bodies: Mapping[str, Sequence[str]]):
    self._bodies = bodies
    self._has_product: dict[str, bool] = {}
    self._inside: dict[str, frozenset[str]] = {}

  def _instructions(self, computation: str) -> Iterator[tuple[str, str, str]]:
    """(name, opcode, text from the operands on) of each, as scheduled."""
    for line in self._bodies.get(computation, ()):
      if found := _INSTRUCTION.match(line):
        yield found[1], found[2], line[found.end() - 1 :]

  def hidden_in(self, computation: str) -> set[str]:
    """Hidden ones started in a computation, or in its called starts."""
    found: set[str] = set()
    starts: dict[str, tuple[int, set[str]]] = {}  # Open starts, by name.
    meetings: dict[str, set[str]] = {}  # Transfers, by shared id.
    chains: dict[str, set[str]] = {}
    busy: set[str] = set()  # Chains with a product fused to a part.
    num_products = 0
    for name, op, rest in self._instructions(computation):
      first = _OPERAND.match(rest)
      operand = first[1] if first else ''
      if op.endswith('-update') and operand in starts:
        begun, names = starts.pop(operand)
        # Input of a SparseCore kernel.
        at = num_products if op.startswith('custom-call') else begun
        starts[name] = at, names
        continue
      if op.endswith('-done') and operand in starts:
        begun, names = starts.pop(operand)
        if num_products > begun:
          found |= names
        continue
      if op in ('send', 'recv') or op.endswith('-start'):
        names = {name}
        if meeting := hlo_text.RENDEZVOUS.search(rest):
          # The send represents both; the receive is what blocks.
          names = meetings.setdefault(meeting[1], set())
          names.add(name)
        for part in hlo_text.called(rest):
          names = names | self._collectives(part)
        starts[name] = num_products, names
        continue
      has_product = self._is_product(op, rest)
      num_products += has_product
      for chain, names in self._chains(_called(rest)).items():
        chains.setdefault(chain, set()).update(names)
        if has_product:
          busy.add(chain)
    for chain in busy:
      found |= chains[chain]
    return found

  def _is_product(self, op: str, rest: str) -> bool:
    if op in ('dot', 'convolution'):
      return True
    if op == 'custom-call' and _KERNELS.search(rest):
      return True
    return any(map(self._computes, _called(rest)))

  def _computes(self, computation: str) -> bool:
    """Whether a computation, or one that it calls, has a product."""
    if computation not in self._has_product:
      self._has_product[computation] = False
      self._has_product[computation] = any(
        self._is_product(op, rest)
        for _, op, rest in self._instructions(computation)
      )
    return self._has_product[computation]

  def _collectives(self, computation: str) -> frozenset[str]:
    """Names of the collectives of a computation and its callees."""
    if computation not in self._inside:
      self._inside[computation] = frozenset()
      names: set[str] = set()
      for name, op, rest in self._instructions(computation):
        if _COLLECTIVE.match(op):
          names.add(name)
        for called in hlo_text.called(rest):
          names |= self._collectives(called)
      self._inside[computation] = frozenset(names)
    return self._inside[computation]

  def _chains(self, called: Sequence[str]) -> dict[str, set[str]]:
    """Chain -> its parts in computations of a fusion."""
    found: dict[str, set[str]] = {}
    for computation in called:
      for name, op, rest in self._instructions(computation):
        chain = hlo_text.CHAIN.search(rest)
        if chain and _COLLECTIVE.match(op):
          found.setdefault(chain[1], set()).add(name)
    return found


def _called(rest: str) -> list[str]:
  """Computations that an instruction runs, including loop bodies."""
  body = re.search(r'body=%?([\w.\-]+)', rest)
  return hlo_text.called(rest) + ([body[1]] if body else [])
