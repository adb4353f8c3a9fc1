# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Atomic behaviors from texts: normalize, split, cut.

An atomic behavior is a short text such as 'order takeout' or a film's title;
a log often keeps many of them in one long text. Plain functions of Python: both
engines call them, so that the results are equal.
"""

from collections.abc import Callable
import dataclasses
import functools
import re
from typing import Annotated, Literal, NamedTuple
import unicodedata

# Control characters are no text: they part words, as blanks do.
_CONTROL = re.compile(r'[\x00-\x1f\x7f-\x9f]+')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalizer:
  """Makes one text of the ways in which the same behavior is written.

  Unicode NFKC; control characters become blanks; runs of white space become one
  blank, and none is left at the ends. Applying it twice changes nothing.
  """

  lower: Annotated[bool, 'Convert all letters to lower case.'] = False

  @property
  def name(self) -> str:
    """Name with version: another name may give other texts."""
    return 'nfkc-lower-1' if self.lower else 'nfkc-1'

  def __call__(self, text: str) -> str:
    if not text.isascii():
      text = unicodedata.normalize('NFKC', text)
    if self.lower:
      # Lowering can leave a form that NFKC composes, such as of U+0130.
      text = unicodedata.normalize('NFKC', text.lower())
    if not text.isprintable():
      text = _CONTROL.sub(' ', text)
    return ' '.join(text.split())


def from_name(name: str) -> Normalizer:
  """The normalizer of a name in a vocabulary; ValueError if none has it."""
  for normalizer in (Normalizer(), Normalizer(lower=True)):
    if normalizer.name == name:
      return normalizer
  raise ValueError(
    f'normalizer={name!r} is none of nfkc-1, nfkc-lower-1: the vocabulary was'
    ' made by another version of antjax; make it anew.'
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splitter:
  """Cuts a long text into atomic behaviors."""

  separators: Annotated[
    str, 'Characters that separate behaviors. See pattern for other rules.'
  ] = ';\n\t|'
  pattern: Annotated[
    str, 'Python regular expression to use instead of separators.'
  ] = ''
  max_behaviors: Annotated[
    int, 'Maximum number of behaviors per text. 0: no limit.'
  ] = 0
  keep: Annotated[
    Literal['last', 'first'],
    'Behaviors to keep if a text has more than max_behaviors. last: the'
    ' newest, if the text is in time order.',
  ] = 'last'
  max_chars: Annotated[
    int, 'Maximum characters per behavior; the rest is cut. 0: no limit.'
  ] = 512

  def __post_init__(self) -> None:
    if self.keep not in ('first', 'last'):
      raise ValueError(f"keep={self.keep!r}; needed: 'first' or 'last'.")
    if min(self.max_behaviors, self.max_chars) < 0:
      raise ValueError(
        f'max_behaviors={self.max_behaviors} and max_chars={self.max_chars}'
        ' must not be negative; 0 means no limit.'
      )
    try:
      re.compile(self.pattern)
    except re.error as e:
      raise ValueError(
        f'pattern={self.pattern!r} is no regular expression ({e}).'
      ) from e

  def split(self, text: str, normalizer: Callable[[str], str]) -> 'Pieces':
    """Returns the behaviors of a text, in its order.

    The normalizer is applied to each piece, after the split: it would hide
    separators that are white space.
    """
    pieces = [
      piece for part in self._parts(text) if (piece := normalizer(part))
    ]
    num_dropped = 0
    if self.max_behaviors and len(pieces) > self.max_behaviors:
      num_dropped = len(pieces) - self.max_behaviors
      start = num_dropped if self.keep == 'last' else 0
      pieces = pieces[start : start + self.max_behaviors]
    num_cut = 0
    if self.max_chars and max(map(len, pieces), default=0) > self.max_chars:
      num_cut = sum(len(piece) > self.max_chars for piece in pieces)
      pieces = [self.cut(piece) for piece in pieces]
    return Pieces(pieces, num_dropped, num_cut)

  def cut(self, text: str) -> str:
    """Cuts a normalized behavior to `max_chars`; it stays normalized."""
    if not self.max_chars or len(text) <= self.max_chars:
      return text
    # NFKC of a part is the part, but white space may end it.
    return text[: self.max_chars].rstrip(' ')

  @functools.cached_property
  def _cutter(self) -> re.Pattern[str] | None:
    if self.pattern:
      return re.compile(self.pattern)
    if self.separators:
      return re.compile(f'[{re.escape(self.separators)}]')
    return None

  def _parts(self, text: str) -> list[str]:
    if self._cutter is None:
      return [text]
    if not self._cutter.groups:
      return self._cutter.split(text)
    # Groups of a pattern would come between the parts.
    cuts = [match.span() for match in self._cutter.finditer(text)]
    starts = [0, *(stop for _, stop in cuts)]
    stops = [*(start for start, _ in cuts), len(text)]
    return [text[a:b] for a, b in zip(starts, stops)]


class Pieces(NamedTuple):
  """The behaviors of a text, and what was left out."""

  texts: list[str]  # Normalized behaviors, none of them empty.
  num_dropped: int = 0  # Behaviors beyond `max_behaviors`.
  num_cut: int = 0  # Kept behaviors that were longer than `max_chars`.
