# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The report: self-contained, escaped, right about what falls short."""

import dataclasses
import html.parser
import json
import re

import pytest

from antjax.report import job_report, report, terminal
from antjax.report import results as report_results

_RESULTS = (
  {'scenario': 'warm', 'method': 'median', 'MAE': 0.8, 'AUC': None},
  {'scenario': 'warm', 'method': 'joint', 'MAE': 0.7, 'AUC': 0.6},
  {'scenario': 'warm', 'method': 'meta', 'MAE': 0.75, 'AUC': 0.65},
  {'scenario': 'cold', 'method': 'median', 'MAE': 0.9, 'AUC': float('nan')},
  {'scenario': 'cold', 'method': 'joint', 'MAE': 0.85, 'AUC': 0.6},
  {'scenario': 'cold', 'method': 'meta', 'MAE': 0.85, 'AUC': 0.6},
)
_REPORT = report.Report(
  title='A run',
  summary='On synthetic data.',
  results=_RESULTS,
  baselines=('median', 'joint'),
  curves={'Loss': {'train': [(s, 1 / (s + 1)) for s in range(50)]}},
  throughput={'examples/s': 1234.5},
  tables={
    'By part': (('part', 'gap'), [['new <items>', '-0.1']]),
    'No': ((), []),
  },
  memory=[
    {'device': d, 'level': level, 'part': 'parameters', 'bytes': 2**20}
    for d in range(2)
    for level in ('intra', 'intra', 'none')
  ],
  config={'optimizer': {'learning_rate': 0.001}},
  command='python -m launch.train_gmeta --config=runs/a/config.json',
  revision='0123abc',
  machine={'devices': '8 x cpu', 'jax': '0.10.2'},
  date='2026-11-24 12:00 UTC',
  notes=('Data by somebody.',),
)


class _Page(html.parser.HTMLParser):
  """Collects tags and text, and checks that every tag is closed."""

  _VOID = frozenset({'meta'})

  def __init__(self, text):
    super().__init__()
    self.tags, self.words, self._open = [], [], []
    self.feed(text)
    assert not self._open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in self._VOID:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    self.words.append(data)


def _cell(page, number):
  """Returns the table cells that show a number."""
  return re.findall(rf'<td class="number">[^/]*{number}.*?</td>', page)


def test_page_shows_all_parts():
  text = ' '.join(_Page(report.render(_REPORT)).words)
  for part in (
    'A run',
    'On synthetic data.',
    'By part',
    'new <items>',
    'MAE',
    '1,234',
    'parameters',
    '2 MiB',
    'learning_rate',
    'python -m launch.train_gmeta --config=runs/a/config.json',
    '0123abc',
    '8 x cpu',
    '2026-11-24 12:00 UTC',
    'Data by somebody.',
  ):
    assert part in text, part


def test_page_needs_nothing_from_outside():
  page = _Page(report.render(_REPORT))
  tags = {tag for tag, _ in page.tags}
  assert 'svg' in tags
  assert tags.isdisjoint({'script', 'link', 'img', 'iframe', 'image'})
  for _, attrs in page.tags:
    for name, value in attrs.items():
      if name in ('href', 'xlink:href', 'src'):
        assert value.startswith('#')
  assert 'url(http' not in report.render(_REPORT)


def test_equal_reports_give_equal_pages():
  assert report.render(_REPORT) == report.render(dataclasses.replace(_REPORT))


def test_every_text_is_escaped():
  bad = '<script>alert("&")</script>'
  page = report.render(
    report.Report(
      title=bad,
      summary=bad,
      results=[
        {'scenario': bad, 'method': bad, bad: 1.0},
        {'scenario': bad, 'method': bad + '2', bad: 2.0},
      ],
      baselines=(bad + '2',),
      curves={bad: {bad: [(0, 1.0)], '_' + bad: [(0, 2.0)]}},
      throughput={bad: 1.0},
      memory=[{'device': bad, 'level': bad, 'part': bad, 'bytes': 1}],
      config={bad: bad},
      command=bad,
      revision=bad,
      machine={bad: bad},
      date=bad,
      notes=(bad,),
    )
  )
  assert bad not in page
  assert 'script' not in {tag for tag, _ in _Page(page).tags}


def test_best_is_bold_and_ties_are_bold_together():
  page = report.render(_REPORT)
  assert _cell(page, '0.7000')[0] == ('<td class="number"><b>0.7000</b></td>')
  assert _cell(page, '0.6500')[0].startswith('<td class="number"><b>')
  assert all('<b>' in cell for cell in _cell(page, '0.8500'))
  assert len(_cell(page, '0.8500')) == 2
  assert '<b>' not in _cell(page, '0.9000')[0]


def test_numbers_worse_than_a_baseline_are_said():
  page = report.render(_REPORT)
  assert 'worse than joint' in _cell(page, '0.7500')[0]
  results = report_results.Results(_RESULTS, {'MAE'}, ('median', 'joint'))
  # Not the ties of the cold scenario, not nan, not a baseline's own numbers.
  assert report_results.shortfalls(results) == [
    'warm: MAE of meta is 0.7500, worse than joint (0.7000).'
  ]
  assert 'in 1 number:' in page
  assert 'by more than 1% of its number' in page


@pytest.mark.parametrize(
  'mine, width, is_red',
  [
    (0.7003, None, False),  # Less than a hundredth of the baseline's.
    (0.7080, None, True),
    (0.7080, 0.0060, False),  # Less than chance: .0085 = hypot(.006, .006).
    (0.7003, 0.0001, True),
  ],
)
def test_red_is_what_is_more_than_chance_or_a_trifle(mine, width, is_red):
  results = [
    {'scenario': 'all', 'method': 'joint', 'MAE': 0.7},
    {'scenario': 'all', 'method': 'meta', 'MAE': mine},
  ]
  widths = {('all', m, 'MAE'): width for m in ('joint', 'meta') if width}
  shown = report.render(
    report.Report(
      title='t', results=results, baselines=('joint',), widths=widths
    )
  )
  assert ('class="worse"' in shown) == is_red
  assert ('class="bad"' in shown) == is_red
  assert ('Worse by less: 1 number.' in shown) != is_red
  assert 'by more than the 95% intervals' in shown


def test_no_shortfall_is_said_too():
  kept = [row for row in _RESULTS if row['scenario'] == 'cold']
  page = report.render(dataclasses.replace(_REPORT, results=kept))
  assert 'No method is clearly worse than a baseline' in page


def test_missing_numbers_are_dashes():
  page = report.render(_REPORT)
  assert page.count('<td class="number none">-</td>') == 2


def test_empty_parts_leave_no_section():
  page = report.render(report.Report(title='Nothing yet'))
  assert '<section>' not in page
  _Page(page)


def test_curves_with_holes_long_and_empty_ones():
  page = report.render(
    report.Report(
      title='t',
      curves={
        'Loss': {
          'long': [(s, 1.0) for s in range(10_001)],
          'holes': [(0, 1.0), (1, None), (2, float('nan'))],
          'empty': [],
        },
        'Empty': {'empty': []},
      },
    )
  )
  assert page.count('<figure>') == 1
  assert len(page) < 200_000


def test_intervals_are_drawn_with_and_without_bars():
  nan = float('nan')
  lines = {
    'meta <1>': [(0, 0.9, 0.8, 1.0), (1, 0.7, 0.6, 0.9)],
    # A percentile beyond the value, and none at all.
    'joint': [(0, 0.8, 0.81, 0.9), (1, 0.8, nan, nan)],
  }
  panel = report.Panel('adaptation steps', lines)
  page = report.render(report.Report(title='t', intervals={'MAE': panel}))
  assert page.count('<figure>') == 1 and 'Results in detail' in page
  assert page == report.render(
    report.Report(title='t', intervals={'MAE': panel})
  )
  assert 'Results in detail' not in report.render(report.Report(title='t'))


def test_bars_have_errors_or_intervals_and_a_floor():
  nan = float('nan')
  groups = {
    'ads': {'error': (0.7, 0.01), 'interval': (0.8, 0.75, 0.82)},
    'videos': {'error': (0.6, nan), 'interval': (nan, nan, nan)},
  }
  page = report.render(report.Report(title='t', bars={'AUC': groups}))
  assert page.count('<figure>') == 1
  floored = report.render(
    report.Report(title='t', bars={'AUC': groups}, bar_floors={'AUC': 0.5})
  )
  assert floored != page
  # A standard error is an interval of one to each side.
  groups['ads']['error'] = (0.7, 0.7 - 0.01, 0.7 + 0.01)
  groups['videos']['error'] = (0.6, nan, nan)
  same = report.render(
    report.Report(title='t', bars={'AUC': groups}, bar_floors={'AUC': 0.5})
  )
  assert same == floored


def test_write_replaces_the_page_of_the_run(tmp_path):
  path = report.write_report(_REPORT, tmp_path / 'run')
  assert path == tmp_path / 'run' / 'report.html'
  report.write_report(dataclasses.replace(_REPORT, title='Second'), path.parent)
  assert '<h1>Second</h1>' in path.read_text(encoding='utf-8')
  assert [p.name for p in path.parent.iterdir()] == ['report.html']


def test_bad_rows_are_errors():
  with pytest.raises(ValueError, match=r"row lacks \['method'\]"):
    report.render(report.Report(title='t', results=[{'scenario': 'warm'}]))
  twice = [{'scenario': 'a', 'method': 'b', 'MAE': 1.0}] * 2
  with pytest.raises(ValueError, match='two rows for'):
    report.render(report.Report(title='t', results=twice))
  with pytest.raises(ValueError, match=r"piece lacks \['bytes', 'part'\]"):
    report.render(
      report.Report(title='t', memory=[{'device': 0, 'level': 'none'}])
    )


@pytest.mark.parametrize(
  'num_bytes, text',
  [(0, '0 B'), (1023, '1023 B'), (1536, '1.5 KiB'), (3 * 2**30, '3 GiB')],
)
def test_bytes_have_units(num_bytes, text):
  assert report.format_bytes(num_bytes) == text


def test_machine_says_devices_and_versions():
  machine = report.describe_machine()
  assert {'devices', 'jax', 'python', 'processes'} <= machine.keys()


def test_a_table_in_a_file_has_all_its_columns(capsys):
  names = [f'a_name_of_twenty_{i:03}' for i in range(12)]
  terminal.show_table('Results', names, [names], num_left=len(names))
  assert names[-1] in capsys.readouterr().out.splitlines()[-2]


def test_numbers_that_json_lacks_are_null(tmp_path):
  path = tmp_path / 'results.json'
  content = {'a': [1.5, float('nan')], 'b': (float('inf'), {'c': 'x'})}
  job_report.write_json(path, content)

  def refuse(text):
    raise AssertionError(text)

  found = json.loads(path.read_text(), parse_constant=refuse)
  assert found == {'a': [1.5, None], 'b': [None, {'c': 'x'}]}
