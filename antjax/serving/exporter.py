# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes a model as files that `antjax.serving.loader` reads."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any, Literal
import urllib.parse

from etils import epath
import numpy as np

from antjax import paths
from antjax.embedding import rounding
from antjax.embedding.stream import RowStream
from antjax.serving import loader
from antjax.serving.click_loader import ARRAYS

Quantize = Literal['none', 'int8']
_BLOCK = 1 << 16  # Rows written at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
  """A model to be written.

  Attributes:
    functions: Name -> serialized function, see `functions.exported`.
    params: Dense parameters by name.
    tables: Name -> float32 [V, D], rows by id, or a stream of them.
    features: Feature -> {'table', 'num_ids', 'max_values', 'embedding_dim'}.
    vocabularies: Feature -> (values [n], ids int [n]): text or integers and
      their ids. Features without one are known by ids only.
    support_sizes: Support rows that 'adapt_<size>' take, rising.
    numeric: Names of the numeric inputs, in their order.
    query_size: Query rows of the training tasks; fewer are padded to it.
    info: Further entries of the manifest, JSON-able: step, name of the data.
    arrays: Further arrays by name; empty: no such file.
  """

  functions: Mapping[str, bytes]
  params: Mapping[str, np.ndarray]
  tables: Mapping[str, np.ndarray | RowStream]
  features: Mapping[str, Mapping[str, Any]] = dataclasses.field(
    default_factory=dict
  )
  vocabularies: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(
    default_factory=dict
  )
  support_sizes: Sequence[int] = ()
  query_size: int = 0
  numeric: Sequence[str] = ()
  info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def blocks(table: np.ndarray | RowStream) -> Iterator[np.ndarray]:
  """All rows of a table in order, float32 [n, D] each.

  Those of narrower dtypes are as `embedding.rounding` keeps them.
  """
  if isinstance(table, RowStream):
    parts = table.blocks()
  else:
    parts = (table[i : i + _BLOCK] for i in range(0, len(table), _BLOCK))
  for part in parts:
    yield np.ascontiguousarray(rounding.to_float(part), np.float32)


def width(table: np.ndarray | RowStream) -> int:
  """Numbers of a row."""
  return 2 * table.shape[1] - rounding.width(table.shape[1], table.dtype)


def quantize_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Rows float32 [V, D] as (int8 [V, D], scale float32 [V]), ~ int8 * scale.

  An element differs by at most half its row's scale: 1 / 254 of the largest
  magnitude of the row, and float32 rounding.

  Raises:
    ValueError: An element is not finite.
  """
  scale = np.abs(table).max(axis=1, initial=0) / np.float32(127)
  if not np.isfinite(scale).all():
    row = int(np.argmin(np.isfinite(scale)))
    raise ValueError(
      f'quantize_rows: row {row} holds nan or an infinity; the model is not fit'
      ' to be served.'
    )
  scaled = table / np.where(scale > 0, scale, 1)[:, None]
  return np.rint(scaled).astype(np.int8), scale.astype(np.float32)


def write(
  folder: str | os.PathLike[str], model: Exported, quantize: Quantize = 'none'
) -> dict[str, Any]:
  """Writes a full export; the folder appears only when it is complete.

  The same model gives the same bytes. Tables are stored as float32, or as
  `quantize` says. Returns the manifest.

  Raises:
    ValueError: The folder exists, or a table has more rows than ids may be.
  """
  for name, table in model.tables.items():
    if len(table) > 2**31:
      raise ValueError(
        f'exporter.write: table {name} has {len(table)} rows; ids of served'
        ' models are int32, so 2^31 are possible. Split it into tables.'
      )
  with new_folder(folder) as stage:
    for name in ('functions', 'tables', 'vocabularies'):
      (stage / name).mkdir()
    manifest: dict[str, Any] = {
      'format': loader.FORMAT,
      'format_version': loader.FORMAT_VERSION,
      **model.info,
      'support_sizes': list(model.support_sizes),
      'query_size': model.query_size,
      'numeric': list(model.numeric),
      'features': {n: dict(f) for n, f in model.features.items()},
      'functions': {},
      'tables': {},
      'vocabularies': {},
    }
    for name, data in model.functions.items():
      path = f'functions/{name}.jax_export'
      (stage / path).write_bytes(data)
      manifest['functions'][name] = path
    np.savez(stage / loader.PARAMS, **model.params)  # type: ignore[arg-type]
    if model.arrays:
      np.savez(stage / ARRAYS, **model.arrays)  # type: ignore[arg-type]
    for name, table in model.tables.items():
      manifest['tables'][name] = _write_table(stage, name, table, quantize)
    for name, (values, ids) in model.vocabularies.items():
      manifest['vocabularies'][name] = _write_vocabulary(
        stage, name, values, ids
      )
    seal(stage, manifest)
  return manifest


@contextlib.contextmanager
def new_folder(folder: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Gives an empty folder that becomes `folder` at a clean end."""
  check_new(folder)
  with paths.written(folder) as local, paths.staged(local) as stage:
    yield stage
    check_new(folder)


def check_new(folder: str | os.PathLike[str]) -> None:
  """Raises ValueError if the folder exists."""
  paths.check(folder, 'out')
  if epath.Path(folder).exists():
    raise ValueError(f'out={folder} exists already; choose another folder.')


def seal(stage: pathlib.Path, manifest: dict[str, Any]) -> None:
  """Adds size and SHA-256 of each file to the manifest, and writes it."""
  manifest['files'] = {
    path.relative_to(stage).as_posix(): {
      'bytes': path.stat().st_size,
      'sha256': sha256(path),
    }
    for path in sorted(stage.rglob('*'))
    if path.is_file()
  }
  text = json.dumps(manifest, indent=2, ensure_ascii=False) + '\n'
  (stage / loader.MANIFEST).write_text(text, encoding='utf-8')


def state_of(folder: pathlib.Path) -> tuple[str, int]:
  """Digest and number of the state that deltas on an export follow."""
  manifest = loader.read_manifest(folder)
  digest = manifest.get('digest') or sha256(folder / loader.MANIFEST)
  return digest, manifest.get('sequence', 0)


def sha256(path: pathlib.Path) -> str:
  """SHA-256 of a file, hexadecimal."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def file_stem(name: str) -> str:
  """A feature's or table's name as that of a file: without slashes."""
  return urllib.parse.quote(name, safe='')


def _write_table(stage, name, table, quantize):
  """Writes one table; returns what the manifest says of it."""
  facts: dict[str, Any] = {'rows': len(table), 'dim': width(table)}
  stem = f'tables/{file_stem(name)}'
  facts['values'], facts['scale'] = f'{stem}.npy', None
  parts: Iterator[list[np.ndarray]] = ([x] for x in blocks(table))
  if quantize == 'int8':
    facts['scale'] = f'{stem}.scale.npy'
    parts = (list(quantize_rows(x)) for x in blocks(table))
  write_rows(stage, facts, parts)
  return facts


def write_rows(
  stage: pathlib.Path, facts: Mapping[str, Any], parts: Iterable[list[Any]]
) -> None:
  """Writes [rows, and their scales] block by block: memory may not hold all."""
  with contextlib.ExitStack() as stack:
    files: list[Any] = []
    for part in parts:
      if not files:
        names = [facts[n] for n in ('values', 'scale') if facts[n]]
        files = [stack.enter_context((stage / n).open('wb')) for n in names]
        for file, x in zip(files, part, strict=True):
          head = np.lib.format.header_data_from_array_1_0(x)
          head['shape'] = (facts['rows'], *x.shape[1:])
          np.lib.format.write_array_header_1_0(file, head)
      for file, x in zip(files, part, strict=True):
        file.write(np.ascontiguousarray(x).data)


def _write_vocabulary(stage, name, values, ids):
  values = np.asarray(values)
  if values.dtype.kind == 'U':
    values = np.strings.encode(values, 'utf-8')
  order = np.argsort(values)
  files = {
    'values': f'vocabularies/{file_stem(name)}.values.npy',
    'ids': f'vocabularies/{file_stem(name)}.ids.npy',
  }
  np.save(stage / files['values'], values[order])
  np.save(stage / files['ids'], np.asarray(ids, np.int32)[order])
  return files
