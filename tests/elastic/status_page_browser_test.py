# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The status page as a browser shows it, on a phone and on a desk.

Screenshots are left in pytest's folder of each test: `--basetemp=DIR` says
where that is.
"""

import asyncio
import contextlib
import functools
import struct
import time

import pytest

from antjax.elastic import status
from tests.elastic import chromium, status_examples, status_page_test
from tests.elastic.event_loop import beside

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    chromium.find() is None,
    reason=f'no Chromium on the path: {", ".join(chromium.NAMES)}',
  ),
]

_TEXT = '(document.body?.innerText ?? "")'


def _lively():
  now = time.time()
  return status_examples.lively(now).snapshot(now)


@contextlib.asynccontextmanager
async def showing(folder, snapshot_fn=_lively, **options):
  """A page, and a tab of a browser."""
  async with (
    status_page_test.serving(folder, snapshot_fn, **options) as page,
    chromium.open_tab(folder / 'profile') as tab,
  ):
    yield page, tab


def _size(png):
  return struct.unpack('>II', png[16:24])


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('width', [360, 1280])
@beside(showing)
async def test_shows_all_and_fits(shown, tmp_path, width, dark):
  page, tab = shown
  await tab.open(page.url, width=width, dark=dark)
  await tab.until(f'{_TEXT}.includes("Generations")')
  text = await tab.get(_TEXT)
  for part in (
    'ctr',
    'live',
    '1 worker transient',
    'w3',
    '3.6 ms',
    '1.8×',
    '40 done',
    'epoch 2 of 3',
    'ADJUST_BS',
    'w3 is 1.8 times slower',
    'killed by SIGKILL',
    'spare',
  ):
    assert part in text, part
  assert text.index('ADJUST_BS') < text.index('KILL_RESTART')  # New first.
  # Nothing is wider than the screen, and no cell is cut off.
  assert await tab.get('document.documentElement.scrollWidth') <= width
  assert await tab.get(
    '[...document.querySelectorAll(".wide, td, .big, h1, li")]'
    '.every(e => e.scrollWidth <= e.clientWidth + 1)'
  )
  is_card = await tab.get(
    'getComputedStyle(document.querySelector("thead")).display === "none"'
  )
  assert is_card == (width == 360)
  assert await tab.get('document.querySelectorAll("svg.spark").length') == 4
  png = await tab.screenshot()
  (tmp_path / f'{width}_{"dark" if dark else "light"}.png').write_bytes(png)
  assert _size(png)[0] == width
  assert tab.problems == []


@beside(showing)
async def test_follows_the_job_and_says_when_nobody_answers(shown, tmp_path):
  page, tab = shown
  await tab.open(page.url)
  await tab.until(f'{_TEXT}.includes("Workers (4)")')
  await tab.get('document.querySelector("details").open = true')
  first = await tab.get('latest.time_unix_s')
  await tab.until(f'latest.time_unix_s > {first}')
  # What the reader has opened stays open.
  assert await tab.get('document.querySelector("details").open')
  assert not await tab.get(f'{_TEXT}.includes("does not answer")')
  await page.close()
  await tab.until(f'{_TEXT}.includes("does not answer")')
  text = await tab.get(_TEXT)
  assert 'no connection' in text and 'Workers (4)' in text
  assert (await tab.get('document.title')).startswith('⚠')
  png = await tab.screenshot()
  (tmp_path / 'no_answer.png').write_bytes(png)
  await page.start()
  await tab.until(f'!{_TEXT}.includes("does not answer")')


_BAD = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'


@beside(
  showing, snapshot_fn=status_examples.named(f'"\'>{_BAD}'[:80], _BAD).snapshot
)
async def test_texts_of_others_stay_texts(shown, tmp_path):
  page, tab = shown
  await tab.open(page.url, width=360)
  await tab.until(f'{_TEXT}.includes("Generations")')
  await tab.get('document.querySelectorAll("details").forEach(d=>d.open=1)')
  await asyncio.sleep(0.3)
  text = await tab.get(_TEXT)
  # In a worker, a data set, an action, a generation and a log.
  assert text.count('onerror=') >= 6
  assert await tab.get('document.images.length') == 0
  assert await tab.get('document.scripts.length') == 1
  assert await tab.get('window.hit === undefined')
  assert await tab.get('document.documentElement.scrollWidth') <= 360
  # And the policy would have stopped it.
  await tab.get(
    'document.body.append(Object.assign(document.createElement("script"),'
    '{textContent: "window.hit = 1"}))'
  )
  assert await tab.get('window.hit === undefined')
  (tmp_path / 'escaped.png').write_bytes(await tab.screenshot())


@functools.cache
def _many():
  return status_examples.huge(40)


@beside(showing, snapshot_fn=lambda: _many().snapshot())
async def test_many_jobs_and_workers(shown, tmp_path):
  page, tab = shown
  await tab.open(page.url, width=360)
  await tab.until(f'{_TEXT}.includes("Generations")')
  assert await tab.get('document.querySelectorAll("nav a").length') == (
    status.MAX_JOBS
  )
  assert 'left out here' in await tab.get(_TEXT)
  assert await tab.get('document.documentElement.scrollWidth') <= 360
  second = 'document.querySelectorAll("nav a")[1]'
  await tab.get(f'{second}.click()')
  await tab.until(f'{second}.getAttribute("aria-current") === "page"')
  assert tab.problems == []
  (tmp_path / 'many.png').write_bytes(await tab.screenshot())


@beside(showing, snapshot_fn=status_examples.Known().snapshot)
async def test_nothing_yet(shown):
  page, tab = shown
  await tab.open(page.url, width=360)
  await tab.until(f'{_TEXT}.includes("No job yet")')
  assert tab.problems == []


@beside(showing, token='s3cret')
async def test_token(shown):
  page, tab = shown
  await tab.open(page.url)
  await tab.until(f'{_TEXT}.includes("A token is needed")')
  await tab.open(page.url + '?token=s3cret')
  await tab.until(f'{_TEXT}.includes("Workers (4)")')
  assert await tab.get('location.href') == page.url
