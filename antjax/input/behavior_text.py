# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Atomic behaviours from texts: normalise, split, cut.

An atomic behaviour is a short text such as 'order takeout' or a film's title;
a log often keeps many of them in one long text. Plain functions of Python: both
engines of `prepare` call them row by row, so the results are equal.
"""

from collections.abc import Callable
import dataclasses
import re
from typing import Annotated, Any, Literal
import unicodedata

import ibis
from ibis.expr import datatypes as dt
from ibis.expr import types as ir

# Control characters are no text: they part words, as blanks do.
_CONTROL = re.compile(r'[\x00-\x1f\x7f-\x9f]+')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalizer:
  """Makes one text of the ways in which the same behaviour is written.

  Unicode NFKC; control characters become blanks; runs of white space become one
  blank, and none is left at the ends. Applying it twice changes nothing.
  """

  lower: Annotated[bool, 'Whether to make all letters small.'] = False

  @property
  def name(self) -> str:
    """Name with version: another name may give other texts."""
    return 'nfkc-lower-1' if self.lower else 'nfkc-1'

  def __call__(self, text: str) -> str:
    """Returns the normalised text."""
    text = unicodedata.normalize('NFKC', text)
    if self.lower:
      # Lowering can leave a form that NFKC composes, such as of U+0130.
      text = unicodedata.normalize('NFKC', text.lower())
    return ' '.join(_CONTROL.sub(' ', text).split())


def from_name(name: str) -> Normalizer:
  """Returns the normaliser of a name that a vocabulary holds.

  Raises:
    ValueError: No normaliser of this version has that name.
  """
  for normalizer in (Normalizer(), Normalizer(lower=True)):
    if normalizer.name == name:
      return normalizer
  raise ValueError(
    f'normalizer={name!r} is none of nfkc-1, nfkc-lower-1: the vocabulary was'
    ' made by another version of antjax; make it anew.'
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splitter:
  """Cuts a long text into atomic behaviours."""

  separators: Annotated[
    str, 'Characters that part behaviours; see pattern for more.'
  ] = ';\n\t|'
  pattern: Annotated[
    str, "Python's regular expression that parts them, instead of separators."
  ] = ''
  max_behaviors: Annotated[
    int, 'Most behaviours of a text that are kept; 0: all.'
  ] = 0
  keep: Annotated[
    Literal['last', 'first'],
    'Which are kept where there are more; last: the newest of a log in time.',
  ] = 'last'
  max_chars: Annotated[
    int, 'Most characters of a behaviour; the rest is cut off. 0: no limit.'
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

  def split(self, text: str, normalizer: Normalizer) -> 'Pieces':
    """Returns the behaviours of a text, in its order.

    Args:
      text: As the log has it.
      normalizer: Applied to each piece, after the split: it would hide
        separators that are white space.
    """
    parts = self._parts(text)
    pieces = [piece for part in parts if (piece := normalizer(part))]
    num_dropped = 0
    if self.max_behaviors and len(pieces) > self.max_behaviors:
      num_dropped = len(pieces) - self.max_behaviors
      start = num_dropped if self.keep == 'last' else 0
      pieces = pieces[start : start + self.max_behaviors]
    cut = [self.cut(piece) for piece in pieces]
    num_cut = sum(len(a) != len(b) for a, b in zip(pieces, cut))
    return Pieces(cut, num_dropped, num_cut)

  def cut(self, text: str) -> str:
    """Cuts a normalised behaviour to `max_chars`; it stays normalised."""
    if not self.max_chars or len(text) <= self.max_chars:
      return text
    return text[: self.max_chars].rstrip(' ')

  def _parts(self, text: str) -> list[str]:
    if self.pattern:
      # Groups of the pattern would come between the parts.
      cuts = [m.span() for m in re.finditer(self.pattern, text)]
      starts = [0, *(stop for _, stop in cuts)]
      stops = [*(start for start, _ in cuts), len(text)]
      return [text[a:b] for a, b in zip(starts, stops)]
    if not self.separators:
      return [text]
    return re.split(f'[{re.escape(self.separators)}]', text)


@dataclasses.dataclass(frozen=True)
class Pieces:
  """The behaviours of a text, and what was left out.

  Attributes:
    texts: Normalised behaviours, none of them empty.
    num_dropped: Behaviours beyond `max_behaviors`.
    num_cut: Kept behaviours that were longer than `max_chars`.
  """

  texts: list[str]
  num_dropped: int = 0
  num_cut: int = 0


def title_column(
  column: ir.StringValue, normalizer: Normalizer, splitter: Splitter
) -> ir.StringValue:
  """Normalises and cuts a column of whole texts, on either engine."""

  def behavior_title(text: str) -> str:
    return splitter.cut(normalizer(text))

  return _udf(behavior_title, dt.string)(column)


def pieces_column(
  column: ir.StringValue, normalizer: Normalizer, splitter: Splitter
) -> ir.StructValue:
  """Splits a column of long texts, on either engine.

  Returns:
    Structs (texts, num_dropped, num_cut), see `Pieces`.
  """

  def behavior_pieces(text: str) -> dict[str, object]:
    return dataclasses.asdict(splitter.split(text, normalizer))

  kind = dt.Struct(
    {
      'texts': dt.Array(dt.string),
      'num_dropped': dt.int64,
      'num_cut': dt.int64,
    }
  )
  return _udf(behavior_pieces, kind)(column)


def _udf(
  function: Callable[[str], object], kind: dt.DataType
) -> Callable[[ir.StringValue], Any]:
  signature = ((dt.string,), kind)
  return ibis.udf.scalar.python(function, signature=signature)
