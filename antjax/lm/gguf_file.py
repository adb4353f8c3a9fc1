# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads GGUF, the file format of llama.cpp, through its own package.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2
and 3.
"""

from collections.abc import Mapping
import os
import pathlib
from typing import Any, NoReturn

import gguf
import numpy as np

_PLAIN = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)


def find(path: str | os.PathLike[str], name: str) -> pathlib.Path:
  """The file `name` of a model's folder, or else its only GGUF file.

  A path that is no folder is that of a GGUF file.

  Raises:
    FileNotFoundError: The folder has neither, or several GGUF files.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    return path
  if (path / name).is_file():
    return path / name
  found = sorted(path.glob('*.gguf'))
  if len(found) != 1:
    raise FileNotFoundError(
      f'{path} holds no {name} and {len(found)} *.gguf files; needed is a'
      ' Hugging Face folder or one GGUF file. python -m launch.fetch_model gets'
      ' small ones.'
    )
  return found[0]


class _Reader(gguf.GGUFReader):
  """A reader that fails at the end of the file, unlike gguf's own.

  Plain buffers are also several times faster than slices of a memory map.
  """

  def _get(
    self, offset: int, dtype: Any, count: Any = 1, override_order: Any = None
  ) -> np.ndarray:
    form = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
    return np.frombuffer(self.data, form, int(count), int(offset))


class GgufFile:
  """A file's metadata and tensors; memory-mapped, read on use.

  Attributes:
    metadata: Key -> number, text, or list of them.
    shapes: Name -> shape of all tensors, the fastest dim last as in numpy.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Reads the head of the file.

    Raises:
      FileNotFoundError: No such file.
      ValueError: It is no GGUF file, is cut off or damaged, or holds a tensor
        of a type that the package does not know.
    """
    self._path = os.fspath(path)
    try:
      reader = _Reader(self._path)
      metadata = {key: _value(field) for key, field in reader.fields.items()}
    except (ValueError, LookupError, OverflowError) as error:
      self._fail(error)
    self.metadata: Mapping[str, Any] = metadata
    self._tensors = {tensor.name: tensor for tensor in reader.tensors}
    self.shapes: Mapping[str, tuple[int, ...]] = {
      name: tuple(tensor.shape[::-1].tolist())
      for name, tensor in self._tensors.items()
    }

  def read(
    self, name: str, index: tuple[slice | np.ndarray, ...] = ()
  ) -> np.ndarray:
    """A tensor's piece; fp16 where it is stored so, else fp32.

    `index` holds slices of its dims, or for the first one numbers of rows: only
    these rows are read.
    """
    stored, kind = self._tensors[name].data, self._tensors[name].tensor_type
    if kind in _PLAIN:
      return stored[index]
    first, last = index[:-1], index[-1:]
    if len(index) < stored.ndim:
      first, last = index, ()
    try:
      values = gguf.dequantize(stored[first], kind)
    except NotImplementedError as error:
      self._fail(f'tensor {name!r}: {error}')
    return values[(..., *last)]

  def _fail(self, why: Any) -> NoReturn:
    raise ValueError(
      f'{self._path} is no GGUF file that can be read: {why}. Get it again, or'
      ' a Hugging Face folder of the model.'
    )


def _value(field: gguf.ReaderField) -> Any:
  parts = [field.parts[i] for i in field.data]
  values: list[Any]
  if field.types[-1] == gguf.GGUFValueType.STRING:
    # A token may be a part of a character.
    values = [bytes(x).decode('utf-8', 'surrogateescape') for x in parts]
  else:
    values = [x[0].item() for x in parts]
  return values if field.types[0] == gguf.GGUFValueType.ARRAY else values[0]
