# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Encodes the images of items once, for models that take them as vectors.

  python -m launch.encode_images --data=data/antm2c \
    --images=AntM2C_image.tar.gz --out=data/antm2c-images

Streams an archive of ITEM.png and writes `vectors.npy`, float16 [items, X] in
the order of the data's item ids (row 0 is the unknown item), and
`has_image.npy`, bool [items]. `--encoder=module:function` names your own
function uint8 [B, H, W, 3] -> float [B, X], such as a pretrained network; the
built-in one computes mean colors. A second run does nothing.
"""

from collections.abc import Mapping
import dataclasses
import functools
import pathlib
from typing import Annotated, Any

import pyarrow.parquet as pq

from antjax import config_values, paths
from antjax.data import image_tar, output_folder, prepare
from antjax.jobs import script


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to encode, and how."""

  data: Annotated[str, 'Folder of launch/prepare_data.', paths.URL] = ''
  images: Annotated[str, 'Tar archive, compressed or not.', paths.URL] = ''
  out: Annotated[str, 'Folder to create.', paths.URL] = ''
  encoder: Annotated[str, 'Encoder as module:function, see above.'] = (
    'antjax.data.image_tar:mean_colors'
  )
  image_size: Annotated[
    int, 'Height and width in pixels of the images passed to the encoder.'
  ] = 64
  batch_size: Annotated[int, 'Number of images encoded at once.'] = 256
  threads: Annotated[int, 'Number of decoding threads. 0: one per core.'] = 0
  overwrite: Annotated[bool, 'Replace output made with other settings.'] = False

  def __post_init__(self) -> None:
    least = {'image_size': 1, 'batch_size': 1, 'threads': 0}
    config_values.check_least(self, least)


def main(config: Config) -> None:
  """Writes the folder and prints the counts."""
  for name in ('data', 'images', 'out'):
    if not getattr(config, name):
      raise ValueError(f'--{name} is needed; --help says what it is.')
  encoder: image_tar.Encoder = config_values.imported(
    'encoder', config.encoder, 'of uint8 [B, H, W, 3] that gives float [B, X]'
  )
  data, about = output_folder.open_view(config.data, 'examples')
  images = paths.fetched(config.images, 'images')
  if not images.is_file():
    raise FileNotFoundError(f'images={config.images} is no file.')
  ids = data / about['files']['ids_item.parquet']['path']
  made_of = {
    'encoder': config.encoder,
    'image_size': config.image_size,
    'images': prepare.fingerprint([images]),
    'items': prepare.fingerprint([ids]),
  }
  description, is_new = output_folder.make(
    config.out,
    made_of,
    functools.partial(_write, config, images, encoder, about, ids),
    overwrite=config.overwrite,
  )
  print(f'{description["dim"]} numbers an image, {description["encoder"]}')
  script.print_counts(description['counts'])
  if not is_new:
    print(f'{config.out} was complete already: nothing was done.')
  if description['counts']['damaged']:
    print(f'Damaged images are listed in {config.out}/{image_tar.DAMAGED}.')


def _write(
  config: Config,
  images: pathlib.Path,
  encoder: image_tar.Encoder,
  about: Mapping[str, Any],
  ids: pathlib.Path,
  stage: pathlib.Path,
  work: pathlib.Path,
) -> dict[str, Any]:
  del work
  table = pq.read_table(ids)
  items = dict(zip(table['value'].to_pylist(), table['id'].to_pylist()))
  counts, dim = image_tar.encode(
    images,
    items,
    about['num_items'],
    stage,
    encoder,
    image_size=config.image_size,
    batch_size=config.batch_size,
    threads=config.threads,
    progress=script.show_step,
  )
  return {
    'kind': 'images',
    'encoder': config.encoder,
    'dim': dim,
    'num_items': about['num_items'],
    'is_synthetic': bool(about.get('is_synthetic')),
    'counts': {
      **dataclasses.asdict(counts),
      'items_without_image': len(items) - counts.images,
    },
    'files': {
      path.name: output_folder.file_entry(stage, path)
      for path in sorted(stage.iterdir())
    },
  }
