# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Paths that may be URLs of a bucket: one home for what works there.

A bucket has whole objects: no appending, locking, renaming or memory maps. So
checkpoints go to its URL (Orbax and TensorStore), and all other files of a
folder are worked on in a local copy, which `Mirror` keeps equal with the
bucket. `local` refuses URLs, so that no folder is ever named `gs:`. See
docs/remote_paths.md.
"""

import dataclasses
import importlib.util
import os
import pathlib
import re

PathLike = str | os.PathLike[str]

# Folders of this name are used where they are, by Orbax.
CHECKPOINTS = 'checkpoints'

# pathlib makes gs:/ of gs://.
_URL = re.compile(r'([a-z][a-z0-9+.-]+):/')
_PACKAGES = {'gs': 'gcsfs', 's3': 's3fs'}
_EXTRAS = {'gs': 'gcs', 's3': 's3'}
_DOCS = 'docs/remote_paths.md'


@dataclasses.dataclass(frozen=True)
class Takes:
  """A note on a config's field: the URLs that it takes beside local paths.

  A field of texts without one takes none.
  """

  schemes: tuple[str, ...] = ()
  why: str = 'it takes local paths only'  # That other URLs do not work.


URL = Takes(('gs', 's3'), 'only gs:// and s3:// are known')
CHECKPOINT_URL = Takes(
  ('gs',),
  'Orbax writes checkpoints to gs:// and to file systems only; mount the'
  ' bucket (for s3:// with Mountpoint for Amazon S3)',
)


def is_url(path: PathLike) -> bool:
  """Whether a path is a URL, also one that pathlib has cut."""
  return _URL.match(os.fspath(path)) is not None


def check(path: PathLike, what: str, takes: Takes = URL) -> None:
  """Refuses a URL that cannot be served here; `what` names it in messages.

  Raises:
    ValueError: With the reason, and what to do.
  """
  found = _URL.match(os.fspath(path))
  if found is None:
    return
  given, scheme = f'{what}={os.fspath(path)}', found[1]
  if scheme not in takes.schemes:
    raise ValueError(
      f'{given}: this URL cannot be used here: {takes.why}; give a local path'
      f' ({_DOCS}).'
    )
  if '://' not in os.fspath(path):
    raise ValueError(
      f'{given}: pathlib has cut this URL; give it as a str or as an'
      ' etils.epath.Path.'
    )
  package = _PACKAGES[scheme]
  if importlib.util.find_spec(package) is None:
    raise ValueError(
      f'{given}: {scheme}:// needs the package {package}, which is not'
      f" installed; pip install 'antjax[{_EXTRAS[scheme]}]', or give a local"
      ' path.'
    )


def local(path: PathLike, what: str = 'path', why: str = '') -> pathlib.Path:
  """A path on this machine's disks; raises ValueError for a URL."""
  check(path, what, Takes(why=why) if why else Takes())
  return pathlib.Path(path)
