# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models in GGUF, the file format of llama.cpp, read by its own package.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2
and 3. `GgufModel` has fields and tensors by their Hugging Face names.
"""

from collections.abc import Mapping
import math
import os
import pathlib
import re
from typing import Any, NoReturn

import gguf
import numpy as np

from antjax.lm.family_tables import TABLES

_PLAIN = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
# Field of config.json -> key of the metadata, after the architecture.
_FIELDS = TABLES['gguf']['fields']
_OPTIONAL = ('rope_theta', 'num_key_value_heads', 'head_dim')
_TOP, _LAYER = TABLES['gguf']['top'], TABLES['gguf']['layer']
ARCHITECTURES = ('llama', 'qwen2')


def find(path: str | os.PathLike[str], name: str) -> pathlib.Path:
  """The file `name` of a model's folder, or otherwise its only GGUF file.

  A path that is not a folder is taken to be a GGUF file.

  Raises:
    FileNotFoundError: The folder has neither, or has several GGUF files.
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
  """A reader that raises at the end of the file, unlike gguf's own.

  Plain buffers are also several times faster than slices of a memory map.
  """

  def _get(
    self, offset: int, dtype: Any, count: Any = 1, override_order: Any = None
  ) -> np.ndarray:
    form = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
    return np.frombuffer(self.data, form, int(count), int(offset))


class GgufFile:
  """A file's metadata and tensors, memory-mapped and read on use.

  Attributes:
    metadata: Key -> number, text, or list of these.
    shapes: Name -> shape of all tensors, the fastest dim last as in numpy.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Reads the head of the file.

    Raises:
      FileNotFoundError: No such file.
      ValueError: It is not a GGUF file, is truncated or damaged, or has a
        tensor of a type unknown to the package.
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
    """A tensor's piece; fp16 if it is stored as such, else fp32.

    `index` has slices of its dims; the first may be row numbers, and then only
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
    # A token may be part of a character.
    values = [bytes(x).decode('utf-8', 'surrogateescape') for x in parts]
  else:
    values = [x[0].item() for x in parts]
  return values if field.types[0] == gguf.GGUFValueType.ARRAY else values[0]


class GgufModel:
  """The model in a file, with Hugging Face's names of tensors.

  Attributes:
    file: The GGUF file.
    fields: Fields of the corresponding config.json.
    shapes: Name -> shape of all tensors.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Reads the head of the file.

    Raises:
      FileNotFoundError: No such file.
      ValueError: It is not a GGUF file, or its architecture is unknown.
    """
    self.file = GgufFile(path)
    self.fields = _fields(self.file, path)
    self._names: dict[str, str] = {}
    for name in self.file.shapes:
      ours = _name(name)
      if ours in self._names:
        raise ValueError(
          f'{path}: {self._names[ours]} and {name} are both {ours}; needed is'
          ' one of them.'
        )
      self._names[ours] = name
    self.shapes: Mapping[str, tuple[int, ...]] = {
      ours: self.file.shapes[name] for ours, name in self._names.items()
    }

  def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
    """A tensor's piece, in Hugging Face's order of rows."""
    stored = self._names[name]
    place = ('attn_q.', 'attn_k.')
    is_turned = self.fields['model_type'] == 'llama' and any(
      part in stored for part in place
    )
    if not is_turned:
      return self.file.read(stored, index)
    is_query = place[0] in stored
    heads = 'num_attention_heads' if is_query else 'num_key_value_heads'
    rows = rotary_rows(self.shapes[name][0], self.fields[heads])
    first, rest = (index[0], index[1:]) if index else (slice(None), ())
    return self.file.read(stored, (rows[first], *rest))


def rotary_rows(num_rows: int, num_heads: int) -> np.ndarray:
  """Row of llama.cpp's q or k projection for each row of Hugging Face's.

  llama.cpp rotates neighboring pairs of a head's numbers, Hugging Face pairs
  that are half a head apart. llama.cpp's converter reorders the rows of Llama
  models accordingly. In the wrong order a model still writes text, but worse.
  """
  pairs = np.arange(num_rows).reshape(num_heads, -1, 2)
  return pairs.swapaxes(1, 2).reshape(-1)


def _fields(file: GgufFile, path: Any) -> dict[str, Any]:
  metadata = file.metadata
  name = metadata.get('general.architecture')
  if name not in ARCHITECTURES:
    raise ValueError(
      f'{path} holds a model of architecture {name!r}; known are'
      f' {", ".join(ARCHITECTURES)}.'
    )
  missing = [
    key
    for field, key in _FIELDS.items()
    if field not in _OPTIONAL and f'{name}.{key}' not in metadata
  ]
  tensors = ('token_embd.weight', 'output_norm.weight')
  missing += [tensor for tensor in tensors if tensor not in file.shapes]
  if missing:
    raise ValueError(f'{path} lacks {", ".join(missing)}.')
  fields: dict[str, Any] = {
    'model_type': name,
    'vocab_size': file.shapes['token_embd.weight'][0],
    'tie_word_embeddings': 'output.weight' not in file.shapes,
  }
  for field, key in _FIELDS.items():
    if f'{name}.{key}' in metadata:
      value = metadata[f'{name}.{key}']
      is_size = field not in ('rms_norm_eps', 'rope_theta')
      kind = int if is_size else int | float
      if isinstance(value, bool) or not isinstance(value, kind) or value <= 0:
        needed = 'a whole number' if is_size else 'a number'
        raise ValueError(
          f'{path}: {name}.{key}={value!r}; needed is {needed} above 0.'
        )
      fields[field] = value
  fields.setdefault('num_key_value_heads', fields['num_attention_heads'])
  # GGUF has fp32; use the shortest number with the same fp32.
  for field in ('rms_norm_eps', 'rope_theta'):
    if field in fields:
      fields[field] = float(str(np.float32(fields[field])))
  _check_neutral(metadata, name, fields, path)
  return fields


def _check_neutral(
  metadata: Mapping[str, Any], name: str, fields: dict[str, Any], path: Any
) -> None:
  """Rejects keys that would change the computation of our model."""
  width = fields.get('head_dim')
  if width is None:
    width = fields['hidden_size'] // fields['num_attention_heads']
  neutral = {
    'rope.scaling.type': 'none',
    'rope.scaling.factor': 1.0,
    'rope.scale_linear': 1.0,
    'rope.dimension_count': width,
    'attention.value_length': width,
    'attention.scale': width**-0.5,
    'logit_scale': 1.0,
    'expert_count': 0,
  }
  for key, value in neutral.items():
    got = metadata.get(f'{name}.{key}', value)
    # GGUF has fractions in fp32.
    if isinstance(got, int | float) and isinstance(value, float):
      same = math.isclose(got, value, rel_tol=1e-6)
    else:
      same = isinstance(got, int | float | str) and got == value
    if not same:
      raise ValueError(
        f'{path}: {name}.{key}={got!r} is not supported; needed is {value!r},'
        ' or a model without it.'
      )


def _name(name: str) -> str:
  """Hugging Face's name of a tensor; unknown names stay."""
  found = re.fullmatch(r'blk\.(\d+)\.(\w+)\.(weight|bias)', name)
  if found and found[2] in _LAYER:
    return f'model.layers.{found[1]}.{_LAYER[found[2]]}.{found[3]}'
  return _TOP.get(name, name)
