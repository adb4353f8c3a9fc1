# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Makes a new export from an old one and the deltas after it.

  python -m launch.apply_delta --base=models/day1 --deltas=deltas \
    --out=models/day2

The result is the model that a server has after these deltas, bit for bit. A
server of it takes the deltas to come; those before are no longer needed.
"""

import dataclasses
from typing import Annotated

from antjax import paths
from antjax.serving import delta, exporter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to make of what."""

  base: Annotated[str, 'Export that the deltas follow.', paths.URL] = ''
  deltas: Annotated[str, 'Folder of the deltas.', paths.URL] = ''
  out: Annotated[str, 'Folder to create; must not exist.', paths.URL] = ''

  def __post_init__(self) -> None:
    # The defaults stand for flags that were not given yet.
    given = [self.base, self.deltas, self.out]
    if any(given) and not all(given):
      raise ValueError('give --base, --deltas and --out.')


def main(config: Config) -> None:
  if not config.base:
    raise ValueError('give --base, --deltas and --out.')
  exporter.check_new(config.out)  # Before the work.
  now = delta.opened(config.base, config.deltas)
  delta.apply(now, config.out)
  number = now.live.version['sequence']
  print(f'{config.out} is {config.base} after delta {number}.')
