# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What all views of events share: their folder, identity and engine."""

from collections.abc import Callable, Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any, Literal

from antjax.data import engine as engine_lib
from antjax.data import events as events_lib
from antjax.data import output_folder
from antjax.data.schema import Schema

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class ViewWork:
  """Where and how a view is made.

  Attributes:
    stage: Folder for its files.
    work: Folder for intermediate files, with the empty folder `steps`.
    events: Folder of the events.
    about: Content of the events' `dataset.json`.
    schema: Schema of their columns.
    engine: Engine that sorts, joins and groups; it does not change the files.
    file_format: Format of record files: arrow, parquet or array_record.
    progress: Function called with a text at the start of each step.
  """

  stage: pathlib.Path
  work: pathlib.Path
  events: pathlib.Path
  about: Mapping[str, Any]
  schema: Schema
  engine: engine_lib.Engine
  file_format: str
  progress: Progress

  def opened(self) -> Any:
    """Opens the events with the engine, as a context."""
    return events_lib.opened(self.events, self.schema, self.work, self.engine)

  @property
  def terms(self) -> dict[str, Any]:
    """Entries that every view takes over: name, licence and so on."""
    others = ('kind', 'files', 'config', 'counts', 'domains')
    return {k: v for k, v in self.about.items() if k not in others}


def make(
  out: str | os.PathLike[str],
  events: str | os.PathLike[str],
  schema: Schema,
  version: int,
  settings: Mapping[str, Any],
  build: Callable[[ViewWork], dict[str, Any]],
  *,
  engine: engine_lib.Engine | None = None,
  file_format: Literal['arrow', 'parquet', 'array_record'] = 'arrow',
  overwrite: bool = False,
  progress: Progress = lambda text: None,
) -> tuple[dict[str, Any], bool]:
  """Makes the folder of a view, unless it is there.

  Args:
    out: Folder to make; intermediate files are beside it.
    events: Folder of the events, from `events.write`.
    schema: Schema of their columns.
    version: Version of the view's format.
    settings: JSON-able: what decides the content, beside events and format.
    build: Writes the files; returns the description.
    engine: Engine that sorts, joins and groups; it does not change the files.
    file_format: Format of the record files.
    overwrite: Replace a view made with other settings.
    progress: Function called with a text at the start of each step.

  Returns:
    The content of `dataset.json`, and whether it was made now.

  Raises:
    ValueError: `out` holds something else, or `build` raised one.
  """
  about = output_folder.load_description(events)
  made_of = {
    'format_version': version,
    'events': about['config'],
    'format': file_format,
    **json.loads(json.dumps(dict(settings))),
  }

  def write(stage: pathlib.Path, work: pathlib.Path) -> dict[str, Any]:
    for name in ('steps', 'spill'):
      (work / name).mkdir()
    job = ViewWork(
      stage,
      work,
      pathlib.Path(events),
      about,
      schema,
      engine or engine_lib.Engine(),
      file_format,
      progress,
    )
    made = build(job)
    counts = {**about['counts'], **made.pop('counts')}
    return {**job.terms, **made, 'counts': counts, 'format': file_format}

  return output_folder.make(out, made_of, write, overwrite=overwrite)
