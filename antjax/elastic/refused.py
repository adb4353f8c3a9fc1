# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The error of a request that the coordinator does not take."""

from typing import Literal

Code = Literal[
  'INVALID_ARGUMENT',  # The request is wrong.
  'FAILED_PRECONDITION',  # Who asks is fenced off, or has to begin again.
  'NOT_FOUND',  # No such job or data set.
  'PERMISSION_DENIED',  # The role may not ask this.
  'RESOURCE_EXHAUSTED',  # There are too many of something.
  'UNAUTHENTICATED',  # No such token.
]


class Refused(Exception):
  """A request was refused and has changed nothing.

  Attributes:
    code: Name of the gRPC status code.
    text: Reason, and what to do.
  """

  def __init__(self, code: Code, text: str):
    super().__init__(f'{code}: {text}')
    self.code = code
    self.text = text
