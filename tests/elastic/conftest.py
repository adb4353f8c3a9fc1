# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What several tests of elastic take."""

import pytest

from tests.elastic.jobs_server import JobsServer


@pytest.fixture
def server():
  with JobsServer() as server:
    yield server
