# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Paths that may be URLs of a bucket: one home for what works there.

A bucket has whole objects: no appending, locking, renaming or memory maps. So
checkpoints go to its URL (Orbax and TensorStore), and all other files of a
folder are worked on in a local copy, which `Mirror` keeps equal with the
bucket. `local` refuses URLs, so that no folder is ever named `gs:`. See
docs/remote_paths.md.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import errno
import fcntl
import functools
import glob
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any

from absl import logging
from etils import epath

PathLike = str | os.PathLike[str]

# Folders of this name are used where they are, by Orbax.
CHECKPOINTS = 'checkpoints'

# pathlib makes gs:/ of gs://.
_URL = re.compile(r'([a-z][a-z0-9+.-]+):/', re.IGNORECASE)
_PACKAGES = {
  **{'gs': 'gcsfs', 's3': 's3fs', 'hf': 'huggingface_hub'},
  'kafka': 'confluent_kafka',
}
_EXTRAS = {'gs': 'gcs', 's3': 's3', 'kafka': 'kafka'}
# Smaller files are read into memory before they are sent.
_WHOLE_BYTES = 1 << 26
_DOCS = 'docs/remote_paths.md'


@dataclasses.dataclass(frozen=True)
class Takes:
  """A note on a config's field: the URLs that it takes beside local paths.

  A field of texts without one takes none.
  """

  schemes: tuple[str, ...] = ()
  why: str = 'it takes local paths only'  # That other URLs do not work.


URL = Takes(('gs', 's3'), 'only gs:// and s3:// are known')
MODEL_URL = Takes(('gs', 's3', 'hf'), 'only gs://, s3:// and hf:// are known')
TOPIC = Takes(('kafka',), 'only kafka:// is known')
MAPPED = Takes(why='its files are mapped into memory')
LOCKED = Takes(why='its writers need locks and fsync')


def is_full(error: BaseException | None) -> bool:
  """Whether a full disk or quota is the cause of an error."""
  return _is_caused_by(error, errno.ENOSPC, errno.EDQUOT)


def is_read_only(error: BaseException | None) -> bool:
  """Whether a folder that may not be written is the cause of an error."""
  return _is_caused_by(error, errno.EROFS, errno.EACCES, errno.EPERM)


def _is_caused_by(error: BaseException | None, *codes: int) -> bool:
  return error is not None and (
    getattr(error, 'errno', None) in codes
    or any(f"os_error_code='{code}'" in str(error) for code in codes)
    or _is_caused_by(error.__cause__, *codes)
  )


def is_url(path: PathLike) -> bool:
  """Whether a path is a URL, also one that pathlib has cut."""
  return _URL.match(os.fspath(path)) is not None


def check(path: PathLike, what: str, takes: Takes = URL) -> None:
  """Refuses a ~, and a URL that cannot be served here; `what` names it.

  Raises:
    ValueError: With the reason, and what to do.
  """
  if os.fspath(path).startswith('~'):  # A folder of that name would be made.
    raise ValueError(
      f'{what}={os.fspath(path)}: no shell has expanded the ~ (none does behind'
      ' = in a flag); give the whole path, as by $HOME.'
    )
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
  import fsspec.config  # Slow.

  # Other processes write there: an old listing is a wrong one. Orbax's too.
  for name in ('gs', 'gcs', 's3'):
    options = fsspec.config.conf.setdefault(name, {})
    options.setdefault('use_listings_cache', False)


def check_there(path: str, what: str, run_dir: str = '') -> None:
  """Refuses what is not there, except '' and models on the Hub.

  What only begins a run may be gone if the folder `run_dir` is there.

  Raises:
    FileNotFoundError: Nothing is at the path.
    ValueError: See `check`.
  """
  check(path, what, MODEL_URL)
  check(run_dir, 'run_dir')
  if not path or path.startswith('hf:') or epath.Path(path).exists():
    return
  if not run_dir or not epath.Path(run_dir).exists():
    raise FileNotFoundError(f'{what}={path} does not exist.')


def local(
  path: PathLike, what: str = 'path', takes: Takes = Takes()
) -> pathlib.Path:
  """A path on this machine's disks; raises ValueError for a URL."""
  check(path, what, takes)
  return pathlib.Path(path)


def origin(path: PathLike) -> str:
  """Where a path is for good: in a mirrored folder its URL, else absolute."""
  if is_url(path):
    return os.fspath(path)
  path = pathlib.Path(os.path.abspath(path))
  for mirror in _mirrors:
    if path.is_relative_to(mirror.local):
      return f'{mirror.url}/{path.relative_to(mirror.local)}'
  return str(path)


def fetched(path: PathLike, what: str = 'path') -> pathlib.Path:
  """A path to read from: of a URL, a local copy that is kept for later runs.

  The processes of a host share it; only what has changed is copied again.

  Raises:
    FileNotFoundError: Nothing is at the URL.
    ValueError: See `check`.
  """
  if not is_url(path):
    return pathlib.Path(path)
  check(path, what)
  return _fetched(os.fspath(path))


@functools.cache  # In one run a data set does not change.
def _fetched(url: str) -> pathlib.Path:
  home = pathlib.Path(tempfile.gettempdir(), f'antjax-cache-{os.getuid()}')
  home.mkdir(mode=0o700, exist_ok=True)
  if home.stat().st_uid != os.getuid():
    raise RuntimeError(f'{home} belongs to somebody else; set TMPDIR.')
  folder = home / hashlib.sha256(url.encode()).hexdigest()[:16]
  folder.mkdir(exist_ok=True)
  mirror = Mirror(url, folder / epath.Path(url).name)
  with open(folder / '.lock', 'a') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not mirror.pull(folder / '.versions'):
      raise FileNotFoundError(f'{url}: nothing is there.')
  return mirror.local


@contextlib.contextmanager
def written(path: PathLike, what: str = 'out') -> Iterator[pathlib.Path]:
  """A path to write to: of a URL, a local copy, sent there at a clean end."""
  if not is_url(path):
    yield pathlib.Path(path)
    return
  check(path, what)
  with mirrored(os.fspath(path)) as mirror:
    yield mirror.local
    mirror.push()


@contextlib.contextmanager
def replaced(
  path: pathlib.Path, *, is_durable: bool = False
) -> Iterator[pathlib.Path]:
  """A path to write to, which takes the place of `path` at a clean end.

  It may become a file or a folder. What a killed process has left goes. If
  `is_durable`, the file survives a power cut from then on.
  """
  partial = path.with_name(f'.new-{path.name}')
  if partial.is_dir():
    shutil.rmtree(partial)
  try:
    yield partial
    if is_durable:
      flush(partial)
    if path.is_dir():
      shutil.rmtree(path)
    os.replace(partial, path)
    if is_durable:
      flush(path.parent)
  finally:
    if partial.is_file():
      partial.unlink()


def flush(path: pathlib.Path) -> None:
  """Waits until a file, or the names in a folder, are on the disk."""
  number = os.open(path, os.O_RDONLY)
  try:
    os.fsync(number)
  finally:
    os.close(number)


@contextlib.contextmanager
def staged(folder: PathLike, what: str = 'out') -> Iterator[pathlib.Path]:
  """An empty folder that becomes `folder` at a clean end, else vanishes.

  What is in `folder` is deleted at the end. Its parent may hold further files
  of the work; it is deleted too.
  """
  folder = local(folder, what).absolute()
  parent = folder.parent
  is_new = not parent.exists()
  parent.mkdir(parents=True, exist_ok=True)
  prefix = f'.{folder.name}.partial-'
  for left in parent.glob(f'{glob.escape(prefix)}*'):
    logging.warning('%s was left by a run that was killed; delete it.', left)
  stage = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
  try:
    data = stage / 'data'
    data.mkdir()
    yield data
    if folder.exists():
      folder.rename(stage / 'old')
    data.rename(folder)
  finally:
    shutil.rmtree(stage, ignore_errors=True)
    if is_new and not any(parent.iterdir()):
      parent.rmdir()


@contextlib.contextmanager
def mirrored(url: str) -> Iterator['Mirror']:
  """A mirror in a folder of this process, which is deleted at the end."""
  with tempfile.TemporaryDirectory(prefix='antjax-') as folder:
    mirror = Mirror(url, pathlib.Path(folder, epath.Path(url).name))
    try:
      mirror.pull()
      yield mirror
    finally:
      _mirrors.remove(mirror)


class Mirror:
  """A file or folder of a bucket, and a local copy of it.

  Attributes:
    url: The URL.
    local: The copy; not there where nothing is at the URL.
  """

  def __init__(self, url: str, local: pathlib.Path):
    """Copies nothing yet. Folders `CHECKPOINTS` will be left out."""
    import fsspec  # Slow.

    self.url, self.local = url.rstrip('/'), local.absolute()
    self._fs, self._root = fsspec.url_to_fs(self.url)
    self._known: dict[str, tuple[int, int]] = {}  # As they are in the bucket.
    _mirrors.append(self)

  def pull(self, versions: pathlib.Path | None = None) -> bool:
    """Copies what is there, and says whether anything is.

    The file `versions` says which version of what is in `local` already.
    """
    there = self._listed()
    have: dict[str, str] = {}
    if versions is not None and versions.exists():
      have = json.loads(versions.read_text())
    for name in have.keys() - there.keys():
      (self.local / name).unlink(missing_ok=True)
    new = [
      name
      for name, info in there.items()
      if have.get(name) != _version(info) or not (self.local / name).exists()
    ]
    self._copy_here({name: there[name]['size'] for name in new})
    if versions is not None:
      told = {name: _version(info) for name, info in there.items()}
      versions.write_text(json.dumps(told))
    self._known = self._stats()
    return bool(there)

  def push(self) -> None:
    """Copies what has changed here to the bucket, and deletes what is gone.

    JSON files come last: they tell readers that a folder is whole.
    """
    here = self._stats()
    for name in sorted(here, key=lambda name: name.endswith('.json')):
      if here[name] == self._known.get(name):
        continue
      file, target = self.local / name, self._remote(name)
      if here[name][0] < _WHOLE_BYTES:  # Logs may grow meanwhile.
        self._fs.pipe_file(target, file.read_bytes())
      else:
        self._fs.put_file(str(file), target)
    if gone := self._known.keys() - here.keys():
      self._fs.rm([self._remote(name) for name in gone])
    self._known = here

  def _listed(self) -> dict[str, dict[str, Any]]:
    """Name -> what the bucket says of an object."""
    if self._fs.isfile(self._root):
      return {'.': self._fs.info(self._root)}
    found = {}
    for folder, folders, files in self._fs.walk(self._root, detail=True):
      folders.pop(CHECKPOINTS, None)
      for name, info in files.items():
        if name:  # '' is the mark of a folder.
          path = f'{folder}/{name}'.removeprefix(self._root).lstrip('/')
          found[path] = info
    return found

  def _copy_here(self, sizes: dict[str, int]) -> None:
    if not sizes:
      return
    import fsspec
    import rich.console
    import rich.progress

    class Bar(fsspec.Callback):
      def relative_update(self, inc: int = 1) -> None:
        bar.advance(task, inc)

    columns = (
      *rich.progress.Progress.get_default_columns(),
      rich.progress.DownloadColumn(),
    )
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(*columns, console=console) as bar:
      task = bar.add_task(f'copying {self.url}', total=sum(sizes.values()))
      for name in sizes:
        target = self.local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f'.{target.name}.partial')
        self._fs.get_file(self._remote(name), str(partial), callback=Bar())
        os.replace(partial, target)

  def _stats(self) -> dict[str, tuple[int, int]]:
    """Name -> size and time of the files here, hidden ones aside."""
    found = {}
    for path in (self.local, *sorted(self.local.rglob('*'))):
      if path.is_file() and not path.name.startswith('.'):
        stat = path.stat()
        name = str(path.relative_to(self.local))
        found[name] = stat.st_size, stat.st_mtime_ns
    return found

  def _remote(self, name: str) -> str:
    return self._root if name == '.' else f'{self._root}/{name}'


_mirrors: list[Mirror] = []  # Of this process.


def _version(info: dict[str, Any]) -> str:
  """What tells an object from an earlier one of its name."""
  tags = [info.get(key) for key in ('generation', 'etag', 'ETag', 'mtime')]
  return f'{info["size"]} {[str(tag) for tag in tags if tag]}'
