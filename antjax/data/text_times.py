# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads columns of times written as text, many at a time."""

import datetime
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FIXED = re.compile(r'(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)', re.ASCII)
# 'yyyy/M/d H:mm', as spreadsheet programs write a time.
_SHORT = re.compile(r'(\d{4})/(\d{1,2})/(\d{1,2}) (\d{1,2}):(\d{2})', re.ASCII)


def seconds(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
  """Reads 'yyyy-MM-dd HH:mm:ss' and 'yyyy/M/d H:mm', taken as UTC.

  Args:
    texts: Without nulls, [n].

  Returns:
    Seconds since 1970 int64 [n], 0 where a text is no time, and whether it is
    one, bool [n].
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
  values = [_seconds(text) for text in coded.dictionary.to_pylist()]
  index = coded.indices.to_numpy()
  found = np.array([x or 0 for x in values], np.int64)[index]
  return found, np.array([x is not None for x in values], bool)[index]


def _seconds(text: str) -> int | None:
  match = _FIXED.fullmatch(text) or _SHORT.fullmatch(text)
  if match is None:
    return None
  year, month, day, hour, minute, *rest = map(int, match.groups())
  second = rest[0] if rest else 0
  try:
    moment = datetime.datetime(
      year, month, day, hour, minute, second, tzinfo=datetime.UTC
    )
  except ValueError:
    return None
  return int(moment.timestamp())
