# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads columns of times written as text, many at a time."""

import datetime
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# 'yyyy/M/d H:mm', as spreadsheet programs write a time.
_SHORT = re.compile(r'(\d{4})/(\d{1,2})/(\d{1,2}) (\d{1,2}):(\d{2})')
_LENGTH = len('2023-08-03 00:00:00')
_MARKS = {4: '-', 7: '-', 10: ' ', 13: ':', 16: ':'}
_DIGITS = [i for i in range(_LENGTH) if i not in _MARKS]


def seconds(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
  """Reads 'yyyy-MM-dd HH:mm:ss' and 'yyyy/M/d H:mm', taken as UTC.

  Args:
    texts: Without nulls, [n].

  Returns:
    Seconds since 1970 int64 [n], 0 where a text is no time, and whether it is
    one, bool [n].
  """
  found, is_time = _fixed(texts)
  rest = np.flatnonzero(~is_time)
  if len(rest):
    # The same minutes come again and again.
    coded = texts.take(pa.array(rest)).dictionary_encode()
    values = [_short(text) for text in coded.dictionary.to_pylist()]
    index = coded.indices.to_numpy()
    found[rest] = np.array([x or 0 for x in values], np.int64)[index]
    is_time[rest] = np.array([x is not None for x in values], bool)[index]
  return found, is_time


def _fixed(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
  """Those of the form with a fixed length."""
  fits = pc.equal(pc.binary_length(texts), _LENGTH).to_numpy(
    zero_copy_only=False
  )
  if not fits.all():
    found = np.zeros(len(texts), np.int64)
    is_time = fits.copy()
    part = texts.filter(pa.array(fits))
    found[fits], is_time[fits] = _fixed(part)
    return found, is_time
  if not len(texts):
    return np.zeros(0, np.int64), np.zeros(0, bool)
  _, offsets, data = texts.buffers()
  start = np.frombuffer(offsets, np.int32)[texts.offset]
  chars = np.frombuffer(data, np.uint8)[start : start + len(texts) * _LENGTH]
  chars = np.ascontiguousarray(chars.reshape(-1, _LENGTH).T)
  digits = chars - np.uint8(ord('0'))
  is_time = np.ones(len(texts), bool)
  for place in _DIGITS:
    is_time &= digits[place] <= 9
  for place, mark in _MARKS.items():
    is_time &= chars[place] == ord(mark)

  def number(start: int, stop: int) -> np.ndarray:
    total = np.zeros(len(texts), np.int64)
    for place in range(start, stop):
      total = 10 * total + digits[place]
    return total

  year, month, day = number(0, 4), number(5, 7), number(8, 10)
  hour, minute, second = number(11, 13), number(14, 16), number(17, 19)
  is_time &= (month >= 1) & (month <= 12) & (day >= 1) & (year >= 1)
  is_time &= (hour < 24) & (minute < 60) & (second < 60)
  months = np.where(is_time, 12 * (year - 1970) + month - 1, 0)
  first = months.astype('datetime64[M]').astype('datetime64[D]')
  next_month = (months + 1).astype('datetime64[M]').astype('datetime64[D]')
  first, next_month = first.astype(np.int64), next_month.astype(np.int64)
  is_time &= first + day <= next_month
  total = ((first + day - 1) * 24 + hour) * 3600 + minute * 60 + second
  return np.where(is_time, total, 0), is_time


def _short(text: str) -> int | None:
  found = _SHORT.fullmatch(text)
  if found is None or not text.isascii():
    return None
  try:
    year, month, day, hour, minute = map(int, found.groups())
    moment = datetime.datetime(
      year, month, day, hour, minute, tzinfo=datetime.UTC
    )
  except ValueError:
    return None
  return int(moment.timestamp())
