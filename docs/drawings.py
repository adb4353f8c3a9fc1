# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws the systems of antjax as SVG, from boxes, rows of devices and arrows.

`make docs` puts them into the pages. `python docs/drawings.py` writes the one
that README.md shows, docs/antjax.svg.
"""

import html
import pathlib

_WIDTH = 560
# A character of 15 px Helvetica, on average. Wider text is an error.
_CHAR = 7.1
# In site.css again, for the site's own switch between light and dark.
_STYLE = """
.drawing{--ink:#1d2733;--line:#5b6b7f;--page:#fff;--soft:#eef2f7;
--fast:#2f6fab;--cool:#d6e6f5;--slow:#b93a2b;--warm:#fbe3dd;
font:15px Helvetica,Arial,sans-serif}
@media(prefers-color-scheme:dark){.drawing{--ink:#e6ebf1;--line:#8fa0b5;
--page:#1b222c;--soft:#27303c;--fast:#7db8ee;--cool:#1f4263;--slow:#ff9a8a;
--warm:#5a2a24}}
"""


class Drawing:
  """An SVG of fixed width, made from the top to the bottom."""

  def __init__(self, title: str, height: int):
    self.title, self.height, self._parts = title, height, []

  def text(self, x, y, text, color='ink', *, anchor='start', bold=False):
    """One line; y is its middle."""
    weight = ' font-weight="bold"' if bold else ''
    self._parts.append(
      f'<text x="{x:g}" y="{y + 5:g}" fill="var(--{color})"'
      f' text-anchor="{anchor}"{weight}>{html.escape(text)}</text>'
    )

  def box(self, x, y, w, h, *lines, fill='page', line=None, bold=True):
    """A box with centered lines, the first of them bold."""
    line = line or {'cool': 'fast', 'warm': 'slow'}.get(fill, 'line')
    for text in lines:
      if len(text) * _CHAR > w - 6:
        raise ValueError(f'{text!r} is too wide for a box of {w}')
    self._parts.append(
      f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6"'
      f' fill="var(--{fill})" stroke="var(--{line})"/>'
    )
    top = y + h / 2 - 10 * (len(lines) - 1)
    for i, text in enumerate(lines):
      is_bold = bold and i == 0
      self.text(x + w / 2, top + 20 * i, text, anchor='middle', bold=is_bold)

  def frame(self, x, y, w, h, title):
    """A box around other ones."""
    self.box(x, y, w, h, fill='soft')
    self.text(x + 12, y + 17, title, bold=True)

  def bar(self, x, y, w, share, index, h=22):
    """A device's memory for an array, with the part that it holds filled."""
    self.box(x, y, w, h)
    self._parts.append(
      f'<rect x="{x + w * share * index:g}" y="{y:g}" width="{w * share:g}"'
      f' height="{h:g}" rx="4" fill="var(--fast)"/>'
    )

  def row(self, y, h, *texts, x=22, w=516, gap=12, **style):
    """Boxes of one size beside each other; | divides the lines of a box."""
    each = (w + gap) / len(texts) - gap
    for i, text in enumerate(texts):
      self.box(x + i * (each + gap), y, each, h, *text.split('|'), **style)

  def down(self, y, to, *xs, **style):
    """Arrows from one height to another."""
    for x in xs:
      self.arrow((x, y), (x, to), **style)

  def arrow(self, *points, color='line', dashed=False, both=False):
    """A polyline with a head at its end, or at both."""
    path = ' '.join(f'{x:g},{y:g}' for x, y in points)
    dash = ' stroke-dasharray="6 4"' if dashed else ''
    start = f' marker-start="url(#head-{color})"' if both else ''
    self._parts.append(
      f'<polyline points="{path}" fill="none" stroke="var(--{color})"'
      f' stroke-width="2"{dash} marker-end="url(#head-{color})"{start}/>'
    )

  def svg(self, style=''):
    heads = ''.join(
      f'<marker id="head-{color}" viewBox="0 0 8 8" refX="7" refY="4"'
      ' markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
      f'<path d="M0 0L8 4L0 8z" fill="var(--{color})"/></marker>'
      for color in ('line', 'fast', 'slow')
    )
    body = '\n'.join(self._parts)
    return (
      f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img"'
      f' viewBox="0 0 {_WIDTH} {self.height}"'
      f' aria-label="{html.escape(self.title)}">{style}'
      f'<defs>{heads}</defs>\n{body}</svg>\n'
    )


def antjax() -> Drawing:
  d = Drawing('Data shards go to groups of devices; groups exchange once', 446)
  d.frame(10, 10, 540, 96, 'AntDT: data and hosts')
  d.row(
    *(38, 56, 'Coordinator|leases data shards'),
    *('Controller|watches and decides', 'Agents|start, kill, restart'),
  )
  d.down(106, 143, 134, 426)
  d.frame(10, 144, 540, 186, 'A training step: PaRO, HO-Ring, tables')
  for group, x in enumerate((22, 314)):
    d.box(x, 174, 224, 84, line='fast')
    d.text(x + 12, 192, f'group {group}', 'fast', bold=True)
    d.row(208, 26, '', '', '', '', x=x + 10, w=204, gap=4, fill='cool')
    d.text(x + 12, 247, 'fast links: always', 'fast')
  d.arrow((250, 221), (310, 221), color='slow', dashed=True, both=True)
  d.text(280, 274, 'slow links: once a step', 'slow', anchor='middle')
  d.text(22, 295, 'Parameters, gradients, optimizer state, rows of tables:')
  d.text(22, 315, 'each whole, split in a group, or split over all devices')
  d.frame(10, 350, 540, 86, 'Models')
  names = ('LM', 'G-Meta', 'BAHE', 'LLM-Rec', 'Clicks', 'Yours')
  d.row(380, 40, *names, bold=False)
  return d


def paro() -> Drawing:
  d = Drawing('What each of eight devices holds at the three levels', 420)
  for group, x in enumerate((136, 350)):
    d.frame(x, 10, 204, 176, f'group {group}')
  levels = (('N  none', 1), ('I  intra', 4), ('G  global', 8))
  for row, (name, pieces) in enumerate(levels):
    y = 46 + 46 * row
    d.text(10, y + 11, name, bold=True)
    for device in range(8):
      x = 148 + 46 * device + 30 * (device // 4)
      d.bar(x, y, 42, 1 / pieces, device % pieces)
  d.text(10, 204, 'A code has a level each for parameters, gradients and')
  d.text(10, 224, 'optimizer state. IIG over time, two micro-batches a step:')
  for y, name in ((287, 'fast'), (343, 'slow')):
    d.text(10, y, f'{name} links', name, bold=True)
  for i, x in enumerate((100, 256)):
    d.row(266, 44, 'gather', 'reduce', x=x, w=148, gap=4, fill='cool')
    d.text(x + 74, 254, f'micro-batch {i + 1}', anchor='middle')
  d.box(412, 322, 138, 44, 'exchange', 'once a step', fill='warm')
  d.arrow((100, 386), (550, 386))
  d.text(325, 404, 'time', anchor='middle')
  return d


def ho_ring() -> Drawing:
  d = Drawing('Rings inside groups and rings between them run at once', 252)
  devices = [f'device {i}' for i in range(4)]
  for group, y in enumerate((10, 146)):
    d.frame(10, y, 540, 96, f'group {group}')
    d.row(y + 36, 36, *devices, x=62, w=474, gap=46, fill='cool', bold=False)
    for x in (146, 276, 406):
      d.arrow((x + 2, y + 54), (x + 44, y + 54), color='fast')
    edge, line = (y + 34, y + 24) if group == 0 else (y + 74, y + 84)
    last = ((494, edge), (494, line), (104, line), (104, edge))
    d.arrow(*last, color='fast')
  lanes = (104, 234, 364, 494)
  d.down(84, 181, *lanes, color='slow', dashed=True, both=True)
  for x, text in ((169, 'lanes:'), (299, 'slow links,'), (429, 'at once')):
    d.text(x, 126, text, 'slow', anchor='middle')
  return d


def antdt() -> Drawing:
  d = Drawing('Leases, unequal micro-batches, one exchange, one commit', 456)
  d.frame(10, 10, 540, 112, 'Coordinator, with a journal on disk')
  d.row(
    *(40, 52, 'Ledger|which records', 'Monitor|who is slow'),
    'Controller|counts, restarts',
    gap=24,
  )
  d.arrow((365, 66), (381, 66))
  d.text(280, 108, 'shards: to do, leased, used, done', anchor='middle')
  hosts = ((10, 4, 'host 0'), (194, 4, 'host 1'), (378, 1, 'slow'))
  for x, count, name in hosts:
    d.down(122, 166, x + 50)
    d.text(x + 54, 145, 'leases')
    d.arrow((x + 122, 166), (x + 122, 124), dashed=True)
    d.text(x + 126, 145, 'speed')
    d.frame(x, 168, 172, 96, f'Agent, {name}')
    for j in range(count):
      d.box(x + 12 + 38 * j, 200, 34, 28, fill='cool')
    d.text(x + 12, 246, f'{count} micro-batch{"es" * (count > 1)}')
    d.down(264, 300, x + 86, color='slow')
  d.box(10, 302, 540, 50, 'One exchange of sums and weights', fill='warm')
  d.down(352, 386, 280)
  covered = 'its records are done; the others are read again'
  d.box(10, 388, 540, 58, 'Checkpoint: model and position together', covered)
  return d


def gmeta() -> Drawing:
  d = Drawing('Rows are fetched once, used by both loops, pushed once', 470)
  d.frame(10, 10, 540, 88, 'Embedding tables, rows spread over all devices')
  rows = [f'{i}, {i + 8}..' for i in range(8)]
  d.row(42, 42, *rows, gap=5, fill='cool', bold=False)
  d.down(98, 138, 170, color='slow')
  d.text(160, 118, 'fetch rows, once', 'slow', anchor='end')
  d.frame(10, 140, 540, 208, 'A task (a user), whole on one device')
  d.box(28, 172, 150, 54, 'Support rows', 'what is known')
  d.box(28, 278, 150, 54, 'Query rows', 'what is asked')
  d.box(232, 172, 140, 54, 'Inner steps', 'adapt to the task')
  d.box(232, 278, 140, 54, 'Adapted', 'low-rank change')
  d.box(426, 278, 112, 54, 'Query loss')
  d.arrow((178, 199), (230, 199))
  d.down(226, 276, 302)
  d.arrow((178, 305), (230, 305))
  d.arrow((372, 305), (424, 305))
  d.arrow((482, 278), (482, 199), (374, 199), dashed=True)
  d.text(536, 188, 'outer gradient', anchor='end')
  d.down(348, 390, 170, 400, color='slow')
  d.text(160, 368, 'push gradients', 'slow', anchor='end')
  d.text(410, 368, 'sum, by PaRO', 'slow')
  d.box(10, 392, 320, 66, 'Owners of the rows', 'one step for each touched row')
  d.box(346, 392, 204, 66, 'Dense parameters', 'one optax step')
  return d


def bahe() -> Drawing:
  d = Drawing('Behaviors are encoded once; only high layers are trained', 458)
  d.frame(10, 10, 540, 104, 'Once')
  d.box(22, 40, 146, 58, 'Distinct texts', '"Tea", "Pan", ..')
  d.box(206, 40, 146, 58, 'Low layers', 'frozen', fill='cool')
  d.box(390, 40, 148, 58, 'Store', 'a row a text')
  d.arrow((168, 69), (204, 69))
  d.arrow((352, 69), (388, 69))
  d.frame(10, 144, 540, 304, 'Every step')
  d.box(22, 176, 200, 58, 'History of a user', 'ids of its behaviors')
  d.box(338, 176, 200, 58, 'Vectors', 'one for each behavior')
  d.arrow((222, 205), (336, 205))
  d.text(279, 194, 'look up', anchor='middle')
  d.down(98, 174, 464)
  d.box(338, 262, 200, 58, 'High layers', 'trained, then pooled', fill='warm')
  d.down(234, 260, 438)
  d.box(22, 262, 200, 58, 'Ids and numbers', 'tables, standardized')
  d.box(180, 374, 200, 58, 'Head: a click network', 'trained', fill='warm')
  d.arrow((122, 320), (122, 403), (178, 403))
  d.arrow((438, 320), (438, 403), (382, 403))
  return d


def llm_rec() -> Drawing:
  d = Drawing('One language model encodes users and items by titles', 366)
  d.frame(10, 10, 336, 150, 'A user: what they did, in all domains')
  for i, title in enumerate(('Film: Alien', 'Book: Dune', 'Food: Green tea')):
    d.box(24, 40 + 38 * i, 308, 32, title, bold=False)
  d.frame(362, 10, 188, 150, 'An item')
  d.box(376, 78, 160, 32, 'Film: Solaris', bold=False)
  d.box(10, 196, 540, 54, 'One language model', 'for every domain', fill='cool')
  d.down(160, 194, 178, 456)
  d.down(250, 282, 178, 456)
  d.row(
    284, 34, 'user vector', 'item vector', x=108, w=418, gap=138, bold=False
  )
  d.arrow((248, 301), (270, 301))
  d.arrow((386, 301), (362, 301))
  d.box(272, 280, 88, 42, 'product')
  last = 'A new item, or a whole new domain, needs a title only.'
  d.text(280, 348, last, anchor='middle')
  return d


def antm2c() -> Drawing:
  d = Drawing('A log of five scenarios becomes examples for click models', 404)
  d.frame(10, 10, 540, 104, 'The log')
  d.row(40, 58, 'Clicks|5 scenarios', 'Texts|5 a row', 'Images|1 an item')
  d.down(114, 138, 280)
  d.box(10, 140, 540, 52, 'Events', 'checked once; bad lines are listed')
  d.down(192, 216, 280)
  d.box(10, 218, 540, 52, 'Examples', 'ids, numbers, histories, vectors')
  d.down(270, 294, 96, 280, 464)
  d.row(
    *(296, 52, 'All as one|DCNv2, DIN, ..', 'Shared and own|MMoE, PLE, STAR'),
    'Gated by scenario|PEPNet',
    **{'x': 10, 'w': 540, 'fill': 'cool'},
  )
  last = 'AUC of each scenario, of cold users and items'
  d.text(280, 376, last, anchor='middle', bold=True)
  return d


ALL = (antjax, paro, ho_ring, antdt, gmeta, bahe, llm_rec, antm2c)


def figure(name: str) -> str:
  """The drawing of this name, for a page of the site."""
  (draw,) = (one for one in ALL if one.__name__ == name)
  caption = f'<figcaption>{draw().title}.</figcaption>'
  return f'<figure class="drawing">{draw().svg()}{caption}</figure>'


def readme() -> str:
  """The drawing of README.md, which brings its colors along."""
  return antjax().svg(f'<style>{_STYLE}</style>')


if __name__ == '__main__':
  path = pathlib.Path(__file__).with_name('antjax.svg')
  path.write_text(readme(), encoding='utf-8')
