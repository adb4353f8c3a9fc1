# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The coordinator's status in a terminal: a live table, or plain text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import json
import time
from typing import Any

import rich.console
import rich.live
import rich.table
import rich.text

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.client import CoordinatorClient

_Json = Mapping[str, Any]
_BARS = '▁▂▃▄▅▆▇█'
_STYLES = {
  'transient': 'yellow',
  'silent': 'yellow',
  'persistent': 'red',
  'deterministic': 'red',
}
_PLAIN_EVERY_S = 10.0


def duration(seconds: float | None) -> str:
  """Formats seconds in the unit that fits, like 12 ms, 3.4 s or 1:02:05 h."""
  if seconds is None:
    return '-'
  if seconds < 1:
    for unit, scale in (('ms', 1e3), ('µs', 1e6)):
      if seconds * scale >= 1 or unit == 'µs':
        return f'{seconds * scale:.3g} {unit}' if seconds > 0 else '0 s'
  if seconds < 60:
    return f'{seconds:.1f} s'
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  return f'{hours}:{m:02}:{s:02} h' if hours else f'{m}:{s:02} min'


def _count(value: float | None) -> str:
  return '-' if value is None else f'{value:,.0f}'


def _spark(values: Sequence[float], top: float, width: int = 20) -> str:
  return ''.join(
    _BARS[min(int(value / top * len(_BARS)), len(_BARS) - 1)] if top else ' '
    for value in values[-width:]
  )


def _clock(unix_s: float) -> str:
  return time.strftime('%H:%M:%S', time.localtime(unix_s))


def _plain(value: str) -> str:
  """Returns text of others without what would steer the terminal."""
  return ''.join(c if c.isprintable() else ' ' for c in value)


def _table(
  title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> rich.table.Table:
  table = rich.table.Table(
    title=title,
    title_justify='left',
    title_style='bold',
    box=None,
    pad_edge=False,
    padding=(0, 2, 0, 0),
    header_style='dim',
  )
  for column in columns:
    # A leading '>' sets numbers to the right.
    table.add_column(
      column.lstrip('>'),
      justify='right' if column.startswith('>') else 'left',
      no_wrap=column.startswith('>'),
      overflow='fold',
    )
  for row in rows:
    # Text, not markup: a name like [red] is shown as it is.
    table.add_row(*(rich.text.Text(c, _STYLES.get(c, '')) for c in row))
  return table


def _head(job: _Json) -> rich.text.Text:
  plan = job['plan']
  facts = [
    f'generation {job["generation"]}',
    f'step {_count(job["step"])}',
    f'{_count(job["samples_per_s"])} samples/s',
    f'{job["num_workers"]:,} workers',
    f'{job["restarts_used"]} restarts used, {job["restarts_left"]} left',
  ]
  if job['remaining_s'] is not None:
    facts.append(f'{duration(job["remaining_s"])} left')
  if time := job.get('time'):
    facts.append(f'goodput {time["goodput"]:.0%}')
  if job.get('loss') is not None:
    facts.append(f'loss {job["loss"]:.4g}')
  if plan['version']:
    facts.append(f'plan {plan["version"]}, lr x {plan["lr_scale"]:g}')
  return rich.text.Text.assemble(
    (_plain(job['name']), 'bold'),
    f'  {job["phase"]} | ' + ' | '.join(facts),
  )


def _workers(job: _Json, is_wide: bool) -> rich.table.Table:
  top = max((t for w in job['workers'] for t in w['bpt_s']), default=0.0)
  rows = []
  for w in job['workers']:
    slowdown, wait = w['slowdown'], w['wait_share']
    rows.append(
      [
        _plain(w['name']),
        w['state'],
        _spark(w['bpt_s'], top),
        _count(w['quota']),
        duration(w['seconds_per_sample_short']),
        duration(w['seconds_per_sample_long']),
        '-' if slowdown is None else f'{slowdown:.2f}x',
        '-' if wait is None else f'{wait:.0%}',
        _count(w['step']),
        duration(w['last_beat_age_s']),
      ]
    )
  names = (
    'worker state batch-times >micro >short >long >slow >waits >step >beat'
  )
  columns = names.split()
  if not is_wide:  # What there is room for.
    kept = [0, 1, 3, 4, 6, 9]
    columns = [columns[i] for i in kept]
    rows = [[row[i] for i in kept] for row in rows]
  return _table('Workers', columns, rows)


def _epoch(data_set: _Json) -> str:
  if data_set['num_epochs'] is None:
    return _count(data_set['epoch'] + 1)
  of = data_set['num_epochs']
  return f'{min(data_set["epoch"] + 1, of):,}/{of:,}'


def _data_sets(job: _Json) -> rich.table.Table:
  states = ('todo', 'doing', 'consumed', 'done', 'set_aside')
  rows = [
    [
      _plain(d['name']),
      _epoch(d),
      *(_count(d['shards'][state]) for state in states),
      _count(d['records_per_s']),
    ]
    for d in job['data_sets']
  ]
  columns = ['data', '>epoch', *(f'>{s.replace("_", " ")}' for s in states)]
  return _table('Shards', [*columns, '>records/s'], rows)


def _parts(job: _Json, is_wide: bool) -> Iterator[rich.console.RenderableType]:
  yield _head(job)
  if job['workers']:
    yield _workers(job, is_wide)
  if job['data_sets']:
    yield _data_sets(job)
  for data_set in job['data_sets']:
    for shard in data_set['set_aside'][:5]:
      yield rich.text.Text(
        f'set aside: {_plain(data_set["name"])} epoch {shard["epoch"]}, '
        f'records {shard["start"]} to {shard["stop"] - 1}: '
        f'{_plain(shard["message"])}',
        style='red',
      )
  waiting = [a for a in job['agents'] if a['state'] != 'running']
  if waiting:
    rows = [
      [_plain(a['name']), a['state'], duration(a['last_beat_age_s'])]
      for a in waiting[:10]
    ]
    yield _table('Agents that do not run', ['agent', 'state', '>beat'], rows)
  if job['actions']:
    rows = [
      [_clock(a['unix_s']), _plain(a['text']), _plain(a['reason'])]
      for a in job['actions'][:8]
    ]
    yield _table('Actions', ['time', 'action', 'reason'], rows)
  ended = [g for g in job['generations'] if g['ended_unix_s'] is not None]
  if ended:
    rows = [
      [
        str(g['generation']),
        duration(g['ended_unix_s'] - g['started_unix_s']),
        _plain(g['reason']),
      ]
      for g in ended[:5]
    ]
    yield _table('Generations', ['>number', '>lasted', 'ended because'], rows)
  for key in ('workers', 'actions', 'agents'):
    if job[f'num_{key}_left_out']:
      yield rich.text.Text(
        f'{job[f"num_{key}_left_out"]:,} {key} left out.', style='dim'
      )


def render(snapshot: _Json, width: int = 120) -> rich.console.Group:
  """Returns a snapshot (see `status.Snapshots`) for rich to print."""
  parts: list[rich.console.RenderableType] = []
  for job in snapshot['jobs']:
    parts += [*_parts(job, width >= 100), '']
  if not snapshot['jobs']:
    parts.append('No job yet: none has spoken to this coordinator.')
  return rich.console.Group(*parts)


def _ask(client: CoordinatorClient, width: int) -> rich.console.Group:
  reply = client.call('Status', pb.StatusRequest())
  return render(json.loads(reply.json), width)


def show(
  client: CoordinatorClient,
  once: bool,
  *,
  console: rich.console.Console | None = None,
  sleep: Callable[[float], None] = time.sleep,
) -> None:
  """Shows the status, once or until it is interrupted (Ctrl-C).

  On a terminal the table stays in place and is renewed every second; elsewhere
  plain text every ten seconds.
  """
  console = console or rich.console.Console()
  try:
    if once:
      console.print(_ask(client, console.width))
    elif console.is_terminal:
      with rich.live.Live(
        _ask(client, console.width),
        console=console,
        auto_refresh=False,
        screen=True,
      ) as live:
        while True:
          sleep(1.0)
          live.update(_ask(client, console.width), refresh=True)
    else:
      while True:
        console.print(_ask(client, console.width))
        sleep(_PLAIN_EVERY_S)
  except KeyboardInterrupt:
    pass
