# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""pytorch_model.bin: read as PyTorch wrote it; a program in it is not run.

  python -m tests.lm.torch_file_test

writes golden/torch_file.bin with PyTorch.
"""

import collections
import json
import os
import pathlib
import pickle
import shutil
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from antjax.lm import torch_file
from antjax.lm.safetensors_file import SafetensorsFolder

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'torch_file.bin'
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_tensors_are_those_that_pytorch_saved(tmp_path):
  shutil.copy(GOLDEN, tmp_path / 'pytorch_model.bin')
  folder = SafetensorsFolder(tmp_path)
  found = {name: folder.read(name) for name in folder.shapes}
  assert {name: x.shape for name, x in found.items()} == folder.shapes
  half, bf16 = found.pop('half'), found.pop('bf16')
  assert (half.dtype, bf16.dtype) == (np.float16, jnp.bfloat16)
  assert half.tolist() == bf16.tolist() == [1.5, -2]
  assert found.pop('empty').shape == (0, 3)
  assert found.pop('scalar') == 7
  for name, array in {
    'matrix': MATRIX,
    'turned': MATRIX.T,
    'part': MATRIX[1:, 2:],
    'parameter': MATRIX,
    'ints': MATRIX.astype(np.int64),
  }.items():
    np.testing.assert_array_equal(found.pop(name), array)
  assert not found
  piece = folder.read('turned', (slice(1, 3), slice(0, 2)))
  np.testing.assert_array_equal(piece, MATRIX.T[1:3, :2])


def test_an_index_names_several_files(tmp_path):
  shutil.copy(GOLDEN, tmp_path / 'pytorch_model-1.bin')
  where = {'weight_map': {'matrix': 'pytorch_model-1.bin'}}
  path = tmp_path / 'pytorch_model.bin.index.json'
  path.write_text(json.dumps(where))
  found = SafetensorsFolder(tmp_path).read('matrix')
  np.testing.assert_array_equal(found, MATRIX)
  where['weight_map']['lost'] = 'pytorch_model-1.bin'
  path.write_text(json.dumps(where))
  with pytest.raises(ValueError, match='no file has, the first: lost'):
    SafetensorsFolder(tmp_path)


class Program:
  def __reduce__(self):
    return os.system, ('touch was-here',)


@pytest.mark.parametrize(
  'content, message',
  [
    (pickle.dumps(Program(), 2), r'calls \w+\.system'),
    (pickle.dumps(Program(), 4), r'calls \w+\.system'),
    (pickle.dumps({'a': collections.Counter()}, 2), 'calls collections.Count'),
    (pickle.dumps({'a': 3}, 2), "'a' is no tensor"),
    (pickle.dumps([], 2), 'no dict of tensors'),
    (pickle.dumps(bytearray(3), 5), 'operation BYTEARRAY8'),
    (pickle.dumps({}, 2)[:-1], 'not enough|exhausted'),
    (b'\x80\x02b.', 'pop from empty'),
  ],
)
def test_a_program_is_not_run(tmp_path, monkeypatch, content, message):
  monkeypatch.chdir(tmp_path)
  with zipfile.ZipFile('x.bin', 'w') as archive:
    archive.writestr('x/data.pkl', content)
  with pytest.raises(ValueError, match=message):
    torch_file.load(pathlib.Path('x.bin'))
  assert [p.name for p in tmp_path.iterdir()] == ['x.bin']


def _changed(path, change):
  """A copy of the golden file, entries changed by a function of their name."""
  with zipfile.ZipFile(GOLDEN) as old, zipfile.ZipFile(path, 'w') as new:
    for name in old.namelist():
      new.writestr(name, change(name, old.read(name)))
  return path


def test_damage(tmp_path):
  path = tmp_path / 'x.bin'
  short = _changed(path, lambda name, x: x[:4] if '/data/' in name else x)
  with pytest.raises(ValueError, match='longer than its entry'):
    torch_file.load(short)
  big = _changed(path, lambda name, x: b'big' if 'byteorder' in name else x)
  with pytest.raises(ValueError, match='big-endian'):
    torch_file.load(big)
  path.write_bytes(GOLDEN.read_bytes()[:-9])
  with pytest.raises(ValueError, match='PyTorch 1.6 .*save_pretrained'):
    torch_file.load(path)


def main():
  import torch

  matrix = torch.from_numpy(MATRIX)
  tensors = collections.OrderedDict(
    matrix=matrix,
    turned=matrix.T,
    part=matrix[1:, 2:],
    parameter=torch.nn.Parameter(matrix),
    ints=matrix.long(),
    half=torch.tensor([1.5, -2]).half(),
    bf16=torch.tensor([1.5, -2]).bfloat16(),
    scalar=torch.tensor(7),
    empty=torch.zeros(0, 3),
  )
  tensors._metadata = {'': {'version': 1}}
  torch.save(tensors, GOLDEN)


if __name__ == '__main__':
  main()
