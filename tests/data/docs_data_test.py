# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The schema file and the flags of docs/data.md."""

import dataclasses
import pathlib
import re

from antjax.data import (
  behavior_examples,
  behavior_text,
  event_antm2c,
  schema_file,
  task_spans,
  view_melu,
  view_sequences,
)
from antjax.jobs import prepare_data

_DOCS = pathlib.Path(__file__).parents[2] / 'docs' / 'data.md'


_TEXT = _DOCS.read_text()


def _blocks(language):
  return re.findall(rf'```{language}\n(.*?)```', _TEXT, re.S)


def test_the_schema_file(tmp_path):
  (text,) = _blocks('yaml')
  (tmp_path / 'clicks.yaml').write_text(text)
  schema = schema_file.load(str(tmp_path / 'clicks.yaml'))
  assert schema.features == ('user', 'item', 'tags')
  assert schema.task_column == 'user'
  assert schema.separator == {'tags': '|'}
  assert schema.numeric == schema.log == ('price',)
  defaults = schema_file.make(schema.columns, label='clicked')
  for name in ('delimiter', 'header', 'quote'):
    assert getattr(schema, name) == getattr(defaults, name)


def test_flags_exist():
  known = {
    f'{prefix}{field.name}'
    for prefix, config in (
      ('', prepare_data.Config),
      ('split.', view_melu.SplitConfig),
      ('tasks.', task_spans.TaskConfig),
      ('antm2c.', event_antm2c.Antm2cConfig),
      ('examples.', behavior_examples.ExampleConfig),
      ('normalizer.', behavior_text.Normalizer),
      ('sequences.', view_sequences.SequenceConfig),
      ('splitter.', behavior_text.Splitter),
    )
    for field in dataclasses.fields(config)
  }
  known |= {name[: name.index('.') + 1] for name in known if '.' in name}
  named = set(re.findall(r'`?--([a-z_.]+)', _TEXT))
  assert len(named) > 20
  assert named <= known, named - known
