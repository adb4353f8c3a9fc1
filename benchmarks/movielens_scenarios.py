# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MovieLens-1M as clicks in many scenarios, for `launch/train_gmeta.py`.

  python -m benchmarks.movielens_scenarios data/scenarios-raw
  python -m launch.prepare_data --out=data/scenarios \
    --source=data/scenarios-raw/clicks.parquet \
    --schema=data/scenarios-raw/schema.json

A click is a rating of at least 4. A scenario, the task, is an audience: users
of one occupation, age group and gender, about 280 in total. The latest rows of
a scenario are queries, and a share of the scenarios is held out. Features are
film, first genre, decade, and the user's id, occupation, age group and gender.
The scenario's id is no feature, as it would say nothing about a new one.
"""

from collections.abc import Sequence
import json
import pathlib
import tempfile

from absl import app
import ibis

from antjax.data import event_movielens
from antjax.data import events as events_lib
from antjax.data.engine import Engine
from antjax.data.events import Events

_FEATURES = (
  *('user', 'item', 'genre', 'decade'),
  *('gender', 'age', 'occupation'),
)


def clicks_of(events: Events) -> ibis.Table:
  """One row per rating: scenario, features, label and time."""
  joined = events.joined()
  joined = joined.mutate(
    genre=joined.genres[0].fill_null('none'),
    decade=(joined.year // 10 * 10).cast('int32'),
  )
  audience = [joined[name].cast('string') for name in _FEATURES[-3:]]
  return joined.select(
    *_FEATURES,
    'timestamp',
    scenario=ibis.literal('/').join(audience),
    click=(joined.rating >= 4).cast('int32'),
  )


def write(folder: pathlib.Path, source: str = '') -> None:
  """Writes clicks.parquet and schema.json; without a source, downloads."""
  folder.mkdir(parents=True, exist_ok=True)
  data = event_movielens.source(source)
  with tempfile.TemporaryDirectory() as temporary:
    work = pathlib.Path(temporary)
    events_lib.write(work / 'events', data, max_rejected_share=0)
    with events_lib.opened(
      work / 'events', data.schema, work, Engine()
    ) as events:
      clicks = clicks_of(events)
      clicks.to_parquet(folder / 'clicks.parquet')
      kinds = clicks.schema()
  schema = {
    'name': 'ml-1m scenarios',
    'label': 'click',
    'task': 'scenario',
    'time': 'timestamp',
    'columns': {n: str(t).lower() for n, t in kinds.items()},
    'ids': list(_FEATURES),
  }
  text = json.dumps(schema, indent=2)
  (folder / 'schema.json').write_text(text, encoding='utf-8')


def main(argv: Sequence[str]) -> None:
  if len(argv) not in (2, 3):
    raise app.UsageError('movielens_scenarios FOLDER [MOVIELENS_FOLDER_OR_ZIP]')
  folder = pathlib.Path(argv[1])
  write(folder, *argv[2:])
  print(f'{folder}/clicks.parquet, {folder}/schema.json')


if __name__ == '__main__':
  app.run(main)
