# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A user's file that cannot be read is refused in one line."""

import json

import pytest

from launch import score_gmeta

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
