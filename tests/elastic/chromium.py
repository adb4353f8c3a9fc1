# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven through its DevTools pipe."""

import asyncio
import base64
from collections.abc import AsyncIterator
import contextlib
import itertools
import json
import os
import shutil

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')


def find():
  """Returns the path of a Chromium, or None."""
  return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
  """A tab; `problems` collects what its console complains of."""

  def __init__(self, reader, pipe):
    self._reader, self._pipe = reader, pipe
    self._ids, self._waiting = itertools.count(1), {}
    self._session = None
    self.problems = []
    self._listening = asyncio.create_task(self._listen())

  async def _listen(self):
    while True:
      message = json.loads((await self._reader.readuntil(b'\0'))[:-1])
      if 'id' in message:
        self._waiting.pop(message['id']).set_result(message)
      elif message['method'] == 'Runtime.exceptionThrown':
        self.problems.append(str(message['params']['exceptionDetails']))
      elif message['method'] == 'Log.entryAdded':
        self.problems.append(message['params']['entry']['text'])

  async def call(self, method, **params):
    """Calls a method of the DevTools protocol."""
    number = next(self._ids)
    message = {'id': number, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    reply = self._waiting[number] = asyncio.get_running_loop().create_future()
    os.write(self._pipe, json.dumps(message).encode() + b'\0')
    reply = await reply
    assert 'error' not in reply, (method, reply)
    return reply['result']

  async def attach(self):
    target = await self.call('Target.createTarget', url='about:blank')
    session = await self.call(
      'Target.attachToTarget', targetId=target['targetId'], flatten=True
    )
    self._session = session['sessionId']
    for domain in ('Page', 'Runtime', 'Log'):
      await self.call(f'{domain}.enable')

  async def open(self, url, *, width=1280, dark=False):
    """Opens a page as on a screen so wide."""
    await self.call(
      'Emulation.setDeviceMetricsOverride',
      width=width,
      height=800,
      deviceScaleFactor=1,
      mobile=width < 600,
    )
    scheme = 'dark' if dark else 'light'
    await self.call(
      'Emulation.setEmulatedMedia',
      features=[{'name': 'prefers-color-scheme', 'value': scheme}],
    )
    await self.call('Page.navigate', url=url)

  async def get(self, expression):
    """Returns the value of a JavaScript expression."""
    reply = await self.call(
      'Runtime.evaluate', expression=expression, returnByValue=True
    )
    assert 'exceptionDetails' not in reply, reply
    return reply['result'].get('value')

  async def until(self, expression):
    """Waits until a JavaScript expression is true."""
    while not await self.get(f'!!({expression})'):
      await asyncio.sleep(0.05)

  async def screenshot(self):
    """Returns a PNG of the whole page."""
    shot = await self.call('Page.captureScreenshot', captureBeyondViewport=True)
    return base64.b64decode(shot['data'])


@contextlib.asynccontextmanager
async def open_tab(folder) -> AsyncIterator[Tab]:
  """Starts a Chromium that keeps its files in `folder`."""
  theirs_in, ours_out = os.pipe()
  ours_in, theirs_out = os.pipe()
  # It talks on descriptors 3 and 4.
  process = await asyncio.create_subprocess_exec(
    'bash',
    '-c',
    f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}',
    'bash',
    find(),
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--hide-scrollbars',
    '--remote-debugging-pipe',
    f'--user-data-dir={folder}',
    pass_fds=(theirs_in, theirs_out),
    stdout=asyncio.subprocess.DEVNULL,
    stderr=asyncio.subprocess.DEVNULL,
  )
  os.close(theirs_in)
  os.close(theirs_out)
  reader = asyncio.StreamReader(limit=2**26)
  transport, _ = await asyncio.get_running_loop().connect_read_pipe(
    lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, 'rb')
  )
  tab = Tab(reader, ours_out)
  try:
    await tab.attach()
    yield tab
  finally:
    tab._listening.cancel()
    with contextlib.suppress(ProcessLookupError):
      process.terminate()
    await process.wait()
    transport.close()
    os.close(ours_out)
