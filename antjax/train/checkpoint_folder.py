# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ownership of a checkpoint folder, and atomic writes to it.

A folder belongs to the run that last saved there.

A process that was considered dead (a suspended virtual machine, a network
partition) may wake up in the middle of a save, while its successors have
resumed from an older checkpoint and write the same step. Orbax gives an
unfinished checkpoint a fixed name, so such a process would publish its
successors' half-written one, and the job could never start again. Here the
unfinished folders of each run have unique names, and the first save of a run
takes over the folder: unfinished saves of other runs can no longer finish, and
later ones are not published.
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

_MARK = ocp_path.atomicity_types.TMP_DIR_SUFFIX
_OWNER, _OLD = '.owner', '-old'
# Devices that hold the same array each write a part of it, cut off by a program
# that is compiled for it: that takes longer than writing this much.
_MIN_PART_BYTES = 1 << 20


def remove_unfinished(directory: pathlib.Path) -> None:
  """Removes checkpoints in a folder that were begun and not finished.

  Also what runs left there that died while they took the folder.
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
        # Renamed first: at once it has no name that could be published.
        aside = path.with_name(f'{name}-{secrets.randbits(62)}{_OLD}')
        path.rename(aside)
    except FileNotFoundError:  # Published or given up just now.
      continue
    logging.info('Removing %s, which was not finished.', path)
    shutil.rmtree(aside, ignore_errors=True)


def room(directory: str | os.PathLike[str], needed: int = 0) -> str:
  """Says how much room there is on a folder's disk, and what to do."""
  if paths.is_url(directory):
    return 'See whether it may be written.'
  free = shutil.disk_usage(directory).free
  text = f'{free / 1e6:,.1f} MB are free on the disk of {directory}'
  if needed:
    text += f', and a checkpoint of this model takes about {needed / 1e6:,.1f}'
  return f'{text}: if that is too little, make room or keep fewer checkpoints.'


class Claim:
  """One run's claim to a folder; all its processes have the same token.

  Attributes:
    token: Token of the run, used in the names of its unfinished checkpoints.
  """

  def __init__(self, directory: str):
    """Claims nothing yet: who only reads does not."""
    self._directory = paths.local(directory)
    self.token = ''

  def take(self, known_steps: Collection[int]) -> None:
    """Takes the folder over, on the process that publishes; again: nothing.

    `known_steps` are those that the run found there when it began. Other
    checkpoints came since from a run that had lost the folder, and are renamed.
    """
    if self.token:
      return
    token = str(secrets.randbits(62))
    # First what may fill the disk. What is begun until this run is the owner is
    # removed below; what is begun later is not published.
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
    """Raises RuntimeError where another run has taken the folder over."""
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
        # The parts of a checkpoint are in a folder that is not published yet.
        if os.fspath(self.get_final().parent) == os.fspath(claim._directory):
          claim.check()
        await super().finalize()

    return OwnPath


class TreeHandler(ocp.PyTreeCheckpointHandler):
  """Orbax's handler of trees, which tells at once when a write has failed.

  Where a process cannot write its part (its disk is full), Orbax raises the
  error in a thread that first waits for the other processes, which wait for
  this one: for minutes nobody hears of it.
  """

  error: Exception | None = None  # Of the first failed write of this process.

  def __init__(self) -> None:
    handlers = ocp.type_handlers
    get = handlers.get_type_handler
    types = [(kind, get(kind)) for kind in handlers.supported_types()]
    registry = handlers.create_type_handler_registry(*types)
    store = getattr(registry.get(jax.Array), '_array_metadata_store', None)
    arrays = handlers.ArrayHandler(
      min_slice_bytes_for_replica_parallel=_MIN_PART_BYTES,
      array_metadata_store=store,
    )
    registry.add(jax.Array, arrays, override=True, ignore_warnings=True)
    super().__init__(type_handler_registry=registry)

  @classmethod
  def typestr(cls) -> str:
    """The name in checkpoints of who can read this: Orbax's own."""
    return ocp.PyTreeCheckpointHandler.typestr()

  async def async_save(self, *args: Any, **kwargs: Any) -> list[Any]:
    futures = await super().async_save(*args, **kwargs)
    return [_Watched(future, self) for future in futures or []]


class _Watched:
  """A write that is under way."""

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
