# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ownership of a checkpoint folder, and atomic writes to it.

A folder belongs to the run that last saved there.

A process that was considered dead (a suspended virtual machine, a network
partition) may wake up in the middle of a save, while its successors have
resumed from an older checkpoint and write the same step. Orbax gives an
unfinished checkpoint a fixed name, so such a process would publish its
successors' half-written one, and the job could never start again. Here the
unfinished folders of each run have unique names. The first save of a run takes
over the folder: unfinished saves of other runs can no longer finish, and their
later saves are not published.
"""

from collections.abc import Collection
import os
import pathlib
import secrets
import shutil
from typing import Any

from absl import logging
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import path as ocp_path

from antjax import paths
from antjax.embedding.stream import RowStream
from antjax.train.block_files import BlockHandler

_MARK = ocp_path.atomicity_types.TMP_DIR_SUFFIX
_OWNER, _OLD = '.owner', '-old'
# Devices that hold the same array each write a part of it. A compiled program
# cuts off the part, which takes longer than writing this many bytes.
_MIN_PART_BYTES = 1 << 20


def remove_unfinished(directory: pathlib.Path) -> None:
  """Removes unfinished checkpoints in a folder.

  Also removes files of runs that died while they took over the folder.
  """
  for path in list(directory.iterdir()):
    name, aside = path.name, path
    if name.startswith(f'{_OWNER}-'):
      path.unlink(missing_ok=True)
      continue
    if _MARK not in name:
      continue
    try:
      if not name.endswith(_OLD):
        # Renamed first, so that its name can no longer be published.
        aside = path.with_name(f'{name}-{secrets.randbits(62)}{_OLD}')
        path.rename(aside)
    except FileNotFoundError:  # Just published or removed.
      continue
    logging.info('Removing %s, which was not finished.', path)
    shutil.rmtree(aside, ignore_errors=True)


def room(directory: str | os.PathLike[str], needed: int = 0) -> str:
  """Text about the free space on a folder's disk, and what to do."""
  if paths.is_url(directory):
    return 'See whether it may be written.'
  free = shutil.disk_usage(directory).free
  text = f'{free / 1e6:,.1f} MB are free on the disk of {directory}'
  if needed:
    text += f', and a checkpoint of this model takes about {needed / 1e6:,.1f}'
  return f'{text}: if that is too little, make room or keep fewer checkpoints.'


class Claim:
  """One run's claim to a folder; all its processes have the same token.

  The token is in the names of the run's unfinished checkpoints.
  """

  def __init__(self, directory: str):
    """Claims nothing yet, since readers never do."""
    self._directory = paths.local(directory)
    self.token = ''

  def take(self, known_steps: Collection[int]) -> None:
    """Takes over the folder, on the process that publishes, if not done yet.

    `known_steps` are the steps that the run found at its start. Other
    checkpoints came from a run that had lost the folder, and are renamed.
    """
    if self.token:
      return
    token = str(secrets.randbits(62))
    # First free the disk. Saves of other runs that start before this run is the
    # owner are removed below; later ones are not published.
    remove_unfinished(self._directory)
    owner = self._directory / f'{_OWNER}-{token}'
    try:
      owner.write_text(token)
    except OSError as error:
      owner.unlink(missing_ok=True)
      raise RuntimeError(
        f'Checkpointer: {owner} cannot be written: {error.strerror}.'
        f' {room(self._directory)}'
      ) from error
    owner.replace(self._directory / _OWNER)
    self.token = token
    remove_unfinished(self._directory)
    for path in list(self._directory.iterdir()):
      name = path.name
      if not name.isdecimal() or int(name) in known_steps:
        continue
      aside = self._directory / f'{name}.orphan-{self.token}'
      path.rename(aside)
      logging.warning(
        'Checkpoint %s was written by a run that had lost this folder; it is'
        ' now %s, and may be deleted.',
        name,
        aside,
      )

  def check(self) -> None:
    """Raises RuntimeError if another run has taken over the folder."""
    owner = (self._directory / _OWNER).read_text()
    if owner != self.token:
      raise RuntimeError(
        f'Checkpointer: another run saves to {self._directory} now; this one'
        ' must end. Give each run a folder of its own.'
      )

  def path_class(self) -> type[Any]:
    """Orbax's temporary_path_class for this folder."""
    claim = self

    class OwnPath(ocp_path.atomicity.AtomicRenameTemporaryPath):
      """A temporary folder that only its own run can publish."""

      @classmethod
      def from_final(cls, final_path: Any, **options: Any) -> 'OwnPath':
        name = f'{final_path.name}{_MARK}-{claim.token}'
        return cls(final_path.parent / name, final_path, **options)

      async def finalize(self) -> None:
        # Parts of a checkpoint are in a folder that is not published yet.
        if os.fspath(self.get_final().parent) == os.fspath(claim._directory):
          claim.check()
        await super().finalize()

    return OwnPath


class TreeHandler(ocp.PyTreeCheckpointHandler):
  """Orbax's handler of trees, which reports failed writes at once.

  If a process cannot write its part (because its disk is full), Orbax raises
  the error in a thread that first waits for the other processes, which wait for
  this one, so it stays hidden for minutes.
  """

  error: Exception | None = None  # First failed write of this process.

  def __init__(self) -> None:
    handlers = ocp.type_handlers
    get = handlers.get_type_handler
    types = [(kind, get(kind)) for kind in handlers.supported_types()]
    registry = handlers.create_type_handler_registry(*types)
    arrays = BlockHandler(min_slice_bytes_for_replica_parallel=_MIN_PART_BYTES)
    for kind in (jax.Array, RowStream):
      registry.add(kind, arrays, override=True, ignore_warnings=True)
    super().__init__(type_handler_registry=registry)

  @classmethod
  def typestr(cls) -> str:
    """Name of the handler in checkpoints: that of Orbax's own."""
    return ocp.PyTreeCheckpointHandler.typestr()

  async def async_save(self, *args: Any, **kwargs: Any) -> list[Any]:
    futures = await super().async_save(*args, **kwargs)
    return [_Watched(future, self) for future in futures or []]


class _Watched:
  """A write in progress."""

  def __init__(self, future: Any, handler: TreeHandler):
    self._future, self._handler = future, handler

  def result(self, timeout: float | None = None) -> Any:
    try:
      return self._future.result(timeout)
    except Exception as error:
      self._handler.error = self._handler.error or error
      raise

  def cancel(self) -> bool | None:
    result: bool | None = self._future.cancel()
    return result
