# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Types of the fields of records, and the checks that all formats share."""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

import numpy as np
import pyarrow as pa


@dataclasses.dataclass(frozen=True)
class Field:
  """Type of one value of a record."""

  dtype: str  # Name of a numpy dtype, or 'str'.
  ndim: int = 0  # 0 for a scalar, 1 for a list, 2 for a list of lists.
  width: int = 0  # For ndim=2, the length each inner list is padded to with -1.

  def arrow_type(self, *, is_padded: bool = False) -> pa.DataType:
    """The Arrow type of the column; inner lists of `width` values if padded."""
    kind = (
      pa.string()
      if self.dtype == 'str'
      else pa.from_numpy_dtype(np.dtype(self.dtype))
    )
    if self.ndim == 2:
      kind = pa.list_(kind, self.width if is_padded else -1)
    return pa.list_(kind) if self.ndim else kind

  def __str__(self) -> str:
    return 'list of ' * self.ndim + self.dtype


Schema = Mapping[str, Field]

# Metadata of files. Of Parquet, JSON: column -> width of the inner lists of a
# 2-D field. Of Arrow: records in a block, the last one may have fewer.
WIDTHS_KEY = b'antjax.widths'
BLOCK_SIZE_KEY = b'antjax.block_size'


def widths(schema: Schema) -> dict[str, int]:
  """Returns the width of each 2-D field."""
  return {n: f.width for n, f in schema.items() if f.ndim == 2}


def arrow_schema(
  schema: Schema,
  *,
  is_padded: bool = False,
  metadata: Mapping[bytes, bytes] | None = None,
) -> pa.Schema:
  """Returns a schema as Arrow's; see `Field.arrow_type`."""
  return pa.schema(
    [(n, f.arrow_type(is_padded=is_padded)) for n, f in schema.items()],
    metadata=metadata,
  )


def schema_to_json(schema: Schema) -> dict[str, dict[str, Any]]:
  """Returns a schema as `dataset.json` holds it."""
  return {name: dataclasses.asdict(field) for name, field in schema.items()}


def schema_from_json(
  value: Mapping[str, Mapping[str, Any]],
) -> dict[str, Field]:
  """Returns the schema that `schema_to_json` wrote."""
  return {name: Field(**field) for name, field in value.items()}


def existing_file(call: str, path: str | os.PathLike[str]) -> str:
  """Returns the path of a file that exists."""
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'{call}: no such file: {path}; launch/prepare_data.py writes it.'
    )
  return path


def damaged(path: str, start: int, stop: int, error: Exception) -> ValueError:
  """Returns the error of records that cannot be read."""
  return ValueError(
    f'{path}: the records {start} to {stop} cannot be read'
    f' ({one_line(error)}): the file is damaged; make it again.'
  )


def check_schema(
  call: str, path: str, schema: Schema, found: Mapping[str, Field]
) -> None:
  """Raises ValueError where a field is missing or of another type."""
  for name, field in schema.items():
    if name not in found:
      raise ValueError(
        f'{call}: {path} has no column {name!r}; it has: {", ".join(found)}.'
      )
    if (found[name].dtype, found[name].ndim) != (field.dtype, field.ndim):
      raise ValueError(
        f'{call}: {path}: column {name!r} is {found[name]}; needed: {field}.'
      )


def field_of(kind: pa.DataType) -> Field:
  """Returns the field of an Arrow type, without its width."""
  ndim = 0
  while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
    kind, ndim = kind.value_type, ndim + 1
  if pa.types.is_string(kind):
    return Field('str', ndim)
  try:
    return Field(np.dtype(kind.to_pandas_dtype()).name, ndim)
  except (NotImplementedError, TypeError):
    return Field(str(kind), ndim)


def one_line(error: BaseException) -> str:
  """Returns an error as one line."""
  return ' '.join(str(error).split())
