# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AntM2C's files as textual behaviour: five texts a row, five scenarios."""

from collections.abc import Callable
import os
import pathlib

import pyarrow as pa
import pyarrow.compute as pc

from antjax.data import antm2c, row_writer, text_reader
from antjax.data import engine as engine_lib
from antjax.data.antm2c import Antm2cConfig
from antjax.data.behavior_data import Source
from antjax.data.behavior_examples import RowLayout
from antjax.data.rejects import Rejects

CLICKED = 'clicked'
# Names of the sequences, in the order of `antm2c.TEXTS`.
SEQUENCES = ('bill', 'service', 'query', 'item_entities')
# What parts the entities of a text is not published. It may be any of these.
SEPARATORS = r'[,;|\uff0c\uff1b\u3001\s]+'


def layout(config: Antm2cConfig) -> RowLayout:
  """What the rows hold; the scenario is the first of the categories."""
  return RowLayout(
    histories=(CLICKED,),
    texts=SEQUENCES,
    ids=config.categories,
    numeric=config.numeric_columns,
  )


def read(
  source: str | os.PathLike[str],
  work: pathlib.Path,
  rejected: pathlib.Path,
  *,
  config: Antm2cConfig,
  engine: engine_lib.Engine,
  max_rejected_share: float,
  progress: Callable[[str], None],
) -> Source:
  """Writes the rows as `behavior_data.Source` says.

  The history of a user is what the user clicked before, by its title, in all
  scenarios; a scenario is a domain.

  Args:
    source: See `antm2c.find_files`.
    work: Folder with the empty folder raw.
    rejected: CSV file for malformed rows, made only if needed.
    config: What the columns hold.
    engine: With how many threads.
    max_rejected_share: Largest share of malformed rows to go on with.
    progress: Called with a text at the start of each file.

  Raises:
    ValueError: Another header, too many malformed rows, or none at all.
    FileNotFoundError: No such source.
  """
  files = antm2c.find_files(source)
  counts = text_reader.read(
    files,
    config.layout(),
    work / 'raw',
    Rejects(rejected, max_rejected_share),
    finish=lambda table, _: _rows(table, config),
    threads=engine.threads,
    progress=progress,
  )
  if not counts.good:
    raise ValueError(f'prepare_behaviors: {source} has no good row at all.')
  filled_times = counts.filled['log_time']
  # Files of the true format may be made up: their names say so.
  is_synthetic = any('synthetic' in path.name for path in files)
  return Source(
    work / 'raw',
    layout(config),
    {
      'name': 'antm2c-synthetic' if is_synthetic else 'antm2c',
      'is_synthetic': is_synthetic,
      'counts': {
        'rows': counts.rows,
        'rejected_lines': counts.rejected_lines,
        **{f'rejected_{k}': n for k, n in sorted(counts.rejected.items())},
        'empty_numbers': counts.filled.total() - filled_times,
        'times_filled_in': filled_times,
      },
    },
  )


def _rows(table: pa.Table, config: Antm2cConfig) -> pa.Table:
  """Typed rows -> rows of `Source`."""
  is_click = pc.equal(table['label'], 1)
  columns = {
    'row': table[row_writer.ROW],
    'user': table['user_id'],
    'item': table['item_id'],
    'domain': table['scene'],
    'history': pc.if_else(is_click, CLICKED, ''),
    'text': table[antm2c.TITLE],
    'time': table['log_time'],
    'label': table['label'].cast(pa.float32()),
  }
  features = {
    'text': antm2c.TEXTS,
    'id': config.categories,
    'numeric': config.numeric_columns,
  }
  for kind, names in features.items():
    for i, name in enumerate(names):
      columns[f'{kind}_{i}'] = table[name]
  return pa.table(columns)
