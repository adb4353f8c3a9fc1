# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Output of a running job: progress bar, metrics log, trackers.

Steps are numbered from 0: the step that turns `state.step` from s into s + 1 is
step s, so a run restored at `state.step == r` has kept steps 0 to r - 1.
"""

import collections
from collections.abc import Callable, Iterable, Mapping
import json
import math
import os
import pathlib
import sys
import time
from typing import Any, Self, TextIO

from absl import logging
import jax
import rich.console
import rich.progress

from antjax import paths
from antjax.report import trackers as trackers_lib

METRICS_FILE = 'metrics.jsonl'

# Newer rates count more; after this time an old one has weight 1/e.
_RATE_MEMORY_S = 10.0
# The time left goes by the steps of so long a time, evaluations included.
_WINDOW_S = 120.0
# Marks of the window are at least so far apart.
_MARK_S = 1.0


def _duration(seconds: float) -> str:
  """45 s, 2:05 min or 1:02:05 h."""
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  if hours:
    return f'{hours}:{m:02}:{s:02} h'
  return f'{m}:{s:02} min' if m else f'{s} s'


class Progress:
  """A live line of a loop: step, examples/s, loss, time left.

  Rate and time left go by recent steps, the first one never among them: it
  compiles.
  On a terminal a bar, elsewhere (a log file, a pipe) one plain line every
  `plain_every_s` seconds and one at the end. Only process 0 shows anything.
  Use as a context manager, so that an exception leaves the terminal whole.
  """

  def __init__(
    self,
    num_steps: int,  # Of the whole run, those before `start_step` included.
    *,
    start_step: int = 0,  # The first one to be done.
    name: str = 'train',
    unit: str = 'examples',
    plain_every_s: float = 10.0,
    stream: TextIO | None = None,  # None: stderr.
    show: bool | None = None,  # None: on process 0 only.
    clock: Callable[[], float] = time.monotonic,
  ):
    self._num_steps = num_steps
    self._step = self._printed_step = start_step
    self._name, self._unit = name, unit
    self._plain_every_s = plain_every_s
    self._stream = stream if stream is not None else sys.stderr
    self._show = jax.process_index() == 0 if show is None else show
    self._clock = clock
    self._start_s = self._last_s = self._printed_s = clock()
    self._rate: float | None = None  # Examples a second, smoothed.
    # (time, step), the window's oldest first; none before the first update.
    self._marks = collections.deque[tuple[float, int]]()
    self._loss: float | None = None
    self._bar: rich.progress.Progress | None = None

  def __enter__(self) -> Self:
    self._start_s = self._last_s = self._printed_s = self._clock()
    console = rich.console.Console(file=self._stream)
    if self._show and console.is_terminal:
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn('[bold]{task.description}'),
        rich.progress.BarColumn(bar_width=None),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn('{task.fields[facts]}'),
        console=console,
        refresh_per_second=4,
        expand=True,
      )
      self._task = self._bar.add_task(
        self._name,
        total=self._num_steps,
        completed=self._step,
        facts='starting',
      )
      self._bar.start()
    return self

  def __exit__(self, *error: Any) -> None:
    if self._bar is not None:
      self._bar.stop()
      self._bar = None
    elif self._show and self._step > self._printed_step:
      self._print_plain()

  def update(
    self, step: int, *, num_examples: float = 0, loss: float | None = None
  ) -> None:
    """Shows that `step` steps are done, those before `start_step` included.

    `num_examples` are of all processes since the last update. Without a loss
    the last one stays.
    """
    now = self._clock()
    elapsed_s = now - self._last_s
    if elapsed_s > 0 and num_examples and self._marks:
      rate = num_examples / elapsed_s
      old = math.exp(-elapsed_s / _RATE_MEMORY_S)
      self._rate = (
        rate if self._rate is None else old * self._rate + (1 - old) * rate
      )
    if elapsed_s > 0:
      self._last_s = now
    marks = self._marks
    if not marks or now - marks[-1][0] >= _MARK_S:
      marks.append((now, step))
    while len(marks) > 2 and now - marks[1][0] >= _WINDOW_S:
      marks.popleft()
    self._step = step
    self._loss = loss if loss is not None else self._loss
    if self._bar is not None:
      self._bar.update(self._task, completed=step, facts=self._facts(now))
    elif self._show and now - self._printed_s >= self._plain_every_s:
      self._print_plain()

  def advance_to(self, num: int, *, start: int = 0) -> None:
    """Shows that `num` steps of an example each are done, behind `start`."""
    self.update(start + num, num_examples=start + num - self._step)

  def _facts(self, now: float) -> str:
    facts = []
    if self._rate is not None:
      facts.append(f'{self._rate:,.0f} {self._unit}/s')
    if self._loss is not None:
      facts.append(f'loss {self._loss:.4f}')
    left = self._num_steps - self._step
    since, first = self._marks[0] if self._marks else (now, self._step)
    if left > 0 and self._step > first:
      pace_s = (now - since) / (self._step - first)
      facts.append(f'{_duration(pace_s * left)} left')
    elif left <= 0:
      facts.append(f'took {_duration(now - self._start_s)}')
    return ' | '.join(facts)

  def _print_plain(self) -> None:
    now = self._clock()
    percent = 100 * self._step / max(self._num_steps, 1)
    done = f'{self._name} {self._step}/{self._num_steps} ({percent:.0f} %)'
    facts = self._facts(now)
    line = f'{done} | {facts}' if facts else done
    print(line, file=self._stream, flush=True)
    self._printed_s, self._printed_step = now, self._step


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Reads a metrics log: one dict a line, with `step` and the metrics' values.

  A last line without its end is left out: the writer died while writing it.

  Raises:
    ValueError: another line is not a JSON object with an integer `step`.
  """
  lines = pathlib.Path(path).read_text(encoding='utf-8').split('\n')
  records = []
  for number, line in enumerate(lines[:-1], start=1):
    try:
      record = json.loads(line)
      if not isinstance(record['step'], int):
        raise TypeError
    except (ValueError, TypeError, KeyError):
      raise ValueError(
        f'{path}:{number}: not a JSON object with an integer "step". Mend or '
        'move the file away; a new one is then begun.'
      ) from None
    records.append(record)
  return records


class RunLog:
  """Scalars by step, in `metrics.jsonl` and by trackers.

  A resumed run appends to the same files. Lines from `resume_step` on, work
  that was lost and will be repeated, are dropped first, in TensorBoard too, so
  that no step appears twice. A tracker that fails is left out from then on.
  Only process 0 writes.

  Raises:
    ValueError: `metrics.jsonl` is there but not such a log.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    *,
    resume_step: int = 0,  # `state.step` at the start.
    trackers: Iterable[str] = ('tensorboard',),  # Of `trackers.PACKAGES`.
    config: Mapping[str, Any] | None = None,  # That they show.
    write: bool | None = None,  # None: on process 0 only.
  ):
    self._write = jax.process_index() == 0 if write is None else write
    if not self._write:
      return
    path = paths.local(folder, 'RunLog: folder') / METRICS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
      _drop_from(path, resume_step)
    self._trackers = trackers_lib.opened(
      trackers, path.parent, resume_step=resume_step, config=config or {}
    )
    self._file = path.open('a', encoding='utf-8')

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: Any) -> None:
    self.close()

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Appends the numbers of one step, counted from 0, by name.

    `train/loss` puts a curve in group `train`. What is not finite becomes null
    in the file.
    """
    if not self._write:
      return
    values = {name: float(value) for name, value in metrics.items()}
    finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
    record = {'step': int(step), 'time_s': round(time.time(), 3), **finite}
    # One write a line, flushed: a killed run loses no line but its last.
    self._file.write(json.dumps(record) + '\n')
    self._file.flush()
    for name, tracker in list(self._trackers.items()):
      self._try(name, lambda: tracker.write(int(step), values))

  def close(self) -> None:
    """Writes out what is buffered and closes the files."""
    if self._write:
      self._file.close()
      for name, tracker in list(self._trackers.items()):
        self._try(name, tracker.close)

  def _try(self, name: str, call: Callable[[], None]) -> None:
    """A server that is gone must not end a training."""
    try:
      call()
    except Exception as error:
      del self._trackers[name]
      logging.warning(
        '%s takes no more of this run (%s); all numbers are in %s.',
        name,
        error,
        self._file.name,
      )


def _drop_from(path: pathlib.Path, step: int) -> None:
  """Rewrites a metrics log without the lines of steps >= `step`."""
  records = read_metrics(path)
  kept = [record for record in records if record['step'] < step]
  if len(kept) < len(records):
    logging.info(
      '%s: dropped %d lines of steps >= %d, where this run goes on.',
      path,
      len(records) - len(kept),
      step,
    )
  # Beside the old file, then renamed: a crash here leaves one or the other.
  with paths.replaced(path) as new:
    text = ''.join(json.dumps(record) + '\n' for record in kept)
    new.write_text(text, encoding='utf-8')
