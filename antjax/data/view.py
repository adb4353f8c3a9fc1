# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What all views of events share: their contract, folder and engine."""

from collections.abc import Callable, Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any, ClassVar, Literal, Protocol

from antjax.data import engine as engine_lib
from antjax.data import events as events_lib
from antjax.data import output_folder
from antjax.data.schema import Schema

Progress = Callable[[str], None]
Table = list[list[str]]  # Rows of texts; the first one is the heading.
# Entries of the events' `dataset.json` that are not those of a view.
_OF_EVENTS = ('kind', 'files', 'config', 'counts', 'domains')


@dataclasses.dataclass(frozen=True)
class ViewJob:
  """Where and how a view is made."""

  stage: pathlib.Path  # Folder for its files.
  # Folder for intermediate files, with the empty folder `steps`.
  work: pathlib.Path
  events: pathlib.Path  # Folder of the events.
  about: Mapping[str, Any]  # Content of the events' `dataset.json`.
  schema: Schema  # Schema of their columns.
  # Engine that sorts, joins and groups; it does not change the files.
  engine: engine_lib.Engine
  file_format: str  # Format of record files: arrow, parquet or array_record.
  progress: Progress  # Function called with a text at the start of each step.

  def opened(self) -> Any:
    """Opens the events with the engine, as a context."""
    return events_lib.opened(self.events, self.schema, self.work, self.engine)


class View(Protocol):
  """What a view needs of a schema, what it writes, and what it counts."""

  version: ClassVar[int]  # Of the format of its files.

  def check(self, schema: Schema) -> None:
    """Raises ValueError where the schema says too little for the view."""

  def settings(
    self, out: str | os.PathLike[str], schema: Schema
  ) -> Mapping[str, Any]:
    """JSON-able: what decides the content, beside events and format."""

  def build(self, job: ViewJob) -> dict[str, Any]:
    """Writes the files; returns entries of `dataset.json`, counts too."""

  def tables(self, description: Mapping[str, Any]) -> list[Table]:
    """The counts of a finished view."""


def make(
  view: View,
  out: str | os.PathLike[str],
  events: str | os.PathLike[str],
  schema: Schema,
  *,
  engine: engine_lib.Engine | None = None,
  file_format: Literal['arrow', 'parquet', 'array_record'] = 'arrow',
  overwrite: bool = False,
  progress: Progress = lambda text: None,
) -> tuple[dict[str, Any], bool]:
  """Makes the folder of a view of the events in a folder, unless it is there.

  The engine, which sorts, joins and groups, does not change the files. With
  `overwrite` a view made with other settings is replaced.

  Returns:
    The content of `dataset.json`, and whether it was made now.

  Raises:
    ValueError: `out` holds something else, or the view refuses the schema or
      the events.
  """
  view.check(schema)
  about = output_folder.load_description(events)
  made_of = {
    'format_version': view.version,
    'events': about['config'],
    'format': file_format,
    **json.loads(json.dumps(dict(view.settings(out, schema)))),
  }

  def write(stage: pathlib.Path, work: pathlib.Path) -> dict[str, Any]:
    for name in ('steps', 'spill'):
      (work / name).mkdir()
    made = view.build(
      ViewJob(
        stage,
        work,
        pathlib.Path(events),
        about,
        schema,
        engine or engine_lib.Engine(),
        file_format,
        progress,
      )
    )
    counts = {**about['counts'], **made.pop('counts')}
    terms = {k: v for k, v in about.items() if k not in _OF_EVENTS}
    return {**terms, **made, 'counts': counts, 'format': file_format}

  return output_folder.make(out, made_of, write, overwrite=overwrite)


def split_counts(heading: str, description: Mapping[str, Any]) -> Table:
  """The counts of each split, under a heading whose names commas part."""
  rows = [
    [split, *(f'{n:,}' for n in counts.values())]
    for split, counts in description['splits'].items()
  ]
  return [heading.split(','), *rows]
