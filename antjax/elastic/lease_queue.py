# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A worker's leases of one data set: fetched ahead, reported in the background.

One thread talks to the coordinator. Each of its calls says everything there is
to say and asks for the next leases, so that a worker seldom waits for one.
"""

from collections import deque
from collections.abc import Callable
import dataclasses
import threading
import time

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.protocol import ended_shards, key_of

_OUTCOME = pb.ExchangeReply
_STREAM_WAIT_S = 1.0  # A worker in lockstep may wait so long for a stream.
_FLUSH_S = 1.0  # Within which consumed shards are reported.
# And the use of shards that are held: so soon a worker also hears that others
# wait for those in reserve.
_PROGRESS_S = 5.0
_POLL_S = 0.2  # Between polls for new shards.


@dataclasses.dataclass
class _Pass:
  """One pass over the data set: its leases, and what is to be reported."""

  number: int
  leases: deque[pb.Lease] = dataclasses.field(default_factory=deque)
  # What is to be said; of the use of shards that are held only the newest.
  news: pb.ExchangeRequest = dataclasses.field(
    default_factory=pb.ExchangeRequest
  )
  progress: dict[tuple[int, int], pb.Lease] = dataclasses.field(
    default_factory=dict
  )
  first_open_epoch: int = 0
  outcome: int = _OUTCOME.LEASED
  is_ending: bool = False  # Nothing is to be had but what others hold.
  built_s: float = 0.0  # When the last call was, with all there was to say.
  asked_s: float = -1e9  # The same of the last that asked and was answered.
  said_s: float = 0.0  # Since when there is something to report.
  news_s: float = 0.0  # When there last came something to report.
  error: Exception | None = None

  def has_news(self) -> bool:
    news = self.news
    return bool(news.consumed or news.returned or news.failed)


@dataclasses.dataclass(eq=False)
class LeaseQueue:
  """Leases of one data set for this process; for any number of threads.

  It asks for nothing before `begin`.
  """

  client: CoordinatorClient
  data_set: pb.DataSet
  _: dataclasses.KW_ONLY
  read_ahead: int = 2  # Leases to hold beside those taken.
  # The worker must not wait here for others: `take` then gives None where
  # nothing is to be had now.
  lockstep: bool = False
  # Called before each wait; raises if the process must end.
  check: Callable[[], None] = lambda: None

  def __post_init__(self) -> None:
    self._stream_wait_s = _STREAM_WAIT_S if self.data_set.is_stream else 0.0
    self._changed = threading.Condition()
    self._pass: _Pass | None = None
    self._number = 0
    self._num_takers = 0
    self._is_asked = False  # A taker wants an answer now.
    self._is_closed = False
    self._thread: threading.Thread | None = None

  def begin(self, state: bytes, round_number: int = 0) -> int:
    """Begins the next pass; blocks until the coordinator has heard it.

    The state is a position as JSON; empty: at the beginning. `round_number` is
    for `RemoteLeases`.

    Returns:
      The number of the pass, for the other calls: an earlier one is ignored.

    Raises:
      StaleError: This process is fenced off, or another worker began another
        pass or at another position.
    """
    del round_number
    with self._changed:
      self._number += 1
      number, self._pass = self._number, None  # What it would report is void.
    if number == 1:
      self.client.call(
        'CreateDataSet', pb.CreateDataSetRequest(data_set=self.data_set)
      )
    self.client.call(
      'Begin',
      pb.BeginRequest(
        data_set=self.data_set.name, state=state, pass_number=number
      ),
    )
    with self._changed:
      if self._is_closed:
        raise RuntimeError(f'data set {self.data_set.name!r} was closed.')
      self._pass = _Pass(number)
      if self._thread is None:
        self._thread = threading.Thread(
          target=self._run,
          name=f'leases of {self.data_set.name}',
          daemon=True,
        )
        self._thread.start()
      self._changed.notify_all()
    return number

  def take(
    self, number: int, *, may_wait: bool = True
  ) -> tuple[pb.Lease | None, bool, int]:
    """Takes the next lease of a pass.

    It may wait while a shard may come back or a stream grow; in `lockstep` it
    does not, or not long.

    Returns:
      (lease, is waiting, first open epoch). The lease is None where the pass is
      over or, if it `is waiting`, there is none just now. All earlier epochs
      are in a committed checkpoint.
    """
    began = time.monotonic()
    with self._changed:
      this = self._newest(number)
      if this is None:
        return None, False, 0
      self._num_takers += 1
      try:
        while True:
          self.check()
          if self._is_closed or self._pass is not this:
            return None, False, 0
          if this.error is not None:
            raise this.error
          if this.leases:
            self._changed.notify_all()
            return this.leases.popleft(), False, this.first_open_epoch
          if this.outcome == _OUTCOME.FINISHED:
            return None, False, this.first_open_epoch
          now = time.monotonic()
          # It may be what this worker had not reported that others wait for.
          is_fresh = this.asked_s > this.news_s and (
            this.asked_s > began or now - this.asked_s < _POLL_S
          )
          if (
            (self.lockstep or not may_wait)
            and this.outcome == _OUTCOME.WAIT
            and is_fresh
            and now - began >= self._stream_wait_s
          ):
            return None, True, this.first_open_epoch
          self._is_asked = True
          self._changed.notify_all()
          self._changed.wait(0.5 * _POLL_S)
      finally:
        self._num_takers -= 1

  def report(self, number: int, news: pb.ExchangeRequest) -> None:
    """Notes what has become of shards held in a pass."""
    with self._changed:
      if this := self._newest(number):
        for lease in news.progress:
          this.progress[key_of(lease.shard)] = lease
        ended = ended_shards(news)
        for shard in ended:
          this.progress.pop(key_of(shard), None)
        if ended:
          self._note_news(this)
          this.news.MergeFrom(news)
          del this.news.progress[:]

  def close(self, give_up_s: float = 5.0) -> None:
    """Reports what is left and gives back what was not taken."""
    with self._changed:
      if self._is_closed:
        return
      self._is_closed = True
      self._changed.notify_all()
      this, thread = self._pass, self._thread
    if thread is not None and thread is not threading.current_thread():
      thread.join(give_up_s)
      if thread.is_alive():
        return  # It waits for a coordinator that is not there.
    if this is None or this.error is not None:
      return
    this.news.returned.extend(this.leases)
    this.leases.clear()
    if this.has_news():
      self._exchange(this, self._request(this, 0), give_up_s)

  def _newest(self, number: int) -> _Pass | None:
    this = self._pass
    return this if this is not None and this.number == number else None

  def _note_news(self, this: _Pass) -> None:
    """Notes that there comes something to report."""
    this.news_s = time.monotonic()
    if not this.has_news():
      this.said_s = this.news_s
    self._changed.notify_all()

  def _run(self) -> None:
    """The thread: one call after the other, each with all there is to say."""
    while True:
      with self._changed:
        while not self._is_closed and (wait_s := self._idle_s()) > 0:
          self._changed.wait(wait_s)
        if self._is_closed:
          return
        this = self._pass
        assert this is not None
        request = self._request(this, self._num_wanted(this))
        self._is_asked = False
      self._exchange(this, request, None)

  def _idle_s(self) -> float:
    """How long the thread may sleep; 0: there is something to do."""
    this = self._pass
    if this is None or this.error is not None:
      return 3600.0
    now = time.monotonic()
    until = [3600.0]
    if this.has_news():
      until.append(this.said_s + _FLUSH_S - now)
    if this.progress or this.leases:  # Others may need those in reserve.
      until.append(this.built_s + _PROGRESS_S - now)
    if this.news.returned:
      return 0.0  # Somebody may be waiting for it.
    if self._num_wanted(this):
      if this.outcome == _OUTCOME.LEASED:
        return 0.0
      if self._is_asked:  # Others may need a while to be done.
        is_old = this.asked_s < this.news_s
        until.append(0.0 if is_old else this.asked_s + _POLL_S - now)
    return max(0.0, min(until))

  def _num_wanted(self, this: _Pass) -> int:
    if this.outcome == _OUTCOME.FINISHED or (
      this.outcome == _OUTCOME.WAIT and not self._is_asked
    ):
      return 0
    read_ahead = 0 if this.is_ending else self.read_ahead
    return max(0, read_ahead + self._num_takers - len(this.leases))

  def _request(self, this: _Pass, num_wanted: int) -> pb.ExchangeRequest:
    request, this.news = this.news, pb.ExchangeRequest()
    request.data_set = self.data_set.name
    request.pass_number, request.num_wanted = this.number, num_wanted
    request.progress.extend(this.progress.values())
    this.progress = {}
    this.said_s = this.built_s = time.monotonic()
    return request

  def _exchange(
    self, this: _Pass, request: pb.ExchangeRequest, give_up_s: float | None
  ) -> None:
    try:
      reply = self.client.call('Exchange', request, give_up_s=give_up_s)
    except Exception as error:  # Raised where the worker next asks.
      with self._changed:
        this.error = error
        self._changed.notify_all()
      return
    with self._changed:
      this.first_open_epoch = reply.first_open_epoch
      this.leases.extend(reply.leases)
      if request.num_wanted:
        this.asked_s = this.built_s
        this.outcome = reply.outcome
        if not reply.leases and reply.outcome == _OUTCOME.LEASED:
          this.outcome = _OUTCOME.WAIT  # It holds all that it may.
      if reply.outcome == _OUTCOME.WAIT and not self.data_set.is_stream:
        # Faster workers would be idle because of what is held in reserve here.
        this.is_ending = True
        while len(this.leases) > self._num_takers:
          self._note_news(this)
          this.news.returned.append(this.leases.pop())
      self._changed.notify_all()
