# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Stragglers of any JAX loop: how long each step took, and why."""

import atexit
from collections.abc import Callable
import functools
import itertools
import queue
import threading
import time
from typing import Any

from absl import logging
import prometheus_client

from antjax.elastic.worker import Agent


def watch(
  step_fn: Callable[..., Any],
  *,
  num_samples: int = 1,
  agent: Agent | None = None,
  prometheus_port: int | None = None,
  prometheus_host: str = '127.0.0.1',
) -> 'WatchedStep':
  """Wraps the step of a training loop without changing its results.

  A thread waits for the results of each step and reports, after the first one,
  how long the step took and how long the devices were idle because the host was
  late. It never ends the process, even if the coordinator fails. The overhead
  per step is the dispatch of one tiny program.

  Args:
    step_fn: Step function, jitted or not. It may donate its arguments.
    num_samples: Number of examples per step in this process, for rates.
    agent: Entered agent of this process. By default the first call creates one
      with `Agent.from_env`, or none without a coordinator.
    prometheus_port: Port at which this process serves its times. 0: a free one.
    prometheus_host: Address of that port.
  """
  return WatchedStep(
    step_fn, num_samples, agent, prometheus_port, prometheus_host
  )


class WatchedStep:
  """A timed step; see `watch`. Its attributes are those of the step."""

  def __init__(
    self,
    step_fn: Callable[..., Any],
    num_samples: int,
    agent: Agent | None,
    port: int | None,
    host: str,
  ):
    functools.update_wrapper(self, step_fn)
    self._num_samples, self._agent = num_samples, agent
    self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    self._thread: threading.Thread | None = None
    self._num_leaves = -1  # Of the results.
    self._smallest: int | None = None  # Number of the smallest.
    self.prometheus_port: int | None = None
    self._observe: Callable[[float, float], None] = lambda *_: None
    if port is not None:
      self._serve(port, host)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Calls the step, and has its results waited for."""
    if self._thread is None:
      self._start()
    called_s = time.perf_counter()
    results = self.__wrapped__(*args, **kwargs)
    self._calls.put((called_s, self._sign_of(results)))
    return results

  def _sign_of(self, results: Any) -> Any:
    """Something small of this process that is ready when the results are.

    The next step may donate the results themselves.
    """
    import jax

    leaves = jax.tree.leaves(results)
    if len(leaves) != self._num_leaves:  # Looking at each takes time.
      self._num_leaves = len(leaves)
      sizes = {
        x.size: i
        for i, x in enumerate(leaves)
        if isinstance(x, jax.Array)
        and x.size
        and not jax.numpy.issubdtype(x.dtype, jax.dtypes.extended)
      }
      self._smallest = sizes[min(sizes)] if sizes else None
    if self._smallest is None:
      return None
    x = leaves[self._smallest]
    if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer):
      return None
    pieces = x.addressable_shards
    return _first()(pieces[0].data) if pieces else None

  def __getattr__(self, name: str) -> Any:
    return getattr(self.__wrapped__, name)

  def close(self) -> None:
    """Reports the remaining times; also called when the process ends."""
    if self._thread is not None and self._thread.is_alive():
      self._calls.put(None)
      self._thread.join(10.0)

  def _serve(self, port: int, host: str) -> None:
    registry = prometheus_client.CollectorRegistry()
    whole, late = (
      prometheus_client.Summary(f'antjax_watch_{name}', text, registry=registry)
      for name, text in (
        ('step_seconds', 'Time of a step.'),
        ('host_seconds', 'Part of it in which devices waited for the host.'),
      )
    )

    def observe(whole_s: float, host_s: float) -> None:
      whole.observe(whole_s)
      late.observe(host_s)

    self._observe = observe
    server, _ = prometheus_client.start_http_server(port, host, registry)
    self.prometheus_port = server.server_port

  def _start(self) -> None:
    import jax  # The coordinator's host imports this folder without it.

    self._thread = threading.Thread(
      target=self._watch, name='watch', daemon=True
    )
    if self._agent is None:
      try:
        self._agent = Agent.from_env(
          give_up_s=float('inf'), exit_process=lambda code: None
        )
        self._agent.describe(
          device_kind=jax.devices()[0].device_kind,
          num_devices=jax.local_device_count(),
        )
        self._agent.__enter__()
        atexit.register(self._agent.close)
      except RuntimeError as error:
        if self.prometheus_port is None:
          logging.warning('watch: no step is reported. %s', error)
    self._thread.start()
    atexit.register(self.close)  # Before the agent's.

  def _watch(self) -> None:
    before_s = 0.0  # When the step before was ready.
    for step in itertools.count(1):
      if (call := self._calls.get()) is None:
        return
      called_s, sign = call
      try:
        if sign is not None:
          sign.block_until_ready()
      except RuntimeError:
        pass  # The loop will meet the same error.
      ready_s = time.perf_counter()
      if step > 1:
        self._report(step, ready_s - before_s, max(0.0, called_s - before_s))
      before_s = ready_s

  def _report(self, step: int, whole_s: float, host_s: float) -> None:
    self._observe(whole_s, host_s)
    if self._agent is None:
      return
    try:
      self._agent.on_batch_time(
        *(step, whole_s, 0.0, 1, self._num_samples), device_s=whole_s - host_s
      )
    except Exception as error:
      logging.warning('watch: steps are no longer reported: %s', error)
      self._agent = None


@functools.cache
def _first() -> Callable[[Any], Any]:
  import jax

  return jax.jit(lambda x: x.ravel()[:1])
