# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The methods of the coordinator's service: messages, and who may call them."""

import dataclasses

from google.protobuf.message import Message

from antjax.elastic import coordinator_pb2 as pb

SERVICE = 'antjax.v1.Coordinator'
OPERATOR = 'operator'
ROLES = ('worker', 'agent', OPERATOR)


@dataclasses.dataclass(frozen=True)
class ServiceMethod:
  """A method of the service.

  Attributes:
    request: Type of the request message.
    reply: Type of the reply message.
    role: Lowest role that may call it.
    is_journaled: It changes durable state, so that its requests have numbers.
      Of soft state the newest request counts, and a repeat does no harm.
  """

  request: type[Message]
  reply: type[Message]
  role: str = 'worker'
  is_journaled: bool = True

  def may_be_called_by(self, role: str) -> bool:
    """Whether a role may call it; an operator may call all."""
    return role in (OPERATOR, self.role)


METHODS = {
  'CreateDataSet': ServiceMethod(pb.CreateDataSetRequest, pb.Empty),
  'Begin': ServiceMethod(pb.BeginRequest, pb.Empty),
  'Exchange': ServiceMethod(pb.ExchangeRequest, pb.ExchangeReply),
  'Commit': ServiceMethod(pb.CommitRequest, pb.Empty),
  'ExtendStream': ServiceMethod(pb.ExtendStreamRequest, pb.Empty),
  'Heartbeat': ServiceMethod(
    pb.HeartbeatRequest, pb.HeartbeatReply, is_journaled=False
  ),
  'AgentBeat': ServiceMethod(
    pb.AgentBeatRequest, pb.AgentBeatReply, 'agent', is_journaled=False
  ),
  'Status': ServiceMethod(
    pb.StatusRequest, pb.StatusReply, OPERATOR, is_journaled=False
  ),
  'Operate': ServiceMethod(pb.OperateRequest, pb.Empty, OPERATOR),
}
# Types of requests that have sequence numbers.
JOURNALED = {one.request for one in METHODS.values() if one.is_journaled}
