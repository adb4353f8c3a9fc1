# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Buckets of Google Cloud Storage and of S3, served on loopback."""

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
from typing import Any
import urllib.request

from etils.epath import backend as epath_backend
import fsspec
import pytest

from antjax.train import object_store

NAME = 'bucket'
# gcsfs reads its environment when it is imported: not here.
_PACKAGES = {
  'gs': ('gcsfs', 'gcp_storage_emulator'),
  's3': ('s3fs', 'moto', 'flask_cors'),
}


def _schemes() -> Iterator[Any]:
  for scheme, names in _PACKAGES.items():
    missing = [x for x in names if importlib.util.find_spec(x) is None]
    reason = f'{", ".join(missing)} of requirements-dev.txt: not installed'
    skips = pytest.mark.skipif(bool(missing), reason=reason)
    yield pytest.param(scheme, marks=skips)


SCHEMES = [*_schemes()]  # For parametrize.


@contextlib.contextmanager
def served(scheme: str) -> Iterator[dict[str, str]]:
  """Serves an empty bucket; yields what a client's environment needs."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  address = f'http://127.0.0.1:{port}'
  module = ['moto.server', '-p'] if scheme == 's3' else ['tests.bucket']
  server = subprocess.Popen(
    [sys.executable, '-m', *module, str(port)],
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
    if scheme == 's3':
      make = urllib.request.Request(f'{address}/{NAME}', method='PUT')
      urllib.request.urlopen(make).close()
      yield {
        'AWS_ENDPOINT_URL': address,
        'AWS_ACCESS_KEY_ID': 'anyone',
        'AWS_SECRET_ACCESS_KEY': 'anything',
      }
    else:
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
def used(scheme: str) -> Iterator[str]:
  """Serves an empty bucket to this process; yields its URL."""
  before = dict(os.environ)
  with served(scheme) as environment:
    os.environ.update(environment)
    # Clients keep the address of an earlier server.
    fsspec.filesystem(scheme).clear_instance_cache()
    epath_backend.fsspec_backend._get_filesystem.cache_clear()
    object_store.aws.cache_clear()
    try:
      yield f'{scheme}://{NAME}'
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
