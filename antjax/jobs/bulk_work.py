# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What all scripts that prepare data have in common."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
import sys
from typing import Annotated, Any, Literal

import rich

from antjax.data import engine as engine_lib
from antjax.data import output_folder, table_files, table_raw
from antjax.data.behavior_schema import BehaviorSchema


@dataclasses.dataclass(frozen=True, kw_only=True)
class BulkConfig:
  """Settings of bulk data work; a script's own Config extends it."""

  max_rejected_share: Annotated[
    float,
    'Largest share of malformed lines in a file to go on with; they are listed'
    ' in rejected.csv.',
  ] = 0.001
  overwrite: Annotated[bool, 'Replace data made with other settings.'] = False
  engine: Annotated[
    Literal['duckdb', 'spark'], 'What sorts, joins and calls the text work.'
  ] = 'duckdb'
  memory_limit: Annotated[
    str,
    'Memory of the engine, such as 4GB; what exceeds it goes to disk, beside'
    ' the folder to make. Empty: its own choice.',
  ] = ''
  threads: Annotated[int, 'Threads; 0: one a core.'] = 0
  spark_master: Annotated[str, 'For spark: a cluster. Empty: this machine.'] = (
    ''
  )

  def __post_init__(self) -> None:
    if self.threads < 0 or not 0 <= self.max_rejected_share <= 1:
      raise ValueError(
        f'threads={self.threads} must not be negative and max_rejected_share='
        f'{self.max_rejected_share} must be from 0 to 1.'
      )

  @property
  def bulk_engine(self) -> engine_lib.Engine:
    """The engine, as functions of `antjax.data` take it."""
    return engine_lib.Engine(
      name=self.engine,
      memory_limit=self.memory_limit,
      threads=self.threads,
      spark_master=self.spark_master,
    )


def show_step(text: str) -> None:
  """Says what begins now; on stderr, as stdout is for results."""
  print(f'... {text}', file=sys.stderr, flush=True)


def identity_of_log(source: str, schema: BehaviorSchema) -> dict[str, Any]:
  """What names the data of a log: its files and its schema, JSON-able."""
  named = {
    'data': table_files.fingerprint(table_raw.find_files(source)),
    'schema': json.loads(json.dumps(dataclasses.asdict(schema))),
  }
  if schema.items is not None:
    files = table_raw.find_files(schema.items.source)
    named['items'] = table_files.fingerprint(files)
  return named


def print_counts(
  folder: str, description: Mapping[str, Any], is_new: bool
) -> None:
  """Counts of a data set, where its bad lines are, whom to acknowledge."""
  for name, count in description['counts'].items():
    print(f'{name.replace("_", " "):28} {count:>15,}')
  rejected = pathlib.Path(folder) / output_folder.REJECTED
  if rejected.exists():
    print(f'What is set aside is listed in {rejected}.')
  if 'acknowledgement' in description:
    rich.print(f'Acknowledge: {description["acknowledgement"]}')
  if not is_new:
    print(f'{folder} was complete already: nothing was done.')
