# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PaRO levels and codes: how each part of the state is sharded.

Source: "Rethinking Memory and Communication Costs for Efficient Data Parallel
Training of Large Language Models" (arXiv 2310.06003), section 3.1.
"""

import dataclasses
import enum
import itertools


class Level(enum.IntEnum):
  """How finely an array is sharded; a higher level is finer."""

  NONE = 0  # A full copy on every device.
  INTRA = 1  # Sharded inside a group; every group holds one full copy.
  GLOBAL = 2  # Sharded over all devices.

  @property
  def letter(self) -> str:
    return 'NIG'[self]

  def num_pieces(self, num_groups: int, group_size: int) -> int:
    """Number of distinct shards of an array."""
    return (1, group_size, num_groups * group_size)[self]


@dataclasses.dataclass(frozen=True)
class PaRO:
  """Levels of the parameters, the gradients and the optimizer state.

  The optimizer state must be sharded at least as finely as the other two: a
  coarser level costs memory and saves no communication. That leaves 14 of the
  27 combinations. The best known are NNN (data parallel), NNG, NGG and GGG
  (ZeRO 1, 2, 3) and III (MiCS, hybrid FSDP).
  """

  params: Level
  grads: Level
  opt_state: Level

  def __post_init__(self) -> None:
    coarsest = max(self.params, self.grads)
    if self.opt_state < coarsest:
      raise ValueError(
        f'PaRO code {self.code}: the optimizer state (level '
        f'{self.opt_state.name.lower()}) is split more coarsely than '
        f'{"the parameters" if self.params == coarsest else "the gradients"} '
        f'(level {coarsest.name.lower()}), which costs memory and saves no '
        f'communication; use {self.code[:2]}{coarsest.letter}. Valid codes: '
        f'{" ".join(_valid_codes())}.'
      )

  @classmethod
  def from_code(cls, code: 'str | PaRO') -> 'PaRO':
    """Reads a code such as 'IIG': parameters, gradients, optimizer state."""
    if isinstance(code, PaRO):
      return code
    if len(code) != 3 or set(code) - set('NIG'):
      raise ValueError(
        f'PaRO code {code!r}: needed are three letters of N (a copy on every '
        'device), I (split inside a group), G (split over all devices), for '
        'parameters, gradients and optimizer state. Valid codes: '
        f'{" ".join(_valid_codes())}.'
      )
    return cls(*(Level('NIG'.index(letter)) for letter in code))

  @property
  def code(self) -> str:
    return self.params.letter + self.grads.letter + self.opt_state.letter

  @property
  def sums_cross_early(self) -> bool:
    """Whether a layer's sums may be sent to other groups immediately.

    They may if a group shards its sum and the optimizer shards it more finely:
    a device then sends only a reduce-scatter of the layer's sums.
    """
    return self.grads is Level.INTRA and self.opt_state is Level.GLOBAL

  @property
  def params_come_back(self) -> bool:
    """Whether groups gather updated parameters from each other in a step."""
    return self.params < self.opt_state is Level.GLOBAL

  @property
  def is_elastic(self) -> bool:
    """Whether groups may run different numbers of micro-batches in a step.

    True if nothing inside the micro-batch loop crosses groups, that is, if
    neither parameters nor gradients are sharded globally.
    """
    return max(self.params, self.grads) < Level.GLOBAL

  @property
  def global_moves(self) -> tuple[str, ...]:
    """Transfers over both mesh axes at once, by `Collectives`.

    All others move along one axis at a time, by XLA's own collectives.
    """
    opened = self.params is Level.GLOBAL
    spread = (self.params, self.opt_state) == (Level.NONE, Level.GLOBAL)
    summed = self.grads is Level.GLOBAL
    synced = self.grads is Level.NONE and self.opt_state is not Level.INTRA
    moves = {'parameters': opened or spread, 'gradients': summed or synced}
    return tuple(name for name, is_global in moves.items() if is_global)


def _valid_codes() -> tuple[str, ...]:
  return tuple(
    p.letter + g.letter + o.letter
    for p, g, o in itertools.product(Level, repeat=3)
    if o >= max(p, g)
  )


class NotElasticError(ValueError):
  """The code does not allow unequal numbers of micro-batches per group."""


VALID_CODES: tuple[str, ...] = _valid_codes()
ELASTIC_CODES: tuple[str, ...] = tuple(
  code for code in VALID_CODES if PaRO.from_code(code).is_elastic
)
