# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Observation of a run: its trackers, and a profile of some steps."""

import dataclasses
import os
import pathlib
from typing import Any, Self

from absl import logging
import jax

PROFILE_FOLDER = 'profile'


@dataclasses.dataclass(frozen=True)
class Watched:
  """Outputs of a run in addition to its log.

  Attributes:
    trackers: Names in `trackers.PACKAGES`.
    profile_steps: First step of a profile, counted from 0, and the step after
      its last one; None: no profile.
  """

  trackers: tuple[str, ...] = ('tensorboard',)
  profile_steps: tuple[int, int] | None = None


def steps_of(text: str) -> tuple[int, int] | None:
  """Reads 'first:last'; '' is None.

  Raises:
    ValueError: It has another form, or contains no step.
  """
  if not text:
    return None
  first, _, last = text.partition(':')
  is_number = first.isdecimal() and last.isdecimal()
  if not is_number or int(first) >= int(last):
    raise ValueError(
      f'profile_steps={text}: needed: the first step and, after a colon, a'
      ' later one, e.g. 10:15 for the steps 10 to 14.'
    )
  return int(first), int(last)


class Profile:
  """Context manager for a JAX profile of some steps, on process 0.

  TensorBoard's profile plugin, XProf and Perfetto can read it.
  """

  def __init__(
    self, folder: str | os.PathLike[str], steps: tuple[int, int] | None
  ):
    self._folder = pathlib.Path(folder) / PROFILE_FOLDER
    self._steps = steps if jax.process_index() == 0 else None
    self._is_running = False

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: Any) -> None:
    self._stop()

  def see(self, num_done: int) -> None:
    """Starts or ends the profile; call it when `num_done` steps are reported.

    The next step runs already, so the profile starts one step early.
    """
    if self._steps is None:
      return
    first, last = self._steps
    if not self._is_running and first - 1 <= num_done < last:
      jax.profiler.start_trace(str(self._folder))
      self._is_running = True
    elif num_done >= last:
      self._stop()

  def _stop(self) -> None:
    if not self._is_running:
      if self._steps is not None:
        logging.warning(
          'No profile: the run had no step of %s:%s.', *self._steps
        )
      self._steps = None
      return
    self._is_running, self._steps = False, None
    jax.profiler.stop_trace()
    logging.info('Profile: %s', self._folder)
