# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""An exported LLM-Rec that answers requests: titles to items."""

from collections.abc import Sequence
from typing import Any

from antjax.jobs.llm_rec import export
from antjax.serving.batcher import Request
from antjax.serving.served import BadField, check_count, need, shown

_USERS = (1, 8)  # Scored at once.
_MAX_TITLES, _MAX_CHARS = 1_000, 2_000


class ServedTitles:
  """{"history": [titles, oldest first], "num": 20} to the best items."""

  def __init__(self, folder: str):
    """Reads the folder `export` of a run."""
    self._recommender, self._catalogue = export.read(folder)
    self._max_items = len(self._catalogue.titles) - 1

  def read(self, fields: Any) -> Request:
    """See `antjax.serving.batcher.Served`."""
    need(fields, ['history', 'num'], ['history'])
    titles, num = fields['history'], fields.get('num', 20)
    if not isinstance(titles, list):
      raise BadField('history', shown(titles), 'a list of titles')
    check_count('history', len(titles), _MAX_TITLES)
    for row, title in enumerate(titles):
      if type(title) is not str or not 0 < len(title) <= _MAX_CHARS:
        needed = f'a text of 1 to {_MAX_CHARS} characters'
        raise BadField('history', shown(title), needed, row)
    most = min(1_000, self._max_items)
    if type(num) is not int or not 0 < num <= most:
      raise BadField('num', shown(num), f'an integer, 1 to {most}')
    return Request((titles, num), 1)

  def score(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
    """See `antjax.serving.batcher.Served`."""
    answers = []
    for start in range(0, len(requests), _USERS[-1]):
      some = [one.content for one in requests[start : start + _USERS[-1]]]
      size = next(n for n in _USERS if n >= len(some))
      users = [titles for titles, _ in some]
      users += users[-1:] * (size - len(some))
      found = self._recommender(users, max(num for _, num in some))
      for (_, num), items in zip(some, found):
        rows = [
          {
            'key': self._catalogue.keys[item],
            'title': self._catalogue.titles[item],
            'domain': self._catalogue.domains[item],
            'score': score,
          }
          for item, score in items[:num]
        ]
        answers.append({'items': rows})
    return answers

  def warm(self) -> None:
    """See `antjax.serving.batcher.Served`; histories of other lengths later."""
    for size in _USERS:
      num = min(20, self._max_items)
      self.score([Request((self._catalogue.titles[1:2], num), 1)] * size)
