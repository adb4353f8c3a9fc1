# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders as TensorStore names them, and checkpoints on s3://.

Orbax writes to gs:// and to file systems. TensorStore, by which it writes
arrays, knows s3:// too, and all other files of a checkpoint go by etils and
fsspec. So Orbax is told that s3:// is a bucket as gs:// is, and how TensorStore
names it (as in https://github.com/google/orbax/pull/2739, which is open).
"""

import functools
import re
from typing import Any

_URL = re.compile(r'(gs|s3)://([^/]*)/?(.*)', re.DOTALL)
_DRIVERS = {'gs': 'gcs', 's3': 's3'}
# botocore's names of where it found credentials; TensorStore's 'default' tries
# one after another, and writes an error for each that is not there.
_CREDENTIALS = {
  'env': 'environment',
  'shared-credentials-file': 'profile',
  'config-file': 'profile',
  'iam-role': 'imds',
  'container-role': 'ecs',
}


def kvstore(path: str) -> dict[str, Any]:
  """TensorStore's spec of an absolute path or of a URL of a bucket."""
  match = _URL.fullmatch(path)
  if match is None:
    return {'driver': 'file', 'path': path}
  scheme, bucket, name = match.groups()
  spec = {'driver': _DRIVERS[scheme], 'bucket': bucket, 'path': name}
  return spec | (aws() if scheme == 's3' else {})


@functools.cache
def aws() -> dict[str, Any]:
  """Address and credentials, as s3fs finds them for all other files."""
  import fsspec
  import fsspec.asyn

  files: Any = fsspec.filesystem('s3')
  client = files.s3.meta
  found = fsspec.asyn.sync(files.loop, files.session.get_credentials)
  method = _CREDENTIALS.get(getattr(found, 'method', ''), 'default')
  spec: dict[str, Any] = {'aws_credentials': {'type': method}}
  if not re.search(r'\.amazonaws\.com(\.cn)?$', client.endpoint_url):
    # Of AWS, TensorStore knows the addresses and asks for the region.
    spec |= {'endpoint': client.endpoint_url, 'aws_region': client.region_name}
  return spec


def prepare(path: str) -> None:
  """Makes Orbax take a path on s3://; does nothing for any other.

  Raises:
    RuntimeError: This version of Orbax has no place for it.
  """
  if path.startswith('s3://'):
    _prepare()


@functools.cache
def _prepare() -> None:
  try:  # Where Orbax asks what a path is: none of its public names.
    from orbax.checkpoint._src.path import gcs_utils
    from orbax.checkpoint._src.serialization import tensorstore_utils

    gcs: Any = gcs_utils
    stores: Any = tensorstore_utils
    prefixes, gcs_kvstore = gcs._GCS_PATH_PREFIX, gcs.get_kvstore_for_gcs
    normalize, _ = stores._normalize_path, stores._use_gcs_driver
  except (AttributeError, ImportError) as error:
    raise RuntimeError(
      f'Checkpoints on s3:// need another orbax-checkpoint ({error}): take the'
      ' version of requirements.txt, or mount the bucket (Mountpoint for Amazon'
      ' S3).'
    ) from error
  # A bucket has no atomic renames: a file in a step says that it is whole.
  gcs._GCS_PATH_PREFIX = (*prefixes, 's3://')
  gcs.get_kvstore_for_gcs = lambda path: (
    kvstore(path) if path.startswith('s3://') else gcs_kvstore(path)
  )
  stores._use_gcs_driver = lambda path: path.startswith(('gs://', 's3://'))
  stores._normalize_path = lambda path: re.sub(
    '^s3:/+', 's3://', normalize(path)
  )
