# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The progress line on and off a terminal; logs that survive a resume."""

import io
import json
import struct

import pytest
from tensorboardX.proto import event_pb2

from antjax.report import progress


class _Terminal(io.StringIO):
  """A stream that claims to be a terminal."""

  def isatty(self):
    return True


def _run(stream, *, num_steps=4, start_step=0, step_s=5.0, **options):
  """Runs a loop of `step_s` a step on a made-up clock; returns the text."""
  now = [100.0]
  bar = progress.Progress(
    num_steps,
    start_step=start_step,
    stream=stream,
    clock=lambda: now[0],
    **options,
  )
  with bar:
    for step in range(start_step, num_steps):
      now[0] += step_s
      bar.update(step + 1, num_examples=1000, loss=1 / (step + 1))
  return stream.getvalue()


def test_plain_lines_come_at_the_interval_and_at_the_end():
  lines = _run(io.StringIO(), num_steps=5).splitlines()
  assert lines == [
    'train 2/5 (40 %) | 200 examples/s | loss 0.5000 | 15 s left',
    'train 4/5 (80 %) | 200 examples/s | loss 0.2500 | 5 s left',
    'train 5/5 (100 %) | 200 examples/s | loss 0.2000 | took 25 s',
  ]


def test_time_left_of_a_resumed_run_counts_only_its_own_steps():
  text = _run(io.StringIO(), num_steps=1000, start_step=995, name='joint')
  # 5 s a step; 995 restored steps in no time would give 0 s left.
  assert text.splitlines()[0].startswith('joint 997/1000 (100 %)')
  assert '15 s left' in text.splitlines()[0]


def _lines_of(seconds, num_steps):
  """The lines of a run whose updates come so many seconds apart."""
  stream, now = io.StringIO(), [0.0]
  bar = progress.Progress(
    num_steps, stream=stream, plain_every_s=0, clock=lambda: now[0]
  )
  with bar:
    for step, step_s in enumerate(seconds):
      now[0] += step_s
      bar.update(step + 1, num_examples=100)
  return stream.getvalue().splitlines()


def test_time_left_leaves_out_the_step_that_compiles():
  lines = _lines_of([300, 1, 1], num_steps=103)
  assert lines[0] == 'train 1/103 (1 %)'
  assert lines[1] == 'train 2/103 (2 %) | 100 examples/s | 1:41 min left'
  assert lines[2] == 'train 3/103 (3 %) | 100 examples/s | 1:40 min left'


def test_time_left_goes_by_recent_steps():
  lines = _lines_of([300] + 50 * [10] + 200 * [1], num_steps=351)
  assert lines[50].endswith('50:00 min left')
  assert lines[-1].endswith('1:40 min left')
  # An evaluation in the window counts with the steps between two of them.
  lines = _lines_of([300] + 100 * [1] + [60], num_steps=202)
  assert lines[-1].endswith('3:17 min left')


@pytest.mark.parametrize(
  'step_s, left', [(20, '1:00 min left'), (1241, '1:02:03 h left')]
)
def test_long_times_have_units(step_s, left):
  assert left in _run(io.StringIO(), num_steps=5, step_s=step_s)


def test_terminal_shows_a_bar():
  text = _run(_Terminal())
  assert '\x1b[' in text
  assert '4/4' in text
  assert 'loss 0.2500' in text
  assert '200 examples/s' in text


def test_error_in_the_loop_gives_the_terminal_back():
  stream = _Terminal()
  with pytest.raises(ZeroDivisionError):
    with progress.Progress(3, stream=stream):
      raise ZeroDivisionError
  # The cursor, hidden for the bar, is shown again.
  assert stream.getvalue().rstrip('\n').endswith('\x1b[?25h')


def test_only_process_0_shows():
  assert _run(io.StringIO(), show=False) == ''
  assert _run(_Terminal(), show=False) == ''


def test_process_number_decides_by_default(monkeypatch, tmp_path):
  monkeypatch.setattr('jax.process_index', lambda: 1)
  assert _run(io.StringIO()) == ''
  with progress.RunLog(tmp_path / 'run') as log:
    log.write(0, {'loss': 1.0})
  assert not (tmp_path / 'run').exists()


def _read_events(folder):
  """Returns [(step, name, value)] of all event files, in order written."""
  scalars = []
  for path in sorted(folder.iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):
      # A record: u64 length, u32 checksum, the event, u32 checksum.
      (length,) = struct.unpack_from('<Q', data, at)
      event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
      at += 16 + length
      for value in event.summary.value:
        scalars.append((event.step, value.tag, value.simple_value))
  return scalars


def test_run_log_writes_lines_and_events(tmp_path):
  with progress.RunLog(tmp_path) as log:
    log.write(0, {'train/loss': 1.5})
    log.write(1, {'train/loss': float('nan'), 'train/rate': 2})
  records = progress.read_metrics(tmp_path / 'metrics.jsonl')
  assert [r['step'] for r in records] == [0, 1]
  assert records[0]['train/loss'] == 1.5
  assert records[1]['train/loss'] is None
  assert records[1]['train/rate'] == 2.0
  assert records[0]['time_s'] <= records[1]['time_s']
  events = _read_events(tmp_path / 'tensorboard')
  assert (0, 'train/loss', 1.5) in events
  assert (1, 'train/rate', 2.0) in events


def test_resume_drops_what_will_be_done_again(tmp_path):
  with progress.RunLog(tmp_path) as log:
    for step in range(5):
      log.write(step, {'loss': step})
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text() + '{"step": 5, "lo')  # Killed in a write.
  with progress.RunLog(tmp_path, resume_step=3) as log:
    log.write(3, {'loss': 30})
  records = progress.read_metrics(path)
  assert [(r['step'], r['loss']) for r in records] == [
    (0, 0),
    (1, 1),
    (2, 2),
    (3, 30),
  ]


def test_a_file_that_is_no_metrics_log_is_left_alone(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  text = json.dumps({'step': 0}) + '\n' + 'notes of mine\n'
  path.write_text(text)
  with pytest.raises(ValueError, match='metrics.jsonl:2: not a JSON object'):
    progress.RunLog(tmp_path)
  assert path.read_text() == text
