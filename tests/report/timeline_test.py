# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The timeline: who waited for whom, bounded, whatever the file holds."""

import html.parser
import json
import re

import pytest

from antjax.report import report, timeline

T0 = 1_800_000_000.0


def _step(step, worker, end_s, compute_s, wait_s):
  return {
    'step': step,
    'worker': worker,
    'end_unix_s': T0 + end_s,
    'compute_s': compute_s,
    'wait_s': wait_s,
    'num_micro_batches': 4,
  }


def _action(time_s, action, reason='', generation=1):
  return {
    'time': T0 + time_s,
    'action': action,
    'reason': reason,
    'generation': generation,
  }


def _write(folder, lines, tail=''):
  path = folder / 'timeline.w0.jsonl'
  path.write_text(''.join(json.dumps(x) + '\n' for x in lines) + tail)
  return folder


def _straggler(num_steps, num_workers=3):
  """Steps of 1 s: the last worker computes all the time, others half."""
  return [
    _step(
      step,
      f'w{worker}',
      step + 1.0,
      1.0 if worker == num_workers - 1 else 0.5,
      0.0 if worker == num_workers - 1 else 0.5,
    )
    for step in range(num_steps)
    for worker in range(num_workers)
  ]


def test_read_says_who_waited(tmp_path):
  lines = _straggler(10) + [
    _action(4.5, 'ADJUST_BS', 'w2 is 2 times slower'),
    _action(7.5, 'START', 'w1 died', generation=2),
  ]
  read = timeline.read(_write(tmp_path, lines))
  assert list(read.blocks) == ['w0', 'w1', 'w2']
  assert read.wait_shares == {'w0': 0.5, 'w1': 0.5, 'w2': 0.0}
  assert read.start_unix_s == T0
  assert read.blocks['w0'][3] == timeline.TimelineBlock(3.0, 4.0, 0.5)
  assert read.steps_a_block == 1.0
  first, second = read.marks
  assert (first.time_s, first.action) == (4.5, 'ADJUST_BS')
  assert not first.is_generation and second.is_generation


def test_workers_come_in_their_natural_order(tmp_path):
  lines = [_step(0, f'w{n}', 1.0, 0.5, 0.5) for n in (10, 2, 1)]
  assert list(timeline.read(_write(tmp_path, lines)).blocks) == [
    'w1',
    'w2',
    'w10',
  ]


@pytest.mark.slow
def test_long_runs_are_joined_and_keep_their_means(tmp_path):
  lines = _straggler(20_000)
  read = timeline.read(_write(tmp_path, lines))
  num_blocks = sum(map(len, read.blocks.values()))
  assert num_blocks <= timeline._MAX_BLOCKS
  assert read.steps_a_block > 10
  assert all(b.wait_share == pytest.approx(0.5) for b in read.blocks['w0'])
  assert read.blocks['w0'][-1].end_s == 20_000.0
  for of_worker in read.blocks.values():
    for one, other in zip(of_worker, of_worker[1:]):
      assert one.end_s <= other.start_s + 1e-3
  svg = timeline.plot(read)
  assert len(svg) < 1_500_000


def test_many_workers_keep_those_that_were_waited_for(tmp_path):
  lines = [
    _step(0, f'w{n}', 1.0, 0.9 if n == 777 else 0.1, 0.1) for n in range(1000)
  ]
  read = timeline.read(_write(tmp_path, lines))
  assert len(read.blocks) == timeline._MAX_WORKERS
  assert read.num_workers_left_out == 1000 - timeline._MAX_WORKERS
  assert 'w777' in read.blocks
  assert '960 workers, which wait more' in timeline.section(read)


def test_many_actions_are_cut(tmp_path):
  lines = _straggler(3) + [_action(n / 1000, 'ADJUST_BS') for n in range(1000)]
  read = timeline.read(_write(tmp_path, lines))
  assert len(read.marks) == timeline._MAX_MARKS
  assert read.num_marks_left_out == 1000 - timeline._MAX_MARKS


def test_damaged_lines_are_counted(tmp_path):
  nan, inf = float('nan'), float('inf')
  lines = [
    *_straggler(2),
    _step(0, 'w0', nan, 1.0, 1.0),
    _step(0, 'w0', 1.0, inf, 1.0),
    _step(0, 'w0', 1.0, -1.0, 1.0),
    _step(0, 'w0', 1e12, 1.0, 1.0),
    {'step': 1},
    [1],
    'text',
    None,
    {'action': 'x', 'time': 'y'},
  ]
  path = _write(tmp_path, lines, '{"step": 3, "wor\n\n{"st')
  read = timeline.read(path)
  assert read.num_damaged == 12
  assert sum(map(len, read.blocks.values())) == 6
  assert '12 damaged lines are left out' in timeline.section(read)


@pytest.mark.parametrize(
  'text', ['', '\n', 'no json\n', '{"action": "x", "time": 5}\n']
)
def test_without_steps_there_is_no_section(tmp_path, text):
  (tmp_path / 'timeline.w0.jsonl').write_text(text)
  assert timeline.section(timeline.read(tmp_path)) == ''


def test_steps_without_length(tmp_path):
  lines = [_step(n, 'w', 0.0, 0.0, 0.0) for n in range(5000)]
  assert '<svg' in timeline.section(timeline.read(_write(tmp_path, lines)))


class _Text(html.parser.HTMLParser):
  def __init__(self, text):
    super().__init__()
    self.tags, self.words = set(), ''
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)

  def handle_data(self, data):
    self.words += data


def test_texts_are_escaped(tmp_path):
  bad = '<script>alert("&")</script> $\\frac{$ _^'
  lines = [_step(0, bad, 1.0, 0.5, 0.5), _action(0.5, bad, bad)]
  out = timeline.section(timeline.read(_write(tmp_path, lines)))
  page = _Text(out)
  assert 'script' not in page.tags
  assert page.words.count('<script>alert("&")</script>') == 2


def test_report_has_it_where_the_file_is(tmp_path):
  plain = report.Report(title='A run')
  path = report.write_report(plain, tmp_path)
  assert 'Who waited for whom' not in path.read_text()
  _write(tmp_path, [*_straggler(5), _action(2.0, 'ADJUST_BS', 'w2 is slow')])
  text = report.write_report(plain, tmp_path).read_text()
  assert 'Who waited for whom' in text
  assert 'w2 is slow' in _Text(text).words
  # The same file, the same page.
  assert text == report.write_report(plain, tmp_path).read_text()


def test_plot_draws_boxes_and_marks(tmp_path):
  lines = [*_straggler(4), _action(2.0, 'ADJUST_BS')]
  svg = timeline.plot(timeline.read(_write(tmp_path, lines)))
  # One path for what a worker computes, one for what it waits.
  assert len(re.findall('fill: #0072b2', svg)) == 3
  assert len(re.findall('fill: #f0c987', svg)) == 3
  assert 'stroke: #d55e00' in svg
