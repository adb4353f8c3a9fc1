# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A coordinator in this process that breaks as a test wants it to.

The state machine is the real one (`antjax.elastic.jobs`), the server is gRPC's
synchronous one; what is journaled is a list in memory.
"""

from concurrent import futures
import threading
import time

import grpc

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.jobs import Jobs
from antjax.elastic.protocol import METHODS, Refused, SERVICE


class JobsServer:
  """Serves a `Jobs` on a loopback port.

  Attributes:
    jobs: The state.
    requests: (name, message) of all that arrived, repeats too.
    break_call: (name, message) -> None or a gRPC status code to fail with,
      'drop_reply' to do it and not answer, or 'corrupt' for an unknown error.
    plan: In the next heartbeats' replies.
    is_stopping: Also.
  """

  def __init__(self, jobs=None, port=0):
    self.jobs = jobs or Jobs()
    self.requests = []
    self.break_call = lambda name, message: None
    self.plan = pb.Plan()
    self.is_stopping = False
    self._lock = threading.Lock()
    self.port = port
    self._server = None
    self.start()

  @property
  def address(self):
    return f'127.0.0.1:{self.port}'

  def start(self):
    self._server = grpc.server(
      futures.ThreadPoolExecutor(16), options=[('grpc.so_reuseport', 0)]
    )
    methods = {
      name: grpc.unary_unary_rpc_method_handler(
        lambda request, context, name=name: self._call(name, request, context),
        request_deserializer=method.request.FromString,
        response_serializer=lambda reply: reply.SerializeToString(),
      )
      for name, method in METHODS.items()
    }
    self._server.add_generic_rpc_handlers(
      [grpc.method_handlers_generic_handler(SERVICE, methods)]
    )
    self.port = self._server.add_insecure_port(f'127.0.0.1:{self.port}')
    self._server.start()

  def stop(self):
    """Dies; what was applied is kept, as a journal would."""
    self._server.stop(None).wait()

  def restart(self):
    """Comes back from its journal on the same port."""
    with self._lock:  # A cancelled call may still be applied in its thread.
      self.jobs = Jobs.from_bytes(self.jobs.to_bytes())
    self.start()

  def ledger(self, job='job', name='train'):
    return self.jobs.job(job).data_sets[name]

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.stop()

  def _call(self, name, request, context):
    with self._lock:
      self.requests.append((name, request))
      fault = self.break_call(name, request)
      if isinstance(fault, grpc.StatusCode):
        context.abort(fault, 'as the test wants it')
      if isinstance(fault, tuple):
        context.abort(*fault)
      try:
        reply = self._apply(name, request)
      except Refused as refused:
        context.abort(grpc.StatusCode[refused.code], refused.text)
    if fault == 'drop_reply':
      context.abort(grpc.StatusCode.UNAVAILABLE, 'Socket closed')
    return reply

  def _apply(self, name, request):
    if name == 'Heartbeat':
      job = self.jobs.job(request.head.job)
      if request.head.generation < job.generation:
        raise Refused('FAILED_PRECONDITION', 'this generation is over.')
      return pb.HeartbeatReply(plan=self.plan, is_stopping=self.is_stopping)
    if name == 'Status':
      return pb.StatusReply(json=b'{}')
    reply = self.jobs.apply(request, time.time())
    return METHODS[name].reply.FromString(reply)


def eventually(check):
  for _ in range(1000):
    if check():
      return
    time.sleep(0.01)
  raise AssertionError('it did not happen')
