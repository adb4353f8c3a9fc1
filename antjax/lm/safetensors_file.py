# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tensors of a Hugging Face folder, read piece by piece.

Reads safetensors, or otherwise files saved by PyTorch.
"""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
from typing import Any

import numpy as np
import safetensors

from antjax.lm import torch_file

FILE_NAME = 'model.safetensors'
INDEX_NAME = 'model.safetensors.index.json'
TORCH_NAME = 'pytorch_model.bin'


class SafetensorsFolder:
  """The tensors of model.safetensors, or of the files in its index.

  If there is neither, those of pytorch_model.bin or its index.

  Attributes:
    shapes: Name -> shape of all tensors.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    kinds: Sequence[str] = (FILE_NAME, TORCH_NAME),
  ):
    """Opens the files of the first of `kinds` that exists; reads no tensor.

    Raises:
      FileNotFoundError: A file is missing.
      ValueError: A file is damaged, or lacks tensors of the index.
    """
    folder = pathlib.Path(folder)
    self._files: dict[str, Any] = {}
    self._arrays: dict[str, np.ndarray] = {}
    known = [name for kind in kinds for name in (kind, f'{kind}.index.json')]
    first = next((name for name in known if (folder / name).is_file()), None)
    if first is None:
      raise FileNotFoundError(
        f'{folder} holds none of {", ".join(known)}; weights in other formats'
        " must be saved by transformers' save_pretrained first."
      )
    index, where, names = folder / first, None, {first}
    if first not in kinds:
      where = _weight_map(index)
      names = set(where.values())
    for name in sorted(names):
      path = folder / name
      if not path.is_file():
        raise FileNotFoundError(
          f'{path} is not there, but {index.name} has it.'
        )
      if path.suffix == '.bin':
        self._arrays |= torch_file.load(path)
        continue
      try:
        file = safetensors.safe_open(path, framework='np')
      except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
          f'{path} is no whole safetensors file ({error}).'
        ) from error
      self._files |= dict.fromkeys(file.keys(), file)
    lost = sorted({*(where or ())} - {*self._files, *self._arrays})
    if lost:
      raise ValueError(
        f'{index} names {len(lost)} tensors that no file has, the first:'
        f' {lost[0]}.'
      )
    self.shapes: Mapping[str, tuple[int, ...]] = {
      name: tuple(file.get_slice(name).get_shape())
      for name, file in self._files.items()
    } | {name: array.shape for name, array in self._arrays.items()}

  def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
    """A tensor's piece, in the dtype of the file."""
    if name in self._arrays:
      return np.array(self._arrays[name][index])
    if not self.shapes[name] or not index:
      return np.asarray(self._files[name].get_tensor(name))
    return np.asarray(self._files[name].get_slice(name)[index])


def _weight_map(path: pathlib.Path) -> dict[str, str]:
  try:
    weight_map = json.loads(path.read_text(encoding='utf-8'))['weight_map']
    # Only the last part of a name, which cannot leave the folder.
    return {k: pathlib.PurePosixPath(v).name for k, v in weight_map.items()}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{path} is no index of safetensors ({error}).') from error
