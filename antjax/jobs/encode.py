# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Encodes texts with a sentence encoder, on one host or several.

  python -m launch.encode --model=data/minilm --texts=titles.parquet \
    --column=title --out=data/title-vectors

Writes one vector per text to vectors/part-*.parquet (columns: row, that of
--id_column if given, vector) or, with --format=tensorstore, to vectors.zarr, a
zarr3 array [texts, D]. All else is as the model's own files say.

Texts are encoded in parts of --part_rows rows, each written atomically. A
killed run resumes with the missing parts. Several processes share the parts,
and --out must be on a shared disk. See docs/encode.md.
"""

from collections.abc import Container, Iterator, Sequence
from concurrent import futures
import dataclasses
import functools
import json
import pathlib
import shutil
from typing import Annotated, Any, Literal

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax import paths
from antjax.data import output_folder, prepare, table_source
from antjax.jobs import distributed, encode_source, script
from antjax.lm import hub
from antjax.report.progress import Progress
from antjax.serving.sentence import SentenceEncoder

define_flags = distributed.define_flags
_CHUNK_ROWS = 1024  # Of the array; parts are of whole chunks.
_PARTS, _ARRAY, _DONE = 'vectors', 'vectors.zarr', 'done'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to encode with what, and where to."""

  model: Annotated[
    str,
    'Folder of a model (see fetch_model), or hf://org/name.',
    paths.MODEL_URL,
  ] = 'data/minilm'
  texts: Annotated[
    str,
    'File of texts: .txt with one text per line, or .parquet or .csv with a'
    ' text column; or a folder of such files of one type.',
    paths.URL,
  ] = ''
  column: Annotated[str, 'Column with the texts.'] = 'text'
  id_column: Annotated[
    str, 'Column to copy next to the vectors, with --format=parquet.'
  ] = ''
  out: Annotated[str, 'Folder to create, or to resume.'] = ''
  format: Annotated[
    Literal['parquet', 'tensorstore'], 'Format of the vectors.'
  ] = 'parquet'
  dtype: Annotated[
    Literal['float32', 'float16'], 'Dtype of the vectors in the files.'
  ] = 'float32'
  compute_dtype: Annotated[
    Literal['float32', 'bfloat16'], 'Dtype of the computation.'
  ] = 'float32'
  pooling: Annotated[
    tuple[str, ...],
    'How the outputs of the tokens of a text are pooled: cls, max, mean,'
    ' mean_sqrt_len_tokens, weightedmean or lasttoken. Several are'
    ' concatenated. Empty: as the model specifies.',
  ] = ()
  normalize: Annotated[
    bool, 'Scale vectors to length 1, even if the model does not.'
  ] = False
  prompt_name: Annotated[
    str | None,
    'Prompt of the model before each text. none: its default prompt.',
  ] = None
  prompt: Annotated[
    str | None,
    'Text before each text. Empty: none. none: that of --prompt_name.',
  ] = None
  truncate_dim: Annotated[
    int | None,
    'Number of dimensions to keep, the first ones (Matryoshka). Normalized'
    ' vectors are normalized again. none: all, or as the model specifies.',
  ] = None
  max_tokens: Annotated[
    int | None,
    "Maximum tokens per text; the rest is cut. none: the model's limit.",
  ] = None
  part_rows: Annotated[
    int,
    'Texts that are encoded and written together; a killed process loses at'
    f' most these. With --format=tensorstore a multiple of {_CHUNK_ROWS}.',
  ] = 64 * _CHUNK_ROWS
  tokens_per_batch: Annotated[
    int | None,
    'Tokens that a device encodes at once. none: 2,048 on CPU, else 32,768.',
  ] = None
  overwrite: Annotated[bool, 'Replace what was made otherwise.'] = False

  def __post_init__(self) -> None:
    is_array = self.format == 'tensorstore'
    if self.part_rows < 1 or (is_array and self.part_rows % _CHUNK_ROWS):
      raise ValueError(
        f'part_rows={self.part_rows} must be at least 1, and with'
        f' format=tensorstore a multiple of {_CHUNK_ROWS}.'
      )
    if self.id_column and (is_array or self.id_column in ('row', 'vector')):
      raise ValueError(
        f'id_column={self.id_column}: rename it if it is row or vector, columns'
        ' of ours; an array has no ids: use format=parquet.'
      )


# Flags that decide what the vectors are, and where they stand.
_OF_ENCODER = 'normalize prompt_name prompt truncate_dim max_tokens'.split()
_DECIDING = _OF_ENCODER + [
  *('column', 'id_column', 'format', 'dtype', 'compute_dtype', 'part_rows'),
]


# Number and rows of texts that follow each other, `part_rows` of them but for
# the last part; the rows have the columns that were asked for.
Part = tuple[int, pa.Table]


def main(config: Config) -> None:
  """Encodes this process's parts, and says how many texts there are."""
  for name in ('model', 'texts', 'column', 'out'):
    if not getattr(config, name):
      raise ValueError(f'--{name} is needed; --help says what it is.')
  script.stop_request.install()
  distributed.initialize()
  out = paths.local(config.out, 'out')
  sources = [*table_source.find_files(paths.fetched(config.texts, 'texts'))]
  total = sum(num for num, _ in _pieces(sources, config))
  if not total:
    raise ValueError(f'--texts={config.texts} holds no texts; needed is one.')
  encoder = SentenceEncoder(
    config.model,
    poolings=config.pooling,
    **{name: getattr(config, name) for name in _OF_ENCODER},
    dtype=config.compute_dtype,
    tokens_per_batch=config.tokens_per_batch,
  )
  about = {'kind': 'vectors', 'rows': total, 'dim': encoder.dim}
  if jax.process_index() == 0:
    _begin(out, about | {'config': _made_of(config, sources)}, config.overwrite)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('antjax-encode')
  kind = _ArrayWriter if config.format == 'tensorstore' else _ParquetWriter
  writer = kind(out, total, encoder.dim, config)
  count = -(-total // config.part_rows)
  starts = range(0, total, config.part_rows)
  sizes = [min(config.part_rows, total - start) for start in starts]
  mine = range(jax.process_index(), count, jax.process_count())
  missing = {number for number in mine if not writer.has(number)}
  done = sum(sizes[number] for number in {*mine} - missing)
  num_empty = _encode(
    _parts(sources, config, missing),
    encoder,
    writer,
    (done, sum(sizes[number] for number in mine)),
  )
  for num, what in (
    (encoder.tokenizer.num_cut, f'cut to max_tokens={encoder.max_tokens}'),
    (num_empty, 'empty; their vectors are zeros'),
  ):
    if num:
      logging.warning('%d texts were %s.', num, what)
  if all(map(writer.has, range(count))):
    files = output_folder.list_files(out)
    del files[output_folder.DESCRIPTION]
    _describe(out, output_folder.load_description(out) | {'files': files})
    print(f'{out}: {total:,} vectors of {encoder.dim} {config.dtype}.')


def _made_of(config: Config, files: Sequence[pathlib.Path]) -> dict[str, Any]:
  """All that decides the content of the folder."""
  model = hub.local(config.model)
  of_model = [model]
  if model.is_dir():
    kinds = ('.json', '.safetensors', '.bin', '.gguf')
    of_model = sorted(p for p in model.rglob('*') if p.suffix in kinds)
  return {
    **{name: getattr(config, name) for name in _DECIDING},
    'pooling': list(config.pooling),
    'texts': prepare.fingerprint(files),
    'model': prepare.fingerprint(of_model),
  }


def _begin(out: pathlib.Path, about: dict[str, Any], overwrite: bool) -> None:
  """Makes the folder, or finds that it was made of the same."""
  if overwrite and (out / output_folder.DESCRIPTION).is_file():
    if output_folder.load_description(out).get('kind') == about['kind']:
      for name in (_PARTS, _ARRAY, _DONE):
        shutil.rmtree(out / name, ignore_errors=True)
      (out / output_folder.DESCRIPTION).unlink()
  if not output_folder.is_current(out, about['config'], overwrite=False):
    out.mkdir(parents=True, exist_ok=True)
    _describe(out, {**about, 'files': {}})


def _describe(out: pathlib.Path, description: dict[str, Any]) -> None:
  with paths.replaced(out / output_folder.DESCRIPTION) as path:
    text = json.dumps(description, indent=2, ensure_ascii=False)
    path.write_text(text + '\n', encoding='utf-8')


def _encode(
  parts: Iterator[Part],
  encoder: SentenceEncoder,
  writer: '_ParquetWriter',
  share: tuple[int, int],
) -> int:
  """Encodes and writes parts; returns how many texts were empty.

  `share` is how many texts of this process are done, and all of them.
  """
  done, total = share
  num_empty = 0

  def ready() -> Any:
    part = next(parts, None)
    if part is None:
      return None
    texts = [text or '' for text in part[1].column(0).to_pylist()]
    return part, encoder.tokens(texts), texts.count('')

  with (
    script.stop_request.deferred(),
    Progress(total, start_step=done, name='encode', unit='texts') as progress,
    futures.ThreadPoolExecutor(1) as thread,
  ):
    # The next part is read and tokenized while one is on the devices.
    following = thread.submit(ready)
    while (found := following.result()) is not None:
      following = thread.submit(ready)
      part, (tokens, offsets), empty = found
      show = functools.partial(progress.advance_to, start=done)
      writer.write(part, encoder(tokens, offsets, show))
      done += len(part[1])
      num_empty += empty
      progress.advance_to(done)
      if script.stop_request():
        break
  return num_empty


def _parts(
  files: Sequence[pathlib.Path], config: Config, wanted: Container[int]
) -> Iterator[Part]:
  """The wanted parts, in order; of Parquet their row groups alone are read."""
  size, row = config.part_rows, 0
  held: list[pa.Table] = []
  for num, read in _pieces(files, config):
    numbers = range(row // size, -(-(row + num) // size))
    inside = [number for number in numbers if number in wanted]
    table = read() if inside else pa.table({})
    for number in inside:
      start = max(0, number * size - row)
      held.append(table.slice(start, (number + 1) * size - row - start))
      if (number + 1) * size <= row + num:
        yield number, _joined(held, config)
        held = []
    row += num
  if held:
    yield row // size, _joined(held, config)


def _pieces(
  files: Sequence[pathlib.Path], config: Config
) -> Iterator[encode_source.Piece]:
  columns = [*dict.fromkeys(filter(None, (config.column, config.id_column)))]
  for path in files:
    yield from encode_source.pieces(path, columns)


def _joined(tables: list[pa.Table], config: Config) -> pa.Table:
  try:
    return pa.concat_tables(tables, promote_options='permissive')
  except pa.ArrowException as error:
    raise ValueError(
      f'--texts={config.texts}: column {config.id_column!r} has several types'
      f' in its files ({error}); needed is one, see --id_column.'
    ) from error


class _ParquetWriter:
  """Writes each part to a file of its own."""

  _folder, _name = _PARTS, 'part-{:05}.parquet'

  def __init__(self, out: pathlib.Path, total: int, dim: int, config: Config):
    del total, dim
    self._out, self._config = out, config
    (out / self._folder).mkdir(exist_ok=True)

  def _path(self, number: int) -> pathlib.Path:
    return self._out / self._folder / self._name.format(number)

  def has(self, number: int) -> bool:
    return self._path(number).is_file()

  def write(self, part: Part, vectors: np.ndarray) -> None:
    first = part[0] * self._config.part_rows
    flat = pa.array(vectors.astype(self._config.dtype).ravel())
    columns = {'row': pa.array(range(first, first + len(vectors)), pa.int64())}
    if name := self._config.id_column:
      columns[name] = part[1].column(name)
    columns['vector'] = pa.FixedSizeListArray.from_arrays(
      flat, vectors.shape[1]
    )
    with paths.replaced(self._path(part[0])) as path:
      pq.write_table(pa.table(columns), path)


class _ArrayWriter(_ParquetWriter):
  """Writes parts to one array; a file in `done` says that one is whole."""

  _folder, _name = _DONE, '{:05}'

  def __init__(self, out: pathlib.Path, total: int, dim: int, config: Config):
    import tensorstore  # Slow, and few need it.

    super().__init__(out, total, dim, config)
    chunk = {'chunk_shape': [_CHUNK_ROWS, dim]}
    spec = {
      'driver': 'zarr3',
      'kvstore': {'driver': 'file', 'path': f'{out.absolute() / _ARRAY}/'},
      'metadata': {
        'shape': [total, dim],
        'data_type': config.dtype,
        'chunk_grid': {'name': 'regular', 'configuration': chunk},
      },
    }
    self._array = tensorstore.open(spec, open=True, create=True).result()

  def write(self, part: Part, vectors: np.ndarray) -> None:
    first = part[0] * self._config.part_rows
    rows = self._array[first : first + len(vectors)]
    rows.write(vectors.astype(self._config.dtype)).result()
    self._path(part[0]).touch()
