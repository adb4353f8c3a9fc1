# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The frame of the report: style, page and parts of sections."""

from collections.abc import Sequence
import html
import pathlib
import string
from typing import Any


def text(value: Any) -> str:
  """Returns a value as escaped text, also valid inside an attribute."""
  return html.escape(str(value), quote=True)


def section(title: str, body: str) -> str:
  """Returns a titled section around finished HTML."""
  return f'<section><h2>{text(title)}</h2>\n{body}\n</section>'


def table(head: Sequence[str], rows: Sequence[str]) -> str:
  """Returns a table of escaped head cells and finished rows."""
  cells = ''.join(f'<th>{cell}</th>' for cell in head)
  return (
    f'<div class="wide"><table><thead><tr>{cells}</tr></thead>\n<tbody>'
    + '\n'.join(rows)
    + '</tbody></table></div>'
  )


def text_table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
  """Returns a table of texts, which are escaped here."""
  cells = [''.join(f'<td>{text(x)}</td>' for x in row) for row in rows]
  return table([*map(text, head)], [f'<tr>{row}</tr>' for row in cells])


def whole(title: str, summary: str, facts: str, sections: Sequence[str]) -> str:
  """Returns the page around finished sections; texts are escaped here."""
  lead = f'<p class="lead">{text(summary)}</p>' if summary else ''
  return string.Template(_read('page.html')).substitute(
    title=text(title),
    style=_read('page.css'),
    summary=lead,
    facts=text(facts),
    sections='\n'.join(section for section in sections if section),
  )


def _read(name: str) -> str:
  return pathlib.Path(__file__).with_name(name).read_text(encoding='utf-8')
