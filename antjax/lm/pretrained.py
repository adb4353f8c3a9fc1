# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pretrained weights: Hugging Face folders (read, write) and GGUF (read)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import json
import os
import pathlib
from typing import Any, Protocol

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Sharding
import numpy as np
import safetensors.numpy

from antjax import paths
from antjax.lm import (
  config_json,
  families,
  gguf_model,
  hub,
  safetensors_file,
  transformer,
)
from antjax.lm.blocks import Block
from antjax.lm.config import Config
from antjax.lm.transformer import Transformer

PyTree = Any
CONFIG_NAME = 'config.json'
_SHOWN = 5  # Maximum number of names in an error.


class TensorSource(Protocol):
  """Source of tensors by their Hugging Face names."""

  shapes: Mapping[str, tuple[int, ...]]

  def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
    """A tensor's piece."""


def load_pretrained(
  path: str | os.PathLike[str],
  *,
  dtype: jax.typing.DTypeLike | None = jnp.float32,
  shardings: PyTree | Sharding | None = None,
) -> tuple[Config, PyTree]:
  """Reads a model shard by shard, directly to its devices.

  The host holds one device's shard of one leaf (stacked over layers) at a time,
  and does not read shards of other hosts.

  Args:
    path: Folder with config.json and model.safetensors (or its index), a .gguf
      file or a folder with one, or hf://org/name, see `hub`. For families see
      `family_tables`; in GGUF, Llama and Qwen2.
    dtype: Dtype of the parameters. None: as stored (quantized ones as fp32).
    shardings: One sharding for all leaves, or a tree of the same structure as
      the parameters. None: the default device.

  Returns:
    (config, params), for `Transformer.of`.

  Raises:
    FileNotFoundError: A file does not exist.
    ValueError: The family or a setting is not supported, a file is damaged, or
      tensors are missing, unknown or of a wrong shape.
  """
  path = hub.local(path, or_name=True)
  file, fields, source = _open(path)
  family = families.family_of(fields, file)
  config = config_json.read_config(fields, file)
  names = families.tensor_names(family, config)
  shapes = transformer.shapes(config)
  needed = _needed(family, names, shapes)
  source = families.SplitSource(source, family, needed)
  files = _match(path, family, config, needed, source)
  families.check_tied(source, config, files, names['embed'][0])
  if shardings is None:
    shardings = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  if isinstance(shardings, Sharding):
    home = shardings
    shardings = jax.tree.map(
      lambda _: home, shapes, is_leaf=transformer.is_shape
    )

  def leaf(keys, shape, found, home):
    stored = [None if name is None else files[name] for name in found]
    read = _Leaf(path, source, stored, family, _path(keys), shape, dtype)
    return _place(read, shape, home)

  return config, jax.tree.map_with_path(
    leaf, shapes, names, shardings, is_leaf=transformer.is_shape
  )


def load(
  path: str | os.PathLike[str],
  *,
  dtype: jax.typing.DTypeLike | None = jnp.float32,
  shardings: PyTree | Sharding | None = None,
  block: Callable[..., Block] = Block,
) -> Transformer:
  """Loads the model at a path; see `load_pretrained`.

  Args:
    path: Folder, file, hf://org/name, or org/name if there is no such folder.
    dtype: Dtype of the parameters. None: as stored.
    shardings: One sharding for all leaves, or a tree of the same structure as
      the parameters.
    block: Function (config, rngs=...) -> layer, with the parameters of `Block`.

  Raises:
    ValueError: The block has other parameters; also as for `load_pretrained`.
  """
  config, params = load_pretrained(path, dtype=dtype, shardings=shardings)
  if transformer.shapes(config, block) != transformer.shapes(config):
    raise ValueError(
      f'load: {block} has other parameters than a Block, which {path} has;'
      ' needed are the same. Make Transformer(config, block=...) and set its'
      ' parameters.'
    )
  return Transformer.of(config, params, block=block)


def read_config(path: str | os.PathLike[str]) -> Config:
  """Reads the config of the model at a path, without weights.

  Raises:
    FileNotFoundError: It is not there.
    ValueError: It is damaged, or not supported.
  """
  file, fields, _ = _open(hub.local(path))
  return config_json.read_config(fields, file)


def check_there(path: str | os.PathLike[str]) -> None:
  """Checks that a model exists, and downloads it from the Hub if needed.

  Raises:
    FileNotFoundError: It is not there.
    ValueError: It is damaged.
    RuntimeError: It cannot be downloaded.
  """
  _open(hub.local(path))


def save_pretrained(
  path: str | os.PathLike[str],
  config: Config,
  params: PyTree,
  *,
  max_file_bytes: int = 5 << 30,
) -> None:
  """Writes a model as a Hugging Face folder, which `transformers` reads.

  `load_pretrained(path, dtype=None)` returns the same bits. The tokenizer is
  not written. The host holds the tensors of one file at a time.

  Args:
    path: Folder to create; must not contain a model.
    config: Configuration of the model.
    params: Parameters, replicated or sharded over this host's devices.
    max_file_bytes: Maximum size of a file, unless a single tensor is larger.

  Raises:
    FileExistsError: The folder contains a model.
    ValueError: No family of Hugging Face matches the model, or the parameters
      do not match the config (LoRA adapters must be merged first).
  """
  folder = paths.local(path, 'save_pretrained: path')
  if (folder / CONFIG_NAME).exists():
    raise FileExistsError(f'{folder} holds a model; give another folder.')
  fields = config_json.write_config(config)
  shapes = transformer.shapes(config)
  if jax.tree.map(jnp.shape, params) != shapes:
    raise ValueError(
      'save_pretrained: the parameters are not those of the config; merge LoRA'
      ' adapters (lora.merge), and give the whole model.'
    )
  family = families.family_of(fields)
  names = families.tensor_names(family, config)
  parts = _tensors(family, names, params)
  tensors = {x[0]: x[1:] for x in families.joined(family, parts)}
  groups: list[dict[str, Callable[[], np.ndarray]]] = [{}]
  num_bytes = 0
  for name, (size, read) in tensors.items():
    if groups[-1] and num_bytes + size > max_file_bytes:
      groups.append({})
      num_bytes = 0
    groups[-1][name] = read
    num_bytes += size
  folder.mkdir(parents=True, exist_ok=True)
  where: dict[str, str] = {}
  for i, group in enumerate(groups):
    file = safetensors_file.FILE_NAME
    if len(groups) > 1:
      file = f'model-{i + 1:05}-of-{len(groups):05}.safetensors'
    safetensors.numpy.save_file(
      {name: read() for name, read in group.items()},
      folder / file,
      metadata={'format': 'pt'},  # Transposed as in PyTorch.
    )
    where |= dict.fromkeys(group, file)
  if len(groups) > 1:
    total = sum(size for size, _ in tensors.values())
    index = {'metadata': {'total_size': total}, 'weight_map': where}
    _write_json(folder / safetensors_file.INDEX_NAME, index)
  fields['dtype'] = str(params['embed'].dtype)
  _write_json(folder / CONFIG_NAME, fields)  # Last: completes the folder.


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  text = json.dumps(content, indent=2, sort_keys=True)
  path.write_text(text + '\n', encoding='utf-8')


def _tensors(
  family: families.Family, names: PyTree, params: PyTree
) -> Iterator[families.Tensor]:
  """All tensors."""
  for keys, leaf in jax.tree.leaves_with_path(params):
    path = _path(keys)
    found = _at(names, path)
    turned = families.is_transposed(family, path, leaf.shape)
    stacked = leaf.shape[: families.num_stacked(path, leaf.shape)]
    for place, name in zip(np.ndindex(stacked), found, strict=True):
      if name is not None:
        read = functools.partial(_host, leaf, turned, place)
        yield name, leaf.nbytes // len(found), read


def _host(
  leaf: jax.Array, is_transposed: bool, place: tuple[int, ...]
) -> np.ndarray:
  array = np.asarray(leaf[place] if place else leaf)
  return np.ascontiguousarray(array.T if is_transposed else array)


def _open(
  path: pathlib.Path,
) -> tuple[pathlib.Path, Mapping[str, Any], TensorSource]:
  """(file with the config, its fields, the tensors)."""
  file = gguf_model.find(path, CONFIG_NAME)
  if not file.exists():
    raise FileNotFoundError(
      f'no model at {path}; python -m launch.fetch_model gets small ones, and'
      ' hf://org/name is one of the Hugging Face Hub.'
    )
  if file != path / CONFIG_NAME:
    model = gguf_model.GgufModel(file)
    return file, model.fields, model
  try:
    fields = json.loads(file.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{file} is no JSON ({error}).') from error
  if not isinstance(fields, dict):
    raise ValueError(f'{file} is no JSON object.')
  return file, fields, safetensors_file.SafetensorsFolder(path)


def _path(keys: tuple[Any, ...]) -> tuple[str, ...]:
  return tuple(key.key for key in keys)


def _at(tree: PyTree, path: tuple[str, ...]) -> Any:
  for key in path:
    tree = tree[key]
  return tree


def _needed(
  family: families.Family, names: PyTree, shapes: PyTree
) -> dict[str, tuple[int, ...]]:
  """Shape of each tensor, by the name that we write."""
  needed: dict[str, tuple[int, ...]] = {}
  for keys, shape in jax.tree.leaves_with_path(
    shapes, is_leaf=transformer.is_shape
  ):
    leaf = _path(keys)
    own = shape[families.num_stacked(leaf, shape) :]
    own = own[::-1] if families.is_transposed(family, leaf, shape) else own
    needed |= dict.fromkeys(filter(None, _at(names, leaf)), own)
  return needed


def _match(path, family, config, needed, source) -> dict[str, str]:
  """Name as we write it -> name in the file, for all needed tensors."""
  files: dict[str, str] = {}
  for name in source.shapes:
    ours = families.our_name(family, name)
    if ours in files:
      raise ValueError(
        f'{path}: {files[ours]} and {name} are both {ours}; needed is one of'
        ' them, leave out the other.'
      )
    files[ours] = name
  missing = sorted(set(needed) - set(files))
  left = sorted(set(files) - set(needed))
  ignored = [n for n in left if families.is_ignored(family, n, config)]
  unused = sorted(set(left) - set(ignored))
  wrong = [
    f'{name} is {source.shapes[files[name]]}, not {shape}'
    for name, shape in needed.items()
    if name in files and source.shapes[files[name]] != shape
  ]
  problems = [
    f'{len(items)} {what}: {", ".join(items[:_SHOWN])}'
    + (' ...' if len(items) > _SHOWN else '')
    for what, items in (
      ('missing', missing),
      ('not used', unused),
      ('of another shape', wrong),
    )
    if items
  ]
  if problems:
    raise ValueError(
      f'{path}: the tensors do not fit the config; {"; ".join(problems)}.'
    )
  if ignored:
    logging.info(
      'Left out %d tensors that the model does without: %s.',
      len(ignored),
      ', '.join(ignored[:_SHOWN]),
    )
  return files


class _Leaf:
  """Reads pieces of one leaf."""

  def __init__(
    self,
    file: pathlib.Path,
    source: TensorSource,
    stored: Sequence[str | None],
    family: families.Family,
    path: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike | None,
  ):
    self._file = file  # For errors.
    self._source, self._stored, self._shape = source, stored, shape
    self._num_stacked = families.num_stacked(path, shape)
    self._is_transposed = families.is_transposed(family, path, shape)
    self._dtype = None if dtype is None else jnp.dtype(dtype)

  def __call__(self, index: tuple[slice, ...]) -> np.ndarray:
    names = np.array(self._stored, object)
    names = names.reshape(self._shape[: self._num_stacked])
    names = np.asarray(names[index[: self._num_stacked]], object)
    inner = tuple(
      slice(*span.indices(size))
      for span, size in zip(index, self._shape, strict=True)
    )[self._num_stacked :]
    piece = None
    for i, name in enumerate(names.flat):
      one = self._one(name or str(self._stored[-1]), inner)
      if piece is None:
        piece = np.empty((names.size, *one.shape), one.dtype)
      piece[i] = one if name else 1.0  # A missing norm's weight is not used.
    assert piece is not None
    return piece.reshape(*names.shape, *piece.shape[1:])

  def _one(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
    if self._is_transposed:
      piece = self._source.read(name, index[::-1]).T
    else:
      piece = self._source.read(name, index)
    if not jnp.issubdtype(piece.dtype, jnp.floating):
      raise ValueError(
        f'{self._file}: tensor {name} is {piece.dtype}; needed are floats,'
        ' save the model without quantization.'
      )
    return np.asarray(piece, dtype=self._dtype)


def _place(read: _Leaf, shape: tuple[int, ...], home: Sharding) -> jax.Array:
  """One leaf on its devices; each distinct piece is read once."""
  where = home.addressable_devices_indices_map(shape)
  pieces: dict[tuple[tuple[int, int, int], ...], list[Any]] = {}
  for device, index in where.items():
    spans = tuple(s.indices(n) for s, n in zip(index or (), shape, strict=True))
    pieces.setdefault(spans, []).append(device)
  arrays = {}
  for spans, devices in pieces.items():
    piece = read(tuple(slice(*span) for span in spans))
    for device in devices:
      arrays[device] = jax.device_put(piece, device)
    # Wait before reading the next piece: the host holds only one.
    jax.block_until_ready([arrays[device] for device in devices])
  return jax.make_array_from_single_device_arrays(
    shape, home, [arrays[device] for device in where]
  )
