# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the pages of the site that are no files of docs/, for mkdocs.

README, changelog and the pages of results keep their places in the repository,
the reference has a page for each room, notebooks are read from Python files,
and `<!-- drawing: NAME -->` becomes the drawing of that name.
"""

import ast
import json
import pathlib
import posixpath
import re
import sys

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'docs'))

import drawings  # noqa: E402

_MOVED = {
  'README.md': 'index.md',
  'CHANGELOG.md': 'CHANGELOG.md',
  'CONTRIBUTING.md': 'CONTRIBUTING.md',
  'benchmarks/results': 'results/README.md',
}
_LINK = re.compile(r'\[([^][]*)\]\(([^)\s#:]+)((?:#[^)\s]*)?)\)')
_DRAWING = re.compile(r'<!-- drawing: (\w+) -->')


def _rooms():
  inits = sorted((ROOT / 'antjax').glob('*/__init__.py'))
  return [path.parent.name for path in inits]


def _results():
  return sorted((ROOT / 'benchmarks' / 'results').glob('*.md'))


def _site_path(path):
  """Where the site has a file of the repository; None if it has not."""
  if path in _MOVED:
    return _MOVED[path]
  if match := re.fullmatch(r'antjax/(\w+)/(\w+)\.py', path):
    module = f'antjax.{match[1]}.{match[2]}'
    return f'reference/{match[1]}.md#{module}'
  for folder, place in (('docs/', ''), ('benchmarks/results/', 'results/')):
    if path.startswith(folder):
      return path.replace(folder, place, 1)
  return None


def _room(name):
  """Its names that `import antjax` gives, and then all the rest."""
  own = {x: at for x, _, at in _public() if at.startswith(f'antjax.{name}.')}
  text = f'# antjax.{name}\n\n'
  for public, target in own.items():
    if target.endswith(f'.{public}'):
      text += f'::: {target}\n    options: {{heading_level: 2}}\n\n'
  filters = json.dumps(['!^_', *(f'!^{public}$' for public in own)])
  text += f'## Modules\n\n::: antjax.{name}\n    options:\n'
  text += '      show_root_heading: false\n      heading_level: 3\n'
  return f'{text}      filters: {filters}\n'


def _public():
  """(name, home, where the reference has it) of what `import antjax` gives."""
  tree = ast.parse((ROOT / 'antjax' / '__init__.py').read_text('utf-8'))
  (homes,) = (
    ast.literal_eval(node.value)
    for node in tree.body
    if isinstance(node, ast.Assign) and node.targets[0].id == '_HOMES'
  )
  found = []
  for name, home in sorted(homes.items(), key=lambda item: item[0].lower()):
    # A home may have it from a neighbor; a constant has no entry of its own.
    files = (ROOT / 'antjax' / home.split('.')[0]).glob('*.py')
    defined = re.compile(rf'^(?:class|def) {name}\b', re.MULTILINE)
    homes_of = [p.stem for p in files if defined.search(p.read_text('utf-8'))]
    room = f'antjax.{home.split(".")[0]}'
    target = f'{room}.{homes_of[0]}.{name}' if homes_of else f'antjax.{home}'
    found.append((name, home, target))
  return found


def _public_names():
  """A table of them."""
  rows = [
    f'| [`antjax.{name}`][{target}] | `antjax.{home}` |'
    for name, home, target in _public()
  ]
  return '\n'.join(['| name | home |', '|---|---|', *rows, ''])


def cells(text):
  """(is markdown, tags, text) of each cell of a notebook in percent format."""
  found = []
  for part in re.split(r'^# %%', text, flags=re.MULTILINE)[1:]:
    kind, _, body = part.partition('\n')
    tags = json.loads(kind.partition('tags=')[2] or '[]')
    found.append(('markdown' in kind, tags, body.strip().strip('"').strip()))
  return found


def _notebook(path):
  """The Markdown of a notebook, and itself in Jupyter's format."""
  parts = cells(path.read_text('utf-8'))
  page = [b if is_text else f'```python\n{b}\n```' for is_text, _, b in parts]
  links = f'[Jupyter notebook]({path.stem}.ipynb), [Python file]({path.name})'
  page.insert(1, f'As a file: {links}.')
  notebook = {
    'cells': [
      {'cell_type': 'markdown', 'metadata': {}, 'source': body}
      if is_text
      else {
        'cell_type': 'code',
        'execution_count': None,
        'metadata': {'tags': tags},  # For papermill.
        'outputs': [],
        'source': body,
      }
      for is_text, tags, body in parts
    ],
    'metadata': {'language_info': {'name': 'python'}},
    'nbformat': 4,
    'nbformat_minor': 4,
  }
  return '\n\n'.join(page), json.dumps(notebook, indent=1)


def on_config(config):
  for section in config.nav:
    if 'Reference' in section:
      section['Reference'] += [
        {room: f'reference/{room}.md'} for room in _rooms()
      ]
    if 'Results' in section:
      pages = [f'results/{path.name}' for path in _results()]
      section['Results'] += [p for p in pages if p not in section['Results']]
  return config


def on_files(files, config):
  def add(place, **source):
    files.append(File.generated(config, place, **source))

  for source, place in _MOVED.items():
    if source.endswith('.md'):
      add(place, abs_src_path=str(ROOT / source))
  for path in (ROOT / 'benchmarks' / 'results').iterdir():
    add(f'results/{path.name}', abs_src_path=str(path))
  for room in _rooms():
    add(f'reference/{room}.md', content=_room(room))
  for path in (ROOT / 'docs' / 'notebooks').glob('*.py'):
    page, notebook = _notebook(path)
    add(f'notebooks/{path.stem}.md', content=page)
    add(f'notebooks/{path.stem}.ipynb', content=notebook)
  return files


def on_page_markdown(markdown, page, **_):
  place = page.file.src_uri
  if place == 'index.md':
    page.meta['hide'] = ['navigation']
  sources = {place: source for source, place in _MOVED.items()}
  source = sources.get(place, f'docs/{place}')
  if place.startswith('results/'):
    source = f'benchmarks/{place}'

  def moved(match):
    text, target, anchor = match.groups()
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if not (ROOT / path).exists() or not (found := _site_path(path)):
      return match[0]
    if text.endswith('.md') and not anchor:  # A file's name says little here.
      text = (ROOT / path).read_text('utf-8').partition('\n')[0].strip('# ')
    found = posixpath.relpath(found, posixpath.dirname(place) or '.')
    return f'[{text}]({found}{anchor})'

  markdown = _LINK.sub(moved, markdown)
  markdown = _DRAWING.sub(lambda found: drawings.figure(found[1]), markdown)
  return markdown.replace('<!-- public names -->', _public_names())
