# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""When generations of a job start and end: settings of `rendezvous`."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class RendezvousConfig:
  """When generations start and end.

  Attributes:
    min_hosts: A job waits for so many.
    max_hosts: It takes no more; 0: no limit.
    max_restarts: After so many faults a further one ends the job.
    agent_timeout_s: An agent silent for so long is lost.
    join_wait_s: With min_hosts there, waits so long for max_hosts.
    stop_grace_s: Workers that were asked to save have so long.
    kill_timeout_s: A host whose agent lives and cannot kill its worker (it
      hangs in the kernel) is left behind after so long.
    backoff_s: Wait before the second restart in a row; doubles each time. The
      first restart comes at once.
    max_backoff_s: Longest such wait.
    healthy_s: A generation that ran so long starts the row anew.
    grow_after_s: Hosts that wait for so long beside a job with room for them
      are taken in: it saves and starts again. 0: never.
  """

  min_hosts: int = 1
  max_hosts: int = 0
  max_restarts: int = 10
  agent_timeout_s: float = 10.0
  join_wait_s: float = 2.0
  stop_grace_s: float = 60.0
  kill_timeout_s: float = 60.0
  backoff_s: float = 1.0
  max_backoff_s: float = 60.0
  healthy_s: float = 60.0
  grow_after_s: float = 60.0

  def __post_init__(self) -> None:
    if self.min_hosts < 1:
      raise ValueError(f'min_hosts must be at least 1; got {self.min_hosts}.')
    if self.max_hosts and self.max_hosts < self.min_hosts:
      raise ValueError(
        f'max_hosts={self.max_hosts} must be at least min_hosts='
        f'{self.min_hosts}, or 0 for no limit.'
      )
    if self.max_restarts < 0:
      raise ValueError(
        f'max_restarts must be at least 0; got {self.max_restarts}.'
      )
    for name in (
      'join_wait_s',
      'stop_grace_s',
      'kill_timeout_s',
      'backoff_s',
      'max_backoff_s',
      'healthy_s',
      'grow_after_s',
    ):
      if not getattr(self, name) >= 0:  # Nor nan.
        raise ValueError(
          f'{name} must be at least 0; got {getattr(self, name)}.'
        )
    if not self.agent_timeout_s > 0:
      raise ValueError(
        f'agent_timeout_s must be positive; got {self.agent_timeout_s}.'
      )
