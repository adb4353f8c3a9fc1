# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A user's file that cannot be read is refused in one line."""

import json

import pytest

from antjax.jobs.gmeta import score as score_gmeta

GOOD = {'support': {}, 'labels': [1, 0.5], 'query': {}}


def test_a_users_file_is_read(tmp_path):
  path = tmp_path / 'user.json'
  path.write_text(json.dumps(GOOD))
  assert score_gmeta._read_user(str(path)) == GOOD


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (None, 'no readable JSON file'),
    ('{', 'no readable JSON file'),
    ('[]', 'support is missing'),
    (json.dumps(GOOD | {'query': None}), 'query is missing'),
    (json.dumps(GOOD | {'labels': [float('nan')]}), 'must be finite numbers'),
    (json.dumps(GOOD | {'labels': ['4']}), 'must be finite numbers'),
  ],
)
def test_what_is_no_user_is_refused(tmp_path, text, message):
  path = tmp_path / 'user.json'
  if text is not None:
    path.write_text(text)
  with pytest.raises(ValueError, match=message):
    score_gmeta._read_user(str(path))


@pytest.mark.parametrize(
  ('kind', 'good', 'bad', 'needed'),
  [
    ('rating', [1, 5.0], 3.5, 'rating.* one of 1, 2, 3, 4, 5'),
    ('rating', [1, 5.0], 0, 'rating.* one of 1, 2, 3, 4, 5'),
    ('click', [0, 1.0], 2, 'click.* one of 0, 1'),
  ],
)
def test_labels_are_of_the_models_kind(tmp_path, kind, good, bad, needed):
  path = tmp_path / 'user.json'
  path.write_text(json.dumps(GOOD | {'labels': good}))
  assert score_gmeta._read_user(str(path), kind)['labels'] == good
  path.write_text(json.dumps(GOOD | {'labels': [*good, bad]}))
  with pytest.raises(ValueError, match=f'holds {bad}; .*{needed}'):
    score_gmeta._read_user(str(path), kind)
