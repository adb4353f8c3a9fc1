# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images become vectors in the order of the items; bad ones are told."""

import csv
import io
import tarfile
import tracemalloc

import numpy as np
from PIL import Image
import pytest

from antjax.data import image_tar

_ITEMS = {'10': 1, '11': 2, '12': 3, '13': 4, '14': 5}


def png(image):
  data = io.BytesIO()
  Image.fromarray(image).save(data, 'png')
  return data.getvalue()


def flat(color, size=16):
  return png(np.full((size, size, 3), color, np.uint8))


def write(path, members, mode='w:gz'):
  with tarfile.open(path, mode) as tar:
    for name, data in members:
      entry = tarfile.TarInfo(name)
      entry.size = len(data)
      tar.addfile(entry, io.BytesIO(data))
  return path


def encode(path, folder, encoder=image_tar.mean_colors, **options):
  folder.mkdir(exist_ok=True)
  counts, dim = image_tar.encode(path, _ITEMS, 6, folder, encoder, **options)
  vectors = np.load(folder / 'vectors.npy')
  assert vectors.dtype == np.float16 and vectors.shape == (6, dim)
  return counts, vectors, np.load(folder / 'has_image.npy')


@pytest.mark.parametrize('mode', ['w:gz', 'w'])
@pytest.mark.parametrize('batch_size', [1, 2, 100])
def test_vectors_are_in_the_order_of_the_items(tmp_path, mode, batch_size):
  broken = flat([1, 2, 3])
  members = [
    ('AntM2C_image/12.png', flat([255, 0, 51])),
    ('AntM2C_image/77.png', b'of no item'),
    ('AntM2C_image/readme.txt', b'text'),
    ('10.png', png(np.full((640, 320), 102, np.uint8))),  # Grey, other size.
    ('12.png', flat([0, 0, 0])),  # Again.
    ('13.png', broken[: len(broken) // 2]),
    ('14.png', b'no image'),
  ]
  path = write(tmp_path / 'images.tar', members, mode)
  counts, vectors, has_image = encode(
    path, tmp_path / 'out', image_size=16, batch_size=batch_size
  )
  assert counts == image_tar.ImageCounts(
    images=2, unknown=1, repeated=1, damaged=2, other=1
  )
  np.testing.assert_array_equal(has_image, [0, 1, 0, 1, 0, 0])
  np.testing.assert_allclose(
    vectors[3].reshape(64, 3), np.tile([1, -1, -0.6], (64, 1)), atol=1e-3
  )
  np.testing.assert_allclose(vectors[1], -0.2, atol=1e-3)
  assert not vectors[[0, 2, 4, 5]].any()
  with open(tmp_path / 'out' / 'damaged.csv', newline='') as file:
    listed = {row['member']: row['reason'] for row in csv.DictReader(file)}
  assert [*listed] == ['13.png', '14.png']
  assert 'UnidentifiedImageError' in listed['14.png']


def test_mean_colors_are_those_of_the_cells():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (3, 16, 24, 3), np.uint8)
  found = image_tar.mean_colors(images).reshape(3, 8, 8, 3)
  for row, column in ((0, 0), (3, 7), (7, 2)):
    cell = images[:, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
    np.testing.assert_allclose(
      found[:, row, column], cell.mean((1, 2)) / 127.5 - 1, rtol=1e-5
    )

  with pytest.raises(
    ValueError, match='16 x 20 pixels; needed: multiples of 8'
  ):
    image_tar.mean_colors(images[:, :, :20])


def test_an_encoder_gets_whole_batches_and_is_checked(tmp_path):
  members = [(f'{item}.png', flat([9, 9, 9])) for item in _ITEMS]
  path = write(tmp_path / 'images.tar', members)
  shapes = []

  def shape(images):
    shapes.append(images.shape)
    assert images.dtype == np.uint8
    return np.ones((len(images), 4))

  _, vectors, _ = encode(
    path, tmp_path / 'out', shape, image_size=32, batch_size=2
  )
  assert shapes == [(2, 32, 32, 3)] * 2 + [(1, 32, 32, 3)]
  assert (vectors[1:] == 1).all()
  widths = iter((1, 2))
  wrong = {
    'needed: .*X': lambda images: np.ones(4),
    'not finite in float16': lambda images: np.full((len(images), 2), 1e6),
    'of 2 numbers, and of 1 before': lambda images: np.ones(
      (len(images), next(widths))
    ),
  }
  for message, encoder in wrong.items():
    with pytest.raises(ValueError, match=message):
      encode(path, tmp_path / 'x', encoder, batch_size=4)


def test_archives_that_are_none_are_refused(tmp_path):
  rng = np.random.default_rng(0)
  members = [
    (f'{item}.png', png(rng.integers(0, 256, (64, 64, 3), np.uint8)))
    for item in _ITEMS
  ]
  path = write(tmp_path / 'images.tar.gz', members)
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match='is no whole tar archive .*behind 1'):
    encode(path, tmp_path / 'a')
  path.write_bytes(b'text')
  with pytest.raises(ValueError, match='is no whole tar archive'):
    encode(path, tmp_path / 'b')
  write(path, [('99.png', flat([0, 0, 0]))])
  with pytest.raises(ValueError, match='no image of any of 5 items'):
    encode(path, tmp_path / 'c')
  with pytest.raises(FileNotFoundError, match='is no file'):
    encode(tmp_path / 'none.tar', tmp_path / 'd')


@pytest.mark.parametrize('mode', ['w:gz', 'w'])
def test_what_becomes_too_large_is_not_read(tmp_path, monkeypatch, mode):
  monkeypatch.setattr(image_tar, '_MAX_BYTES', 10_000)
  monkeypatch.setattr(image_tar, '_MAX_PIXELS', 5_000)
  monkeypatch.setattr(image_tar, '_MAX_WAITING_BYTES', 12_000)
  members = [
    ('10.png', flat([1, 2, 3])),
    ('11.png', bytes(50_000)),
    ('12.png', flat([1, 2, 3], 80)),
    ('13.png', flat([1, 2, 3]) + bytes(9_000)),
    ('14.png', flat([1, 2, 3]) + bytes(9_000)),
  ]
  path = write(tmp_path / 'images.tar', members, mode)
  counts, _, has_image = encode(path, tmp_path / 'out', image_size=16)
  assert counts.images == 3 and counts.damaged == 2
  assert has_image.tolist() == [False, True, False, False, True, True]
  told = (tmp_path / 'out' / 'damaged.csv').read_text()
  assert '50,000 bytes; at most 10,000' in told
  assert '80 x 80 pixels; at most 5,000' in told


@pytest.mark.parametrize('kind', [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_attributes_that_fill_the_memory_are_refused(tmp_path, kind):
  path = tmp_path / 'images.tar.gz'
  with tarfile.open(path, 'w:gz') as tar:
    entry = tarfile.TarInfo('x')
    entry.type, entry.size = kind, 2 << 20
    tar.addfile(entry, io.BytesIO(bytes(entry.size)))
  with pytest.raises(ValueError, match='attributes of 2,097,152 bytes'):
    encode(path, tmp_path / 'out', image_size=16)


def _entry(kind=tarfile.REGTYPE, data=b'', name='x'):
  entry = tarfile.TarInfo(name)
  entry.type, entry.size = kind, len(data)
  return entry.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


_ATTRIBUTE = b'9 a=1234\n' * 10_000
_SPARSE_10 = b''.join(
  b'%d GNU.sparse.%s\n' % (len(text) + 15, text)
  for text in (b'major=1', b'minor=0')
)
_LARGE = {
  'attributes_in_a_row': _entry(tarfile.XHDTYPE, _ATTRIBUTE) * 20,
  'attributes_of_all': (_entry(tarfile.XGLTYPE, _ATTRIBUTE) + _entry()) * 20,
  'empty_ones_in_a_row': _entry(tarfile.XHDTYPE) * 2000,
  'sparse': _entry(tarfile.GNUTYPE_SPARSE),
  'sparse_in_attributes': (
    _entry(tarfile.XHDTYPE, _SPARSE_10) + _entry(data=b'1\n')
  ),
}


@pytest.mark.parametrize('kind', _LARGE)
def test_headers_that_fill_the_memory_are_refused(tmp_path, kind):
  path = tmp_path / 'images.tar'
  path.write_bytes(_LARGE[kind] + _entry() + bytes(1024))
  why = 'sparse file' if 'sparse' in kind else 'attributes of|recursion'
  with pytest.raises(ValueError, match=f'no whole tar archive .*({why})'):
    encode(path, tmp_path / 'out', image_size=16)


def test_many_members_take_no_memory(tmp_path):
  path = tmp_path / 'images.tar'
  image = flat([1, 2, 3], 16)
  last = _entry(data=image, name='10.png') + bytes(1024)
  path.write_bytes(_entry(name='a.txt') * 8000 + last)
  tracemalloc.start()
  try:
    counts, *_ = encode(path, tmp_path / 'out', image_size=16)
    _, most = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert counts.other == 8000 and counts.images == 1
  assert most < 2 << 20  # Took 0.5 kB each.
