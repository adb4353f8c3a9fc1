# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tensors of a Hugging Face folder, read piece by piece."""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any

import numpy as np
import safetensors

FILE_NAME = 'model.safetensors'
INDEX_NAME = 'model.safetensors.index.json'


class SafetensorsFolder:
  """The tensors of model.safetensors, or of the files that its index names.

  Attributes:
    shapes: Name -> shape of all tensors.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    """Opens the files; reads no tensor.

    Raises:
      FileNotFoundError: A file is not there.
      ValueError: A file is damaged, or lacks what the index says.
    """
    folder = pathlib.Path(folder)
    self._files: dict[str, Any] = {}
    index = folder / INDEX_NAME
    if (folder / FILE_NAME).is_file():
      where = None
      names = {FILE_NAME}
    elif index.is_file():
      where = _weight_map(index)
      names = set(where.values())
    else:
      raise FileNotFoundError(
        f'{folder} holds neither {FILE_NAME} nor {INDEX_NAME}; weights in other'
        " formats must be saved by transformers' save_pretrained first."
      )
    for name in sorted(names):
      path = folder / name
      if not path.is_file():
        raise FileNotFoundError(
          f'{path} is not there, but {INDEX_NAME} has it.'
        )
      try:
        file = safetensors.safe_open(path, framework='np')
      except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
          f'{path} is no whole safetensors file ({error}).'
        ) from error
      self._files |= dict.fromkeys(file.keys(), file)
    lost = sorted(set(where or ()) - set(self._files))
    if lost:
      raise ValueError(
        f'{index} names {len(lost)} tensors that no file has, the first:'
        f' {lost[0]}.'
      )
    self.shapes: Mapping[str, tuple[int, ...]] = {
      name: tuple(file.get_slice(name).get_shape())
      for name, file in self._files.items()
    }

  def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
    """A tensor's piece, in the dtype of the file."""
    if not self.shapes[name] or not index:
      return np.asarray(self._files[name].get_tensor(name))
    return np.asarray(self._files[name].get_slice(name)[index])


def _weight_map(path: pathlib.Path) -> dict[str, str]:
  try:
    weight_map = json.loads(path.read_text(encoding='utf-8'))['weight_map']
    # Only the last part of a name: it cannot leave the folder.
    return {k: pathlib.PurePosixPath(v).name for k, v in weight_map.items()}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{path} is no index of safetensors ({error}).') from error
