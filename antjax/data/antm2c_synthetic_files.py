# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes synthetic files in AntM2C's format.

  antm2c_synthetic_part0, ...         CSV, as `antm2c` says
  AntM2C_synthetic_image.tar.gz       AntM2C_synthetic_image/<item_id>.png
  antm2c_synthetic_truth.parquet      what the rows were drawn with, see `TRUTH`
  antm2c_synthetic.json               the configuration

A chunk of rows a thread is in memory at a time; users and items are, always:
about 100 bytes each.
"""

from collections.abc import Callable
import dataclasses
import io
import json
import os
import pathlib
import tarfile

import numpy as np
from PIL import Image
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import (
  antm2c,
  antm2c_synthetic,
  antm2c_synthetic_text,
  output_folder,
  thread_map,
)
from antjax.data.antm2c_synthetic import CHUNK, Rows, SyntheticConfig, World

PREFIX = 'antm2c_synthetic'
IMAGES = 'AntM2C_synthetic_image'
# The truth: one row a row of the parts, in their order. `row` is the number
# that `antm2c` gives it.
TRUTH = pa.schema(
  [
    ('row', pa.int64()),
    ('user_id', pa.string()),
    ('item_id', pa.string()),
    ('time', pa.int64()),
    ('scene', pa.int8()),
    ('label', pa.int8()),
    ('probability', pa.float32()),
  ]
)
_WITHOUT_IMAGE = 0.05  # Share of the items.
_CELLS = 8  # Cells of an image's pattern along each side.


def write(
  out: str | os.PathLike[str],
  config: SyntheticConfig,
  *,
  image_size: int = 32,
  progress: Callable[[str], None] = lambda text: None,
) -> list[pathlib.Path]:
  """Makes the folder of the module's docstring.

  Args:
    out: Folder to make; it must not exist, or be empty.
    config: Settings of the synthetic data.
    image_size: Pixels each way, a multiple of 8; 0 makes no images.
    progress: Function called with a text at the start of each file.

  Returns:
    The parts.

  Raises:
    ValueError: `out` is not empty, or another size of images.
  """
  out = pathlib.Path(out)
  if image_size % _CELLS:
    raise ValueError(
      f'image_size={image_size}; needed: a multiple of {_CELLS}, or 0.'
    )
  if out.exists() and any(out.iterdir()):
    raise ValueError(f'out={out} is not empty; choose another folder.')
  with output_folder.staged(out) as stage:
    world = World.make(config)
    borders = np.linspace(0, config.num_rows, config.num_parts + 1)
    borders = np.round(borders).astype(np.int64).tolist()
    truth = stage / f'{PREFIX}_truth.parquet'
    with pq.ParquetWriter(truth, TRUTH) as writer:
      for part in range(config.num_parts):
        path = stage / f'{PREFIX}_part{part}'
        progress(f'writing {path.name}')
        _write_part(path, world, part, borders[part], borders[part + 1], writer)
    if image_size:
      progress('writing images')
      _write_images(stage / f'{IMAGES}.tar.gz', world, image_size)
    text = json.dumps(dataclasses.asdict(config), indent=2)
    (stage / f'{PREFIX}.json').write_text(text + '\n')
  return [out / f'{PREFIX}_part{part}' for part in range(config.num_parts)]


def _write_part(
  path: pathlib.Path,
  world: World,
  part: int,
  start: int,
  stop: int,
  truth: pq.ParquetWriter,
) -> None:
  """Writes the rows start <= number < stop."""
  with open(path, 'wb') as file:
    file.write((','.join(antm2c.COLUMNS) + '\n').encode())

    def made(number: int) -> tuple[Rows, pa.Array]:
      rows = antm2c_synthetic.rows(world, number)
      columns = antm2c_synthetic_text.columns(world, rows)
      return rows, antm2c_synthetic_text.lines(columns)

    numbers = range(start // CHUNK, -(-stop // CHUNK))
    threads = os.cpu_count() or 1
    for rows, lines in thread_map.in_order(made, numbers, threads):
      first, last = max(start - rows.first, 0), min(stop - rows.first, CHUNK)
      _, offsets, data = lines.buffers()
      a, b = np.frombuffer(offsets, np.int32)[[first, last]]
      file.write(memoryview(data)[a:b])
      # Records of a file are counted from its header.
      shift = antm2c.row_number(part, 1) + rows.first - start
      truth.write_table(_truth(rows, shift).slice(first, last - first))


def _truth(rows: Rows, shift: int) -> pa.Table:
  columns = [
    np.arange(CHUNK) + shift,
    antm2c_synthetic_text.user_ids(rows.user),
    antm2c_synthetic_text.item_ids(rows.item),
    rows.time,
    rows.scene.astype(np.int8),
    rows.label.astype(np.int8),
    rows.probability.astype(np.float32),
  ]
  return pa.table(columns, schema=TRUTH)


def _write_images(path: pathlib.Path, world: World, size: int) -> None:
  """Writes an image an item: its redness, in a pattern of its own."""
  ids = antm2c_synthetic_text.item_ids(np.arange(len(world.redness)))
  rng = np.random.default_rng((world.config.seed, 2))
  with tarfile.open(path, 'w:gz', compresslevel=1) as tar:
    for item, redness in zip(ids.to_pylist(), world.redness):
      cells = rng.random((_CELLS, _CELLS, 3)) * 0.4 + 0.3
      # The pattern changes nothing in the mean of red.
      red = cells[..., 0] - cells[..., 0].mean()
      cells[..., 0] = np.clip(redness + 0.3 * red, 0, 1)
      if rng.random() < _WITHOUT_IMAGE:
        continue
      pixels = np.repeat(np.repeat(cells, size // _CELLS, 0), size // _CELLS, 1)
      image = Image.fromarray(np.round(255 * pixels).astype(np.uint8))
      data = io.BytesIO()
      image.save(data, 'png', compress_level=1)
      entry = tarfile.TarInfo(f'{IMAGES}/{item}.png')
      entry.size = data.tell()
      data.seek(0)
      tar.addfile(entry, data)
