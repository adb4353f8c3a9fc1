# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads tensors of a pytorch_model.bin without executing its pickle.

A file written by `torch.save` is a zip archive: a pickle describes tensors,
other entries hold their data. A pickle is a program. The interpreter here
accepts only the operations of state dicts and rejects all others by name,
before it reads any data.
"""

from collections.abc import Callable
import math
import pathlib
import pickletools
from typing import Any, NamedTuple
import zipfile

import jax.numpy as jnp
import numpy as np

_MAX_PICKLE = 1 << 26  # Bytes; a model with 10,000 tensors has about 2 MB.
_DTYPES = {
  'FloatStorage': np.dtype('<f4'),
  'HalfStorage': np.dtype('<f2'),
  'BFloat16Storage': np.dtype(jnp.bfloat16),
  'DoubleStorage': np.dtype('<f8'),
  'LongStorage': np.dtype('<i8'),
  'IntStorage': np.dtype('<i4'),
  'ShortStorage': np.dtype('<i2'),
  'CharStorage': np.dtype('i1'),
  'ByteStorage': np.dtype('u1'),
  'BoolStorage': np.dtype('?'),
}
_VALUES = (
  *('BINUNICODE', 'SHORT_BINUNICODE', 'BININT', 'BININT1', 'BININT2', 'LONG1'),
  *('BINFLOAT', 'BINUNICODE8'),
)
_EMPTY: dict[str, Callable[[], Any]] = {
  'EMPTY_TUPLE': tuple,
  'EMPTY_LIST': list,
  'EMPTY_DICT': dict,
  'NONE': lambda: None,
  'NEWTRUE': lambda: True,
  'NEWFALSE': lambda: False,
}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_MARK = object()


class _Global(NamedTuple):
  name: str


class _Tensor(NamedTuple):
  """A view of a storage: its entry and dtype, and counts of elements."""

  entry: str
  dtype: np.dtype
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def load(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The tensors of a file, memory-mapped.

  Raises:
    ValueError: The file is damaged, compressed or older than PyTorch 1.6, or
      its pickle is not a dict of tensors.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      entries = {x.filename: x for x in archive.infolist()}
      (root,) = (n[:-8] for n in entries if n.endswith('/data.pkl'))
      name = f'{root}data.pkl'
      order = f'{root}byteorder'
      if order in entries and archive.read(order) != b'little':
        raise ValueError('its numbers are big-endian')
      if entries[name].file_size > _MAX_PICKLE:
        raise ValueError(f'its pickle has more than {_MAX_PICKLE} bytes')
      found = _run(archive.read(name))
    data = np.memmap(path, np.uint8, 'r')
    if not isinstance(found, dict):
      raise ValueError('it holds no dict of tensors')
    for key, x in found.items():
      if not isinstance(x, _Tensor):
        raise ValueError(f'{key!r} is no tensor')
      found[key] = _view(key, x, entries[root + x.entry], data)
    return found
  except Exception as error:  # A damaged pickle may raise anything.
    raise ValueError(
      f'{path} is no file of tensors that PyTorch 1.6 or later wrote'
      f" ({error}); save the model as safetensors by transformers'"
      ' save_pretrained.'
    ) from error


def _view(
  name: str, tensor: _Tensor, entry: zipfile.ZipInfo, data: np.ndarray
) -> np.ndarray:
  """A tensor in its entry of a file's bytes; ValueError if it exceeds it."""
  # A local header ends with a name and extra data of variable length.
  header = entry.header_offset
  start = header + 30 + int(data[header + 26 : header + 30].view('<u2').sum())
  size = tensor.dtype.itemsize
  count = entry.file_size // size
  steps = zip(tensor.shape, tensor.strides, strict=True)
  last = tensor.offset + sum((n - 1) * step for n, step in steps)
  numbers = (tensor.offset, *tensor.shape, *tensor.strides)
  is_empty = not math.prod(tensor.shape)
  if (
    entry.compress_type != zipfile.ZIP_STORED
    or not all(type(n) is int and n >= 0 for n in numbers)
    or (last >= count and not is_empty)
  ):
    raise ValueError(f'{name} is compressed, or longer than its entry')
  if is_empty:
    return np.zeros(tensor.shape, tensor.dtype)
  flat = np.frombuffer(data, tensor.dtype, count, start)[tensor.offset :]
  strides = [step * size for step in tensor.strides]
  return np.lib.stride_tricks.as_strided(
    flat, tensor.shape, strides, writeable=False
  )


def _run(pickle: bytes) -> Any:
  """Evaluates a pickle of dicts of tensors."""
  stack: list[Any] = []
  memo: dict[int, Any] = {}

  def pop_mark() -> list[Any]:
    place = len(stack) - 1 - stack[::-1].index(_MARK)
    items = stack[place + 1 :]
    del stack[place:]
    return items

  value: Any
  for opcode, value, _ in pickletools.genops(pickle):
    name = opcode.name
    if name in _VALUES:
      stack.append(value)
    elif name in _EMPTY:
      stack.append(_EMPTY[name]())
    elif name == 'MARK':
      stack.append(_MARK)
    elif name in _TUPLES:
      items = stack[-_TUPLES[name] :]
      del stack[-_TUPLES[name] :]
      stack.append(tuple(items))
    elif name == 'TUPLE':
      stack.append(tuple(pop_mark()))
    elif name in ('BINPUT', 'LONG_BINPUT', 'MEMOIZE'):
      memo[len(memo) if value is None else value] = stack[-1]
    elif name in ('BINGET', 'LONG_BINGET'):
      stack.append(memo[value])
    elif name in ('GLOBAL', 'STACK_GLOBAL'):
      if name == 'STACK_GLOBAL':
        value = f'{stack.pop(-2)} {stack.pop()}'
      stack.append(_Global(value))
    elif name in ('SETITEM', 'SETITEMS'):
      items = pop_mark() if name == 'SETITEMS' else [stack.pop(-2), stack.pop()]
      stack[-1].update(zip(items[::2], items[1::2], strict=True))
    elif name == 'BINPERSID':
      kind, storage, key, _, _ = stack.pop()
      dtype = storage.name.removeprefix('torch ')
      if kind != 'storage' or dtype not in _DTYPES:
        raise ValueError(f'{dtype} is not supported')
      stack.append((f'data/{key}', _DTYPES[dtype]))
    elif name == 'REDUCE':
      arguments = stack.pop()
      stack.append(_call(stack.pop(), arguments))
    elif name == 'BUILD':
      stack.pop()  # Versions of modules in state dicts.
    elif name == 'STOP':
      return stack.pop()
    elif name not in ('PROTO', 'FRAME'):
      raise ValueError(f'its pickle has the operation {name}')
  raise ValueError('its pickle has no end')


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
  name = function.name
  if name == 'collections OrderedDict' and not arguments:
    return {}
  if name == 'torch._utils _rebuild_tensor_v2':
    (entry, dtype), offset, shape, strides, *_ = arguments
    return _Tensor(entry, dtype, offset, shape, strides)
  if name == 'torch._utils _rebuild_parameter':
    return arguments[0]
  raise ValueError(f'its pickle calls {name.replace(" ", ".")}')
