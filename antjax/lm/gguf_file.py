# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads GGUF, the file format of llama.cpp.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2
and 3, little-endian. Tensors may be F32, F16, Q8_0 or Q4_1.
"""

from collections.abc import Mapping
import math
import os
import struct
from typing import Any, NamedTuple, NoReturn

import numpy as np

_ALIGNMENT = 32
_BLOCK = 32  # Numbers of a quantized block.
_MAX_DIMS = 4
# Code of a type of metadata -> its form.
_SCALARS = {
  0: '<u1',
  1: '<i1',
  2: '<u2',
  3: '<i2',
  4: '<u4',
  5: '<i4',
  6: '<f4',
  7: '?',
  10: '<u8',
  11: '<i8',
  12: '<f8',
}
_STRING, _ARRAY = 8, 9
# Blocks: Q8_0 is value = scale * q, Q4_1 is value = scale * q + least, with the
# first half of a block in the low halves of its bytes.
_Q8_0 = np.dtype([('scale', '<f2'), ('q', 'i1', _BLOCK)])
_Q4_1 = np.dtype([('scale', '<f2'), ('least', '<f2'), ('q', 'u1', _BLOCK // 2)])


class _Type(NamedTuple):
  """Storage of a tensor: numbers in a block, and the block's form."""

  name: str
  block: int
  form: np.dtype


_TYPES = {
  0: _Type('F32', 1, np.dtype('<f4')),
  1: _Type('F16', 1, np.dtype('<f2')),
  3: _Type('Q4_1', _BLOCK, _Q4_1),
  8: _Type('Q8_0', _BLOCK, _Q8_0),
}


class _Tensor(NamedTuple):
  shape: tuple[int, ...]
  type: _Type
  start: int


class GgufFile:
  """A file's metadata and tensors; mapped to memory, read where it is used.

  Attributes:
    metadata: Key -> number, text, or list or array of them.
    shapes: Name -> shape of all tensors, the fastest dim last as in numpy.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Reads the head of the file.

    Raises:
      FileNotFoundError: No such file.
      ValueError: It is no GGUF file, is cut off or damaged, or holds a tensor
        of a type that we do not read.
    """
    self._path = os.fspath(path)
    if os.path.getsize(self._path) < 24:
      self._fail('it is too short')
    self._bytes = np.memmap(self._path, np.uint8, 'r')
    self._at = 0
    if bytes(self._take(4)) != b'GGUF':
      self._fail('it does not begin with GGUF')
    version = self._number('<u4')
    if version not in (2, 3):
      self._fail(f'it has version {version}; needed is 2 or 3')
    num_tensors, num_keys = self._number('<u8'), self._number('<u8')
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
      key = self._text()
      metadata[key] = self._value(self._number('<u4'))
    heads = [self._tensor_head() for _ in range(num_tensors)]
    alignment = metadata.get('general.alignment', _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
      self._fail(f'its alignment is {alignment}')
    first = -(-self._at // alignment) * alignment
    self._tensors: dict[str, _Tensor] = {}
    for name, shape, kind, offset in heads:
      if name in self._tensors:
        self._fail(f'tensor {name!r} is listed twice')
      self._tensors[name] = self._check(name, shape, kind, first + offset)
    self.metadata: Mapping[str, Any] = metadata
    self.shapes: Mapping[str, tuple[int, ...]] = {
      name: tensor.shape for name, tensor in self._tensors.items()
    }

  def read(
    self, name: str, index: tuple[slice | np.ndarray, ...] = ()
  ) -> np.ndarray:
    """A tensor's piece; fp16 where it is stored so, else fp32.

    Args:
      name: The tensor.
      index: Slices of its dims, or for the first one numbers of rows; only
        these rows are read.
    """
    shape, kind, start = self._tensors[name]
    rows = math.prod(shape[:-1])
    row_bytes = shape[-1] // kind.block * kind.form.itemsize
    stored = self._bytes[start : start + rows * row_bytes]
    stored = stored.reshape(*shape[:-1], row_bytes)
    first, last = index[:-1], index[-1:]
    if len(index) < len(shape):
      first, last = index, ()
    blocks = np.ascontiguousarray(stored[first]).view(kind.form)
    values = _decode(blocks, kind)
    return values[(..., *last)]

  def _fail(self, why: str) -> NoReturn:
    raise ValueError(
      f'{self._path} is no GGUF file that can be read: {why}. Get it again, or'
      ' a Hugging Face folder of the model.'
    )

  def _take(self, num_bytes: int) -> np.ndarray:
    stop = self._at + num_bytes
    if stop > len(self._bytes):
      self._fail(f'it ends after {len(self._bytes)} bytes, inside its head')
    taken = self._bytes[self._at : stop]
    self._at = stop
    return taken

  def _number(self, form: str) -> Any:
    dtype = np.dtype(form)
    return self._take(dtype.itemsize).view(dtype)[0].item()

  def _text(self) -> str:
    data = bytes(self._take(self._number('<u8')))
    # A token may be a part of a character.
    return data.decode('utf-8', errors='surrogateescape')

  def _value(self, kind: int) -> Any:
    if kind == _STRING:
      return self._text()
    if kind in _SCALARS:
      return self._number(_SCALARS[kind])
    if kind != _ARRAY:
      self._fail(f'it has metadata of type {kind}')
    kind, length = self._number('<u4'), self._number('<u8')
    if kind in _SCALARS:
      dtype = np.dtype(_SCALARS[kind])
      return self._take(length * dtype.itemsize).view(dtype)
    # Each text has 8 bytes for its length.
    if kind != _STRING or length * 8 > len(self._bytes) - self._at:
      self._fail(f'it has {length} elements of type {kind}')
    return self._texts(length)

  def _texts(self, length: int) -> list[str]:
    """Many texts: over plain bytes, which are 20 times faster than arrays."""
    data, at, texts = self._bytes.data, self._at, []
    for _ in range(length):
      if at + 8 > len(data):
        self._take(len(data))  # Fails.
      (size,) = struct.unpack_from('<Q', data, at)
      if at + 8 + size > len(data):
        self._take(len(data))
      text = bytes(data[at + 8 : at + 8 + size])
      texts.append(text.decode('utf-8', errors='surrogateescape'))
      at += 8 + size
    self._at = at
    return texts

  def _tensor_head(self) -> tuple[str, tuple[int, ...], int, int]:
    name, num_dims = self._text(), self._number('<u4')
    if not 0 < num_dims <= _MAX_DIMS:
      self._fail(f'tensor {name!r} has {num_dims} dims')
    dims = [self._number('<u8') for _ in range(num_dims)]
    return name, tuple(dims[::-1]), self._number('<u4'), self._number('<u8')

  def _check(
    self, name: str, shape: tuple[int, ...], code: int, start: int
  ) -> _Tensor:
    if code not in _TYPES:
      known = ', '.join(kind.name for kind in _TYPES.values())
      self._fail(f'tensor {name!r} has type {code}; known are {known}')
    kind = _TYPES[code]
    if shape[-1] % kind.block:
      self._fail(f'tensor {name!r} of {kind.name} has rows of {shape[-1]}')
    num_bytes = math.prod(shape) // kind.block * kind.form.itemsize
    if start + num_bytes > len(self._bytes):
      self._fail(f'it ends before the end of tensor {name!r}')
    return _Tensor(shape, kind, start)


def _decode(blocks: np.ndarray, kind: _Type) -> np.ndarray:
  """Numbers [..., columns] of blocks [..., columns / block]."""
  if kind.block == 1:
    return blocks
  scale = blocks['scale'].astype(np.float32)[..., None]
  if kind.form is _Q8_0:
    values = scale * blocks['q']
  else:
    halves = [blocks['q'] & 0xF, blocks['q'] >> 4]
    values = scale * np.concatenate(halves, axis=-1)
    values += blocks['least'].astype(np.float32)[..., None]
  return values.reshape(*blocks.shape[:-1], -1)
