# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Makes a new export from an old one and a delta.

  python -m launch.apply_delta --base=models/day1 --delta=deltas/day2 \
    --out=models/day2

The result is the full export of the new model bit for bit, or an error.
"""

import dataclasses
from typing import Annotated

from antjax import paths
from antjax.serving import delta


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to make of what."""

  base: Annotated[str, 'Export that the delta is based on.', paths.URL] = ''
  delta: Annotated[
    str, 'Folder of the delta, written by launch/export_gmeta.py.', paths.URL
  ] = ''
  out: Annotated[str, 'Folder to create; must not exist.', paths.URL] = ''

  def __post_init__(self) -> None:
    # The defaults stand for flags that were not given yet.
    given = [self.base, self.delta, self.out]
    if any(given) and not all(given):
      raise ValueError('give --base, --delta and --out.')


def main(config: Config) -> None:
  if not config.base:
    raise ValueError('give --base, --delta and --out.')
  delta.apply(config.base, config.delta, config.out)
  print(f'{config.out} is whole: every file is as it was exported.')
