# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Times of texts, as seconds since 1970."""

import datetime
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FIXED = re.compile(r'(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)', re.ASCII)
# 'yyyy/M/d H:mm', as spreadsheet programs write a time.
_SHORT = re.compile(r'(\d{4})/(\d{1,2})/(\d{1,2}) (\d{1,2}):(\d{2})', re.ASCII)
_ISO = re.compile(
  r'\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?)?',
  re.ASCII,
)


def seconds_of(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
  """Seconds since 1970 int64 [n], and whether a text is a time, bool [n].

  Times are ISO 8601, 'yyyy-MM-dd HH:mm:ss' or 'yyyy/M/d H:mm', taken as UTC
  where they name no offset.
  """
  # Arrow reads other ISO forms, too: all of the same length as the first one
  # have no blank there.
  is_fixed = pc.and_(
    pc.equal(pc.binary_length(texts), len('2023-08-03 00:00:00')),
    pc.equal(pc.utf8_slice_codeunits(texts, 10, 11), ' '),
  )
  if pc.all(is_fixed).as_py() is not False:
    try:
      found = texts.cast(pa.timestamp('s')).cast(pa.int64()).to_numpy()
      return found, np.ones(len(texts), bool)
    except pa.ArrowInvalid:
      pass
  # The same moments come again and again.
  coded = texts.dictionary_encode()
  values = [seconds(text) for text in coded.dictionary.to_pylist()]
  index = coded.indices.to_numpy()
  found = np.array([x or 0 for x in values], np.int64)[index]
  return found, np.array([x is not None for x in values], bool)[index]


def seconds(text: str) -> int | None:
  """Seconds since 1970 of a text, or None if it is no time."""
  match = _FIXED.fullmatch(text) or _SHORT.fullmatch(text)
  if match is None:
    return _iso_seconds(text)
  year, month, day, hour, minute, *rest = map(int, match.groups())
  second = rest[0] if rest else 0
  try:
    moment = datetime.datetime(
      year, month, day, hour, minute, second, tzinfo=datetime.UTC
    )
  except ValueError:
    return None
  return int(moment.timestamp())


def _iso_seconds(text: str) -> int | None:
  if not _ISO.fullmatch(text):
    return None
  try:
    moment = datetime.datetime.fromisoformat(text)
  except ValueError:
    return None
  if moment.tzinfo is None:
    moment = moment.replace(tzinfo=datetime.UTC)
  return math.floor(moment.timestamp())
