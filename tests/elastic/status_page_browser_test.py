# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The status page as a browser shows it, on a phone and on a desk.

Screenshots are left in pytest's folder of each test: `--basetemp=DIR` says
where that is.
"""

import asyncio
import struct
import time

import pytest

from antjax.elastic import status, status_page
from tests.elastic import chromium, status_examples

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    chromium.find() is None,
    reason=f'no Chromium on the path: {", ".join(chromium.NAMES)}',
  ),
]

_TEXT = '(document.body?.innerText ?? "")'


def _run(folder, body, snapshot_fn=None, **options):
  async def run():
    page = status_page.StatusPage(snapshot_fn or _lively, **options)
    await page.start()
    try:
      async with asyncio.timeout(120):
        async with chromium.open_tab(folder / 'profile') as tab:
          return await body(page, tab)
    finally:
      await page.close()

  return asyncio.run(run())


def _lively():
  now = time.time()
  return status_examples.lively(now).snapshot(now)


def _size(png):
  return struct.unpack('>II', png[16:24])


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('width', [360, 1280])
def test_shows_all_and_fits(tmp_path, width, dark):
  async def body(page, tab):
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

  _run(tmp_path, body)


def test_follows_the_job_and_says_when_nobody_answers(tmp_path):
  async def body(page, tab):
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

  _run(tmp_path, body)


def test_texts_of_others_stay_texts(tmp_path):
  bad = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'
  name = f'"\'>{bad}'[:80]
  known = status_examples.named(name, bad)

  async def body(page, tab):
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

  _run(tmp_path, body, known.snapshot)


def test_many_jobs_and_workers(tmp_path):
  known = status_examples.huge(40)

  async def body(page, tab):
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

  _run(tmp_path, body, known.snapshot)


def test_nothing_yet(tmp_path):
  async def body(page, tab):
    await tab.open(page.url, width=360)
    await tab.until(f'{_TEXT}.includes("No job yet")')
    assert tab.problems == []

  _run(tmp_path, body, status_examples.Known().snapshot)


def test_token(tmp_path):
  async def body(page, tab):
    await tab.open(page.url)
    await tab.until(f'{_TEXT}.includes("A token is needed")')
    await tab.open(page.url + '?token=s3cret')
    await tab.until(f'{_TEXT}.includes("Workers (4)")')
    assert await tab.get('location.href') == page.url

  _run(tmp_path, body, token='s3cret')
