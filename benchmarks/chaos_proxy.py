# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that loses replies: `benchmarks.chaos_bench` puts it in between.

  python -m benchmarks.chaos_proxy --listen=127.0.0.1:7070 \
      --target=127.0.0.1:7071 --mark=train

At SIGUSR1 the next request whose message holds the mark is passed on; when the
server's reply to it begins, both connections are cut and the reply is gone: the
client cannot know whether its request has taken effect. SIGUSR2 does the same
to the next request of any kind. Each reply that is lost prints a line `CUT`.

Knows just so much of HTTP/2 that it finds requests and the replies to them.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import signal

from absl import app, flags

PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
_HEADER_BYTES = 9
_DATA, _HEADERS = 0, 1
_CHUNK = 1 << 16
CUT = 'CUT'  # What is printed.


@dataclasses.dataclass(frozen=True)
class Frame:
  """A frame of HTTP/2 of one direction of a connection."""

  kind: int
  stream: int
  payload: bytes


class Frames:
  """Finds the frames in a direction's bytes, however these are cut."""

  def __init__(self, has_preface: bool):
    """Begins a direction; the client's has a preface."""
    self._skip = len(PREFACE) if has_preface else 0
    self._rest = b''

  def feed(self, data: bytes) -> Iterator[Frame]:
    """Yields the frames that are whole with these bytes."""
    self._rest += data
    if self._skip:
      if len(self._rest) < self._skip:
        return
      self._rest, self._skip = self._rest[self._skip :], 0
    while len(self._rest) >= _HEADER_BYTES:
      length = int.from_bytes(self._rest[:3], 'big')
      end = _HEADER_BYTES + length
      if len(self._rest) < end:
        return
      stream = int.from_bytes(self._rest[5:9], 'big') & 0x7FFFFFFF
      frame = Frame(self._rest[3], stream, self._rest[_HEADER_BYTES:end])
      self._rest = self._rest[end:]
      yield frame


class Saboteur:
  """Which replies are to be lost; shared by all connections."""

  def __init__(self, mark: bytes):
    """Nothing is lost before `arm`.

    Args:
      mark: What the message of a request must hold to count as marked.
    """
    self._mark = mark
    self._marked = self._any = 0

  def arm(self, is_any: bool) -> None:
    """Lets one more reply be lost."""
    if is_any:
      self._any += 1
    else:
      self._marked += 1

  def strikes(self, frame: Frame) -> bool:
    """Whether the reply to the request with this frame is to be lost."""
    if frame.kind != _DATA or not frame.payload:
      return False
    if self._marked and self._mark in frame.payload:
      self._marked -= 1
      return True
    if self._any:
      self._any -= 1
      return True
    return False


class Link:
  """One connection, as far as the proxy must understand it."""

  def __init__(self, saboteur: Saboteur):
    """Begins a connection."""
    self._saboteur = saboteur
    self._requests, self._replies = Frames(True), Frames(False)
    self._victims: set[int] = set()

  def on_request(self, data: bytes) -> None:
    """Sees bytes of the client, which are passed on."""
    for frame in self._requests.feed(data):
      if self._saboteur.strikes(frame):
        self._victims.add(frame.stream)

  def on_reply(self, data: bytes) -> bool:
    """Sees bytes of the server; returns whether to cut before passing them."""
    return any(
      frame.stream in self._victims and frame.kind in (_DATA, _HEADERS)
      for frame in self._replies.feed(data)
    )


async def serve(
  listen: str, target: str, saboteur: Saboteur, on_cut: Callable[[], None]
) -> asyncio.Server:
  """Starts to pass connections on.

  Args:
    listen: address:port of this proxy.
    target: address:port of the server.
    saboteur: Says which replies are to be lost.
    on_cut: Called when one is.
  """

  async def connected(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
  ) -> None:
    try:
      to_server = await asyncio.open_connection(*_split(target))
    except OSError:  # It is being killed and started again.
      writer.close()
      return
    link = Link(saboteur)

    def see(data: bytes) -> bool:
      link.on_request(data)
      return False

    def see_reply(data: bytes) -> bool:
      if is_cut := link.on_reply(data):
        on_cut()
      return is_cut

    tasks = [
      asyncio.ensure_future(_pump(reader, to_server[1], see)),
      asyncio.ensure_future(_pump(to_server[0], writer, see_reply)),
    ]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
      task.cancel()
    # Not closed but aborted: what is still in a buffer is not sent either.
    writer.transport.abort()
    to_server[1].transport.abort()

  host, port = _split(listen)
  return await asyncio.start_server(connected, host, port)


async def _pump(
  reader: asyncio.StreamReader,
  writer: asyncio.StreamWriter,
  is_end: Callable[[bytes], bool],
) -> None:
  """Copies one direction until its end, or until `is_end` of its bytes."""
  try:
    while data := await reader.read(_CHUNK):
      if is_end(data):
        return
      writer.write(data)
      await writer.drain()
  except OSError:
    pass


def _split(address: str) -> tuple[str, int]:
  host, _, port = address.rpartition(':')
  return host, int(port)


async def _run(listen: str, target: str, mark: str) -> None:
  saboteur = Saboteur(mark.encode())
  loop = asyncio.get_running_loop()
  loop.add_signal_handler(signal.SIGUSR1, saboteur.arm, False)
  loop.add_signal_handler(signal.SIGUSR2, saboteur.arm, True)
  server = await serve(listen, target, saboteur, lambda: print(CUT, flush=True))
  print('READY', flush=True)
  await server.serve_forever()


def _define_flags() -> None:
  flags.DEFINE_string('listen', None, 'address:port here.', required=True)
  flags.DEFINE_string('target', None, 'address:port there.', required=True)
  flags.DEFINE_string('mark', '', 'What a marked request holds.')


def main(argv: Sequence[str]) -> None:
  del argv
  values = flags.FLAGS
  asyncio.run(_run(values.listen, values.target, values.mark))


if __name__ == '__main__':
  _define_flags()
  app.run(main)
