# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A bucket of Google Cloud Storage, served on loopback."""

from collections.abc import Iterator
import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time

import pytest

NAME = 'bucket'
URL = f'gs://{NAME}'
# gcsfs reads its environment when it is imported: not here.
NEEDS_PACKAGES = pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ('gcsfs', 'gcp_storage_emulator'))),
  reason='gcsfs and gcp-storage-emulator of requirements-dev.txt are missing',
)


@contextlib.contextmanager
def served() -> Iterator[dict[str, str]]:
  """Serves an empty bucket; yields what a client's environment needs."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  address = f'http://127.0.0.1:{port}'
  server = subprocess.Popen(
    [
      *(sys.executable, '-m', 'gcp_storage_emulator', 'start', '--in-memory'),
      *('--host=127.0.0.1', f'--port={port}', f'--default-bucket={NAME}'),
    ],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    for _ in range(600):
      with contextlib.suppress(OSError):
        socket.create_connection(('127.0.0.1', port)).close()
        break
      time.sleep(0.05)
    yield {
      'STORAGE_EMULATOR_HOST': address,  # Of gcsfs.
      'TENSORSTORE_GCS_HTTP_URL': address,
      # gcsfs would ask Google for the kind of the bucket.
      'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
    }
  finally:
    server.kill()
    server.wait()


@contextlib.contextmanager
def used() -> Iterator[str]:
  """Serves an empty bucket to this process; yields its URL."""
  before = dict(os.environ)
  with served() as environment:
    os.environ.update(environment)
    try:
      yield URL
    finally:
      os.environ.clear()
      os.environ.update(before)
