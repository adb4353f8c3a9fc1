# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A bucket of Google Cloud Storage, served on loopback."""

from collections.abc import Iterator
import contextlib
import http
import importlib.util
import os
import pathlib
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
    [sys.executable, '-m', 'tests.bucket', str(port)],
    cwd=pathlib.Path(__file__).parents[1],
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


def _serve(port: int) -> None:
  """gcp-storage-emulator, and what TensorStore needs beside: generations."""
  from gcp_storage_emulator import exceptions
  from gcp_storage_emulator.handlers import objects

  download = objects.download

  def generation(storage, name):
    try:
      return storage.get_file_obj(NAME, name)['generation']
    except exceptions.NotFound:
      return '0'

  def download_with_generation(request, response, storage, *args, **kwargs):
    download(request, response, storage, *args, **kwargs)
    found = generation(storage, request.params['object_id'])
    response['x-goog-generation'] = found

  def if_it_matches(change):
    def checked(request, response, storage, *args, **kwargs):
      wanted = request.query.get('ifGenerationMatch')
      name = request.params.get('object_id') or request.query['name'][0]
      if wanted and generation(storage, name) != wanted[0]:
        response.status = http.HTTPStatus.PRECONDITION_FAILED
      else:
        change(request, response, storage, *args, **kwargs)

    return checked

  objects.download = download_with_generation
  objects._media_upload = if_it_matches(objects._media_upload)
  objects.delete = if_it_matches(objects.delete)

  from gcp_storage_emulator import server  # It takes handlers as they are.

  server.create_server(
    '127.0.0.1', port, in_memory=True, default_bucket=NAME
  ).run()


if __name__ == '__main__':
  _serve(int(sys.argv[1]))
