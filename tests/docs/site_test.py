# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The documentation site: its pages, links, drawings and commands.

The slow tests build it as `make docs` does and open it in Chromium. Screenshots
are left in pytest's folder.
"""

import asyncio
import functools
import http.server
import re
import runpy
import subprocess
import threading
import urllib.parse

import pytest
import yaml

from tests import source_tree, warm_python
from tests.elastic import chromium

_ROOT = source_tree.ROOT
_DOCS = _ROOT / 'docs'
_PAGES = [
  *(_ROOT / name for name in ('README.md', 'CHANGELOG.md', 'CONTRIBUTING.md')),
  *sorted((_ROOT / 'benchmarks' / 'results').glob('*.md')),
  *sorted(_DOCS.rglob('*.md')),
]
_NOTEBOOKS = sorted((_DOCS / 'notebooks').glob('*.py'))
_FENCE = re.compile(r'^```.*?^```', re.DOTALL | re.MULTILINE)
_LINK = re.compile(r'\]\(([^)\s]+)\)')
# What the site has a page for, see docs/site_hooks.py.
_ON_SITE = re.compile(
  r'docs/|benchmarks/results|antjax/\w+/\w+\.py$|[A-Z]+\.md$'
)
_PHONE = 375


def _anchors(text):
  """Names of a page's headings, as GitHub and the site make them."""
  found = set()
  for title in re.findall(r'^#+ (.*)$', _FENCE.sub('', text), re.MULTILINE):
    plain = re.sub(r'[^\w\- ]', '', re.sub(r'\]\([^)]*\)', '', title)).lower()
    found.add(plain.strip().replace(' ', '-'))
  return found


@pytest.mark.parametrize('page', _PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
  text = page.read_text(encoding='utf-8')
  for link in _LINK.findall(_FENCE.sub('', text)):
    path, _, anchor = link.partition('#')
    if ':' in path:
      continue  # Another host.
    target = page.parent / path if path else page
    assert target.exists(), link
    assert _ON_SITE.match(str(target.resolve().relative_to(_ROOT))), link
    if anchor:
      assert anchor in _anchors(target.read_text(encoding='utf-8')), link


def _nav(item):
  """The pages of a part of mkdocs.yml's nav."""
  if isinstance(item, str):
    return [item]
  parts = item.values() if isinstance(item, dict) else item
  return [page for part in parts for page in _nav(part)]


def test_every_page_has_a_place_and_every_place_a_page():
  site = yaml.safe_load((_ROOT / 'mkdocs.yml').read_text(encoding='utf-8'))
  named = _nav(site['nav'])
  assert len(named) == len(set(named))
  made = {'index.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'results/README.md'}
  made |= {f'notebooks/{path.stem}.md' for path in _NOTEBOOKS}
  pages = {str(path.relative_to(_DOCS)) for path in _DOCS.rglob('*.md')}
  assert set(named) == pages | made


def test_drawings_are_those_of_the_script():
  drawings = runpy.run_path(str(_DOCS / 'drawings.py'))
  known = {draw.__name__ for draw in drawings['ALL']}
  shown = {
    name
    for page in _DOCS.glob('*.md')
    for name in re.findall(r'<!-- drawing: (\w+) -->', page.read_text('utf-8'))
  }
  assert shown == known - {'antjax'}  # Which README.md shows.
  written = (_DOCS / 'antjax.svg').read_text(encoding='utf-8')
  assert written == drawings['readme'](), 'run: python docs/drawings.py'
  with pytest.raises(ValueError, match='too wide'):
    drawings['Drawing']('', 9).box(0, 0, 40, 9, 'much too long a text')


@functools.cache
def _flags_of(module):
  done = warm_python.run('-m', module, '--helpfull')
  return set(re.findall(r'^  --(?:\[no\])?([\w.]+)', done.stdout, re.MULTILINE))


def _commands(text):
  """(module, flags) of the commands for a shell on a page, and in its YAML."""
  for block in _FENCE.findall(text):
    block = re.sub(r'\\\n\s*|\n\s*- (?=--)', ' ', block)
    block = block.replace('[python, -m, ', 'python -m ').replace(']\n', ' ')
    for line in block.splitlines():
      words = line.partition(' # ')[0].replace("'", '').split()
      module = ''
      for word in words:
        if match := re.fullmatch(r'(?:launch[./])(\w+?)(?:\.py)?', word):
          module = f'launch.{match[1]}'
        elif module and (flag := re.match(r'--(?:no)?([a-z][\w.]*)', word)):
          yield module, flag[0].split('=')[0].lstrip('-')


@pytest.mark.slow
def test_every_flag_of_a_command_exists():
  found = {
    (page.name, module, flag)
    for page in _DOCS.glob('*.md')
    for module, flag in _commands(page.read_text(encoding='utf-8'))
  }
  assert len(found) > 100
  for page, module, flag in sorted(found):
    known = _flags_of(module)
    is_there = {flag, flag.removeprefix('no')} & known or flag == 'flagfile'
    assert is_there, f'{page}: {module} --{flag}'


@pytest.mark.parametrize('page', ['gpu_pods', 'tpu_pods'])
def test_scripts_for_pods_parse(page):
  text = (_DOCS / f'{page}.md').read_text(encoding='utf-8')
  for script in re.findall(r'^```bash\n(.*?)^```', text, re.DOTALL | re.M):
    subprocess.run(['bash', '-n'], input=script, text=True, check=True)
  (jobset,) = re.findall(r'^```yaml\n(.*?)^```', text, re.DOTALL | re.M)
  job = yaml.safe_load(jobset)['spec']['replicatedJobs'][0]['template']['spec']
  assert job['completions'] == job['parallelism'] == 4
  (worker,) = job['template']['spec']['containers']
  volumes = {v['name'] for v in job['template']['spec']['volumes']}
  assert {m['name'] for m in worker['volumeMounts']} == volumes


class _Server(http.server.ThreadingHTTPServer):
  """Serves a folder on loopback, from a thread."""

  def __init__(self, folder):
    class Handler(http.server.SimpleHTTPRequestHandler):
      def log_message(self, *args):
        pass

    handler = functools.partial(Handler, directory=folder)
    super().__init__(('127.0.0.1', 0), handler)
    threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture(scope='module')
def site():
  subprocess.run(['make', 'docs'], cwd=_ROOT, check=True)
  folder = _ROOT / 'build' / 'site'
  with _Server(folder) as server:
    yield folder, f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere_and_has_no_dead_link(site):
  folder, _ = site
  pages = {path: path.read_text('utf-8') for path in folder.rglob('*.html')}
  ids = {
    path: set(re.findall(r'\bid="([^"]+)"', pages[path])) for path in pages
  }
  for path, text in pages.items():
    loaded = re.findall(r'<(?:script|img|iframe)[^>]*\bsrc="([^"]+)"', text)
    loaded += re.findall(
      r'<link rel="(?:stylesheet|icon|preconnect)" href="([^"]+)"', text
    )
    for link in loaded:
      assert '//' not in link, (path, link)
    for link in re.findall(r'<a [^>]*href="([^"]+)"', text):
      target, _, anchor = urllib.parse.unquote(link).partition('#')
      if ':' in target or path.name == '404.html':
        continue
      file = (path.parent / target).resolve() if target else path
      file = file / 'index.html' if file.is_dir() else file
      assert file.exists(), (path, link)
      if anchor and file in ids:
        assert anchor in ids[file], (path, link)


@pytest.mark.slow
@pytest.mark.skipif(
  chromium.find() is None,
  reason=f'no Chromium on the path: {", ".join(chromium.NAMES)}',
)
def test_pages_fit_a_phone(site, tmp_path):
  folder, url = site

  async def look():
    async with asyncio.timeout(600), chromium.open_tab(tmp_path / 'a') as tab:
      for path in sorted(folder.rglob('*.html')):
        page = path.relative_to(folder)
        await tab.open(f'{url}/{page}', width=_PHONE)
        ready = 'document.readyState === "complete"'
        await tab.until(f'location.pathname === "/{page}" && {ready}')
        wide = 'document.documentElement.scrollWidth'
        for _ in range(50):  # The site's script puts tables into boxes.
          if await tab.get(wide) <= _PHONE:
            break
          await asyncio.sleep(0.1)
        assert await tab.get(wide) <= _PHONE, page
        loaded = await tab.get(
          'performance.getEntriesByType("resource").map(e => e.name)'
        )
        assert all(one.startswith((url, 'data:')) for one in loaded), loaded
        if page.stem in ('sharding', 'start', 'train'):
          png = await tab.screenshot()
          (tmp_path / f'{page.stem}.png').write_bytes(png)
      assert tab.problems == []

  asyncio.run(look())
