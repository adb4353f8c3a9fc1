# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Makes synthetic click logs in the format of AntM2C's files.

  python -m launch.make_antm2c_synthetic --out=data/antm2c-synthetic

Writes CSV parts of any size in bounded memory, an archive of small images, and
a file with the true probabilities of the clicks. docs/antm2c.md describes the
effects in the data. The data are made up: no figure measured on them says
anything about AntM2C itself, and reports must say so.
"""

import dataclasses
import time
from typing import Annotated

from antjax.data import antm2c_synthetic, antm2c_synthetic_files
from antjax.jobs import script


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to make."""

  out: Annotated[str, 'Folder to create.'] = 'data/antm2c-synthetic'
  image_size: Annotated[
    int, 'Height and width of images in pixels, a multiple of 8. 0: no images.'
  ] = 32
  synthetic: antm2c_synthetic.SyntheticConfig = (
    antm2c_synthetic.SyntheticConfig()
  )


def main(config: Config) -> None:
  """Writes the files and says how fast."""
  start = time.perf_counter()
  parts = antm2c_synthetic_files.write(
    config.out,
    config.synthetic,
    image_size=config.image_size,
    progress=script.show_step,
  )
  took = time.perf_counter() - start
  size = sum(path.stat().st_size for path in parts)
  num_rows = config.synthetic.num_rows
  print(
    f'{num_rows:,} synthetic rows, {size / 1e6:,.0f} MB in {len(parts)} parts:'
    f' {took:.1f} s, {num_rows / took:,.0f} rows/s.'
  )
