# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the events of a source and a view of them, and reads them back."""

import csv
import functools
import importlib.util
import pathlib
import shutil

import pytest

from antjax.data import (
  event_table,
  events,
  output_folder,
  view_examples,
  view_melu,
  view_sequences,
  view_tasks,
)
from antjax.data import view as view_lib
from antjax.data.engine import Engine

_VIEWS = {
  'tasks': view_tasks.TaskView,
  'melu': view_melu.MeluView,
  'examples': view_examples.ExampleView,
  'sequences': view_sequences.SequenceView,
}


_WITHOUT_SPARK = (
  "pyspark is not installed (pip install 'antjax[spark]')"
  if importlib.util.find_spec('pyspark') is None
  else 'no Java runtime, such as openjdk-17-jre-headless, is on the path'
  if shutil.which('java') is None
  else ''
)
ON_SPARK = (
  pytest.mark.slow,
  pytest.mark.skipif(bool(_WITHOUT_SPARK), reason=_WITHOUT_SPARK),
  # Of pyspark and its imports.
  pytest.mark.filterwarnings('ignore::Warning'),
)


def on_spark(test):
  """Marks a test that needs Spark."""
  return functools.reduce(lambda marked, mark: mark(marked), ON_SPARK, test)


def write(
  out,
  source,
  view,
  config,
  *,
  engine=None,
  max_rejected_share=0.001,
  overwrite=False,
  vocabulary='',
  ids_from='',
  **options,
):
  """Writes out/events and out/VIEW; returns the view's description."""
  out = pathlib.Path(out)
  engine = engine or Engine(threads=2)
  common = {'engine': engine, 'overwrite': overwrite}
  events.write(
    out / 'events', source, max_rejected_share=max_rejected_share, **common
  )
  name = 'tasks' if view == 'melu' else view
  place = (out / name, out / 'events', source.schema)
  more = (vocabulary, ids_from) if view == 'examples' else ()
  made = _VIEWS[view](config, *more)
  return view_lib.make(made, *place, **common, **options)


def write_tasks(out, path, schema, config, **options):
  """Writes the tasks of a log; returns their description."""
  source = event_table.source(path, schema)
  return write(out, source, 'tasks', config, **options)[0]


def read(out, split, view='tasks'):
  """Returns all records of a split."""
  source = output_folder.open_split(pathlib.Path(out) / view, split)
  return source.read(0, len(source))


def rejected(out):
  """Returns the lines that are set aside."""
  path = pathlib.Path(out) / 'events' / output_folder.REJECTED
  with open(path, newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def files_of(folder):
  """Returns path -> content of all files but the description."""
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in sorted(pathlib.Path(folder).rglob('*'))
    if p.is_file() and p.name != output_folder.DESCRIPTION
  }
