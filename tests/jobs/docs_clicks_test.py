# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""docs/click_models.md: its commands lead from a CSV to scores of new rows."""

import ast
import csv
import os
import pathlib
import random
import re
import shlex

import pytest

from tests.jobs import processes

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_three_commands_lead_to_scores_of_new_rows(tmp_path):
  page = (_ROOT / 'docs' / 'click_models.md').read_text(encoding='utf-8')
  section = page.split('## From your CSV to scores of new rows')[1]
  schema, commands, scorer = re.findall(r'```\w*\n(.*?)```', section, re.S)[:3]
  (tmp_path / 'clicks.yaml').write_text(schema)
  rng = random.Random(0)
  header = 'user,item,shop,price,clicked,part'
  parts = ['train'] * 200 + ['valid'] * 30 + ['test'] * 30
  rows = [
    f'u{rng.randrange(20)},i{rng.randrange(30)},s{rng.randrange(3)},'
    f'{rng.random():.3f},{rng.randrange(2)},{part}'
    for part in parts
  ]
  (tmp_path / 'clicks.csv').write_text('\n'.join([header, *rows]) + '\n')
  new = [row.rsplit(',', 2)[0] for row in rows[-30:]]
  names = header.rsplit(',', 2)[0]
  (tmp_path / 'new.csv').write_text('\n'.join([names, *new]) + '\n')
  (tmp_path / 'scorer.py').write_text(scorer)
  lines = commands.replace('\\\n', ' ').strip().splitlines()
  assert len(lines) == 3
  for line in [*lines, 'python scorer.py']:
    env = os.environ | {'PYTHONPATH': str(_ROOT)}
    done = processes.run(*shlex.split(line)[1:], cwd=tmp_path, env=env)
    if 'train_clicks' in line:
      assert re.search(r'all +│ dcnv2', done.stdout)
  with open(tmp_path / 'scores.csv', encoding='utf-8') as file:
    scores = [float(row['score']) for row in csv.DictReader(file)]
  assert len(scores) == 30 and all(0 < score < 1 for score in scores)
  logit, unseen = re.fullmatch(r'\[(.+)\] (\{.+\})\n', done.stdout).groups()
  assert abs(float(logit)) < 9
  assert ast.literal_eval(unseen) == {'user': 0, 'item': 0, 'shop': 1}
