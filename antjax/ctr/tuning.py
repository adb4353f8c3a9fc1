# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Selects the trained parameters of a language model in a recommender.

Its leaves are named 'lm. ...', or, in a BAHE tower, 'tower.lm. ...' or
'tower.low. ...' and 'tower.high. ...'. All others belong to the head, which is
always trained.
"""

from collections.abc import Callable
import pathlib
import re
import shutil
from typing import Any, Literal

from flax import nnx
import jax

from antjax.lm import adapter_file, config_json, lora, quantized

PyTree = Any
Tuning = Literal['full', 'lora', 'none']

_LM = re.compile(r'^(lm|tower\.(high|low|lm))\.')
# Adapters, and places of behaviors, which are not pretrained.
_NEW = re.compile(rf'{lora.PATTERN}|\.behavior_positions$')


def is_lm(name: str) -> bool:
  """Whether a leaf belongs to the language model, by name, or to the head."""
  return _LM.match(name) is not None


def trainable(tuning: Tuning) -> Callable[[str], bool]:
  """Function for Trainer(trainable=...), of the names of a model's leaves.

  Trains all layers of the language model, only adapters, or none, but never a
  low half.
  """

  def is_trained(name: str) -> bool:
    if name.startswith('tower.low.'):
      return False
    if not is_lm(name) or tuning == 'full':
      return True
    return tuning == 'lora' and _NEW.search(name) is not None

  return is_trained


def _part(model: nnx.Module, *paths: str) -> Any:
  """The first existing part of a model that has layers, or None."""
  for path in paths:
    part: Any = model
    for name in path.split('.'):
      part = getattr(part, name, None)
    if hasattr(part, 'layers'):
      return part
  return None


def _trained(model: nnx.Module) -> Any:
  part = _part(model, 'lm', 'tower.high', 'tower.lm')
  if part is None:
    raise ValueError(
      'tuning=lora: this tower has no layers to put adapters in; use'
      ' tuning=none.'
    )
  return part


def add_lora(
  model: nnx.Module, *, adapter: str = '', rngs: nnx.Rngs, **options: Any
) -> None:
  """Adds adapters to a model's trained layers.

  They start from the folder `adapter`, see `adapter_file`; '': new ones, by
  options of `lora.add`.

  Raises:
    ValueError: The tower trains no layers, or Hugging Face has no family for
      adapters of its model; also as for `lora.add` and `adapter_file.load`.
  """
  part = _trained(model)
  try:
    config_json.write_config(part.config)
  except ValueError as error:
    raise ValueError(
      'tuning=lora: the adapters could not be saved at the end; use tuning=full'
      f' or none ({error}).'
    ) from error
  if adapter:
    adapter_file.load(adapter, part, getattr(part, 'num_low', 0))
  else:
    lora.add(part, rngs=rngs, **options)


def save_adapter(
  folder: pathlib.Path, model: nnx.Module, base_model: str
) -> None:
  """Writes a model's adapters for PEFT, replacing earlier ones."""
  part = _trained(model)
  shutil.rmtree(folder, ignore_errors=True)
  adapter_file.save(folder, part, getattr(part, 'num_low', 0), base_model)


def quantize(model: nnx.Module, kind: quantized.Kind, tuning: Tuning) -> None:
  """Quantizes the matrices of frozen layers; call it before `add_lora`.

  Raises:
    ValueError: No layers are frozen.
  """
  parts = [_part(model, 'tower.low')]
  if tuning != 'full':
    parts.append(_part(model, 'lm', 'tower.high', 'tower.lm'))
  frozen = [part for part in parts if part is not None]
  if not frozen:
    raise ValueError(
      f'quantize={kind}: all layers here are trained; needed are frozen ones,'
      ' by tuning=lora or none.'
    )
  for part in frozen:
    quantized.quantize(part.layers, kind)


def frozen_share(
  params: PyTree, is_trained: Callable[[str], bool], num_absent: int = 0
) -> float:
  """Share of the parameters, arrays or their shapes, that are not trained.

  `is_trained` takes the name of a leaf; `num_absent` are frozen parameters that
  are not in memory.
  """
  sizes = [
    (is_trained(_name(path)), x.size)
    for path, x in jax.tree.leaves_with_path(params)
  ]
  frozen = num_absent + sum(size for trained, size in sizes if not trained)
  return frozen / max(num_absent + sum(size for _, size in sizes), 1)


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='.')
