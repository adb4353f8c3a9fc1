# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whose checkpoints go into a folder: those of the run that saves there last.

A process that everybody took for dead (a virtual machine that stood still, a
network that was cut) may wake up in the midst of a save, while its successors
have gone on from an older checkpoint and write the same step. Orbax gives an
unfinished checkpoint a fixed name, so that such a process would publish its
successors' half-written one: the job could never start again. Here the
unfinished folders of each run have a name of their own, and the first save of a
run takes the folder over: what others have not finished can then be finished no
more, and nothing that they begin later is published.
"""

from collections.abc import Collection
import os
import secrets
import shutil
from typing import Any

from absl import logging
from orbax.checkpoint import path as ocp_path

from antjax import paths

_MARK = ocp_path.atomicity_types.TMP_DIR_SUFFIX
_OWNER = '.owner'


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
    self.token = str(secrets.randbits(62))
    owner = self._directory / f'{_OWNER}-{self.token}'
    owner.write_text(self.token)
    owner.replace(self._directory / _OWNER)
    for path in list(self._directory.iterdir()):
      name = path.name
      if _MARK in name:
        # Renamed first: at once it has no name that could be published.
        aside = self._directory / f'{name}-{self.token}-old'
      elif name.isdecimal() and int(name) not in known_steps:
        aside = self._directory / f'{name}.orphan-{self.token}'
      else:
        continue
      try:
        path.rename(aside)
      except FileNotFoundError:  # Published or given up just now.
        continue
      if _MARK in name:
        logging.info('Removing %s, which was not finished.', path)
        shutil.rmtree(aside, ignore_errors=True)
      else:
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
