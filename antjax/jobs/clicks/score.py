# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Scores new rows with a model of launch/train_clicks.py.

  python -m launch.score_clicks --model=runs/clicks --input=new.csv \
    --out=scores.csv

`--input` is a file or a folder of files in the format of the training log, CSV
or Parquet, or JSON: an object, a list of objects, or one per line (.jsonl).
Columns are matched by name; the model ignores others, and the label is not
needed. `--out` has one line per valid row: its index in the input from 0, user
and item, the score (a probability) and its logit. Unreadable rows are listed
next to it with line, column and reason.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import pathlib
import tempfile
from typing import Annotated, Any, ClassVar

from etils import epath
import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv
import pyarrow.parquet as pq

from antjax import paths
from antjax.data import table_source
from antjax.data.csv_blocks import Dialect
from antjax.data.rejects import Rejects
from antjax.data.row_writer import ROW
from antjax.data.table_columns import Kind, TableColumns
from antjax.jobs.clicks import export
from antjax.report import terminal
from antjax.serving import loader
from antjax.serving.click_loader import ClickScorer, PREDICTION, SCORE

_JSON = ('.json', '.jsonl')
_BLOCK = 1 << 16  # Rows scored at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to score, and with what."""

  model: Annotated[
    str,
    'Run folder of launch/train_clicks.py, or its folder export.',
    paths.URL,
  ] = 'runs/clicks'
  input: Annotated[str, 'Rows: .csv, .tsv, .txt, .parquet, .json, .jsonl.'] = ''
  out: Annotated[str, 'File to write: .csv or .parquet.'] = 'scores.csv'

  def __post_init__(self) -> None:
    if pathlib.Path(self.out).suffix not in ('.csv', '.parquet'):
      raise ValueError(f'out={self.out}: must end in .csv or .parquet.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows(TableColumns):
  """Rows to score, as `table_source` reads them."""

  needed: tuple[str, ...] = ()
  limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
  known: tuple[str, ...] = ()
  label = split_column = ''
  labels: tuple[str, ...] = ()
  lists: ClassVar[Mapping[str, tuple[str, ...]]] = {}

  @property
  def used(self) -> list[str]:
    return list(self.known)


def main(config: Config) -> None:
  """Scores all rows, and says what was unseen or set aside."""
  if not config.input:
    raise ValueError('score_clicks: name the rows with --input.')
  model = ClickScorer(_folder(config.model))
  out = pathlib.Path(config.out)
  rejected = out.with_name(f'{out.name}.rejected.csv')
  rejected.unlink(missing_ok=True)
  rejects = Rejects(rejected, 1.0)
  num_rows, unseen = 0, dict[str, int]()
  out.parent.mkdir(parents=True, exist_ok=True)
  unfinished = out.with_name(f'.{out.name}.new')
  writer: Any = None
  for table in tables(model, config.input, rejects):
    rows = table.drop_columns(ROW)
    scores, new = model.score(columns(rows))
    for name, count in new.items():
      unseen[name] = unseen.get(name, 0) + count
    found = {'row': table[ROW]}
    for role in ('user', 'item'):
      if column := model.clicks[role]:
        found[column] = table[column]
    for name, logits in scores.items():
      name = SCORE if name == PREDICTION else name
      found[name] = 1 / (1 + np.exp(-logits.astype(np.float64)))
      found[f'{name}_logit'] = logits
    table = pa.table(found)
    if writer is None:
      kind = arrow_csv.CSVWriter if out.suffix == '.csv' else pq.ParquetWriter
      writer = kind(str(unfinished), table.schema)
    writer.write_table(table)
    num_rows += len(table)
  if writer is not None:
    writer.close()
    unfinished.replace(out)
  terminal.show(f'{num_rows:,} rows scored: {out}')
  for name, count in unseen.items():
    if count:
      terminal.show(f'{name}: {count:,} rows have a value unknown to training')
  if rejects.num_rows:
    terminal.show(f'{rejects.num_rows:,} rows are set aside: {rejected}')


def _folder(name: str) -> pathlib.Path:
  """The export in a run folder, or the folder itself."""
  paths.check(name, 'model')
  for inside in ('', export.FOLDER, f'seed_0/{export.FOLDER}'):
    if (epath.Path(name) / inside / loader.MANIFEST).exists():
      return paths.fetched(epath.Path(name) / inside, 'model')
  raise FileNotFoundError(
    f'model={name} holds no model; launch/train_clicks.py writes one to'
    f' RUN_DIR/seed_0/{export.FOLDER} at its end, or says in its log why it'
    ' cannot (fields.time=gap, say).'
  )


def tables(
  model: ClickScorer,
  name: str,
  rejects: Rejects,
  labels: Mapping[str, Kind] | None = None,
) -> Iterator[pa.Table]:
  """The good rows of all files in pieces, with `ROW` and labels of a type."""
  with tempfile.TemporaryDirectory() as work:
    source = pathlib.Path(name)
    if source.suffix in _JSON:
      out = pathlib.Path(work) / f'{source.name}.parquet'
      kinds = {k: v['type'] for k, v in model.clicks['columns'].items()}
      source = _from_json(source, out, kinds)
    files = table_source.find_files(source)
    folder = pathlib.Path(work) / 'parts'
    folder.mkdir()
    layout = _layout(model, next(iter(files)), labels or {})
    table_source.read(files, layout, folder, rejects)  # type: ignore[arg-type]
    for path in sorted(folder.glob('*.parquet')):
      for batch in pq.ParquetFile(path, pre_buffer=False).iter_batches(_BLOCK):
        yield pa.Table.from_batches([batch])


def _layout(
  model: ClickScorer, path: pathlib.Path, labels: Mapping[str, Kind]
) -> _Rows:
  """What the columns of a file must hold.

  Raises:
    ValueError: A column that the model needs is missing.
  """
  about = model.clicks
  log = about['log']
  dialect = Dialect(
    '\t' if '.tsv' in path.suffixes else log['delimiter'],
    log['quote'],
    log.get('encoding', 'utf-8'),
  )
  there = [*log['columns']]
  if path.suffix == '.parquet' or log['header']:
    there = table_source.names(path, dialect)
  needed = [*about['needed'], *labels]
  if missing := [n for n in needed if n not in there]:
    raise ValueError(
      f'{path}: the columns {", ".join(missing)} are missing; the model needs'
      f' {", ".join(needed)}, and the file has {", ".join(there)}.'
    )
  known = about['columns']
  used = [n for n in there if n in known or n in about['histories']]
  bags = {n: bag['separator'] for n, bag in about['bags'].items()}
  numbers = [n for n in used if n in about['numbers']]
  empty = {n: known[n]['empty'] for n in numbers if known[n]['has_empty']}
  return _Rows(
    columns={
      n: labels[n]
      if n in labels
      else known[n]['type']
      if n in known
      else 'string'
      for n in there
    },
    empty=empty,
    separator=bags,
    numeric=tuple(numbers),
    delimiter=dialect.delimiter,
    quote=dialect.quote,
    encoding=dialect.encoding,
    nulls=tuple(log.get('nulls', ())),
    header=log['header'],
    known=(*used, *labels),
    needed=tuple(n for n in (about['user'], about['item']) if n),
  )


def _from_json(
  path: pathlib.Path, out: pathlib.Path, kinds: Mapping[str, str]
) -> pathlib.Path:
  """Writes the rows of a JSON file as Parquet; see `from_rows`."""
  try:
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.jsonl':
      rows = [json.loads(line) for line in text.split('\n') if line.strip()]
    else:
      rows = json.loads(text)
      rows = rows if isinstance(rows, list) else [rows]
    if not rows or not all(isinstance(row, dict) for row in rows):
      raise ValueError('needed: objects with the names of the columns')
    pq.write_table(from_rows(rows, kinds), out)
  except (OSError, ValueError, TypeError) as e:
    raise ValueError(f'input={path}: {" ".join(str(e).split())}.') from e
  return out


def from_rows(
  rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]
) -> pa.Table:
  """The table of rows as JSON has them; an id may be an integer.

  Raises:
    ValueError: Names a column whose values are of no one type.
  """
  columns = {}
  for name in dict.fromkeys(name for row in rows for name in row):
    values = [row.get(name) for row in rows]
    if kinds.get(name) == 'string':
      values = [str(v) if type(v) is int else v for v in values]
    try:
      columns[name] = pa.array(values)
    except (ValueError, TypeError, OverflowError) as e:
      raise ValueError(f'column {name!r}: {e}') from e
  return pa.table(columns)


def columns(table: pa.Table) -> dict[str, Any]:
  """Columns as `ClickScorer.score` takes them."""
  found: dict[str, Any] = {}
  for name in table.column_names:
    is_number = pa.types.is_primitive(table[name].type)
    column = table[name]
    found[name] = column.to_numpy() if is_number else column.to_pylist()
  return found
